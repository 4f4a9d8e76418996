"""Folders of code and prose: the files that are read, as what and in which group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.sources.source_file import Form, SourceFile, form_of

SKIPPED_FOLDERS = frozenset(
    {
        ".git", ".hg", ".svn", ".bzr", "CVS",
        ".venv", "venv", ".env", "env", "virtualenv", "node_modules", "site-packages", "dist-packages",
        "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".eggs", ".cache",
        ".ipynb_checkpoints", ".idea", ".vscode",
    }
)  # fmt: skip


def list_tree(folder: str) -> list[SourceFile]:
    """The files of a folder that hold code or prose, by path.

    The group is the top-level sub-folder, or the folder itself for files at its top. Symbolic links are never followed.

    Raises:
        UserError: the folder is missing, is none, cannot be read, or holds nothing to read.
    """
    root = readable_folder(folder)
    name = valid_name(root.name) or "root"
    files = [describe(place, path, name, path.split("/")[0] if "/" in path else name) for place, path in walk(str(root))]
    if not files:
        read = ".py, .js, .java, .go, .php, .rb, .md, .rst, .txt"
        raise UserError(f"source folder {folder}: no code or prose in it ({read}); give another folder")
    return files


def readable_folder(folder: str) -> Path:
    """The path of a source folder, `~` and links resolved.

    Raises:
        UserError: it is missing, is none or cannot be read.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise UserError(f"source folder {folder}: there is no such folder; give an existing one")
    if not root.is_dir():
        raise UserError(f"source folder {folder}: this is a file; give the folder that holds it")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"source folder {folder}: permission denied; make it readable (chmod u+rx) or give another one")
    return root.resolve()


def walk(
    root: str, skipped: frozenset[str] = SKIPPED_FOLDERS, wanted: Callable[[str], Form | None] = form_of
) -> Iterator[tuple[str, str]]:
    """(place, path below the root) of every regular file whose name is of a wanted form, sorted; links are not followed."""
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            yield folder, prefix.rstrip("/")  # one row in the quarantine for the whole sub-folder
            continue
        folders = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in skipped and not (Path(entry.path) / "pyvenv.cfg").exists():
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
            elif entry.is_file(follow_symlinks=False) and wanted(entry.name) is not None:
                yield entry.path, prefix + entry.name
        pending.extend(reversed(folders))


def describe(place: str, path: str, source: str, group: str, licence: str | None = None) -> SourceFile:
    """The record of one file, with the hash of its content; the hash is empty where it cannot be read."""
    try:
        # a listed sub-folder that cannot be read fails here too, and in the same way when it is to be extracted
        with open(place, "rb", opener=_open_no_follow) as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = os.fstat(stream.fileno()).st_size
    except OSError:
        sha256, size = "", 0
    return SourceFile(
        place=place,
        path=valid_name(path),
        source=source,
        group=valid_name(group),
        licence=licence,
        form=form_of(path) or "plain",
        bytes=size,
        sha256=sha256,
    )


def valid_name(name: str) -> str:
    """A file name as valid Unicode: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
