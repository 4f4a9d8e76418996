"""Folders of code and prose: the files that are read, as what, in which group, and what is left out for which reason."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.sources.licences import HEAD_BYTES, MAX_STATEMENT_BYTES, Licences
from pipeline_lib.sources.source_file import Form, SourceFile, form_of

# folder's name to the reason that its files are counted by
_SKIPPED = {
    **dict.fromkeys((".git", ".hg", ".svn", ".bzr", "CVS"), "version_control"),
    **dict.fromkeys(
        (".venv", "venv", ".env", "env", "virtualenv", "node_modules", "site-packages", "dist-packages", ".eggs"),
        "vendored_folder",
    ),
    **dict.fromkeys(
        ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".cache",
         ".ipynb_checkpoints", ".idea", ".vscode"),
        "tool_folder",
    ),
}  # fmt: skip
SKIPPED_FOLDERS = frozenset(_SKIPPED)
# suffixes of programming languages that no grammar is here for
_OTHER_LANGUAGES = frozenset(
    (  # noqa: SIM905 - a list of a hundred lines
        ".ts .tsx .mts .cts .jsx .vue .svelte .coffee .c .h .cc .cpp .cxx .hh .hpp .hxx .inl .cu .cuh .m .mm .cs .fs .fsx .vb"
        " .rs .swift .kt .kts .scala .sc .groovy .gradle .clj .cljs .cljc .ex .exs .erl .hrl .hs .lhs .ml .mli .elm .lua .pl"
        " .pm .t .r .jl .dart .nim .zig .d .v .sv .vhd .vhdl .f .f90 .f95 .for .pas .pp .ada .adb .ads .asm .s .sh .bash .zsh"
        " .fish .ps1 .bat .cmd .sql .tcl .lisp .el .scm .rkt .cob .cbl .pyx .pxd .pyi .ipynb .proto .thrift .cr .hx .sol .wat"
        " .gd .awk .cmake"
    ).split()
)
_MAX_SUFFIXES = 200  # counted apart; names may end in anything, such as a hash
_SUFFIX = re.compile(r"^\.[a-z0-9_+-]{1,11}$")


class Skips(Counter[tuple[str, str]]):
    """Files that a tree, an archive or a repository holds and that are not read, by reason and suffix."""

    def note(self, path: str, reason: str = "", n: int = 1) -> None:
        """Count a file, or the folder that stands for its files, by the reason that its path tells unless one is given."""
        reason = reason or skip_reason(path)
        if reason == "tool_folder":  # caches come and go with every run, and hold nothing that is not made from what is read
            return
        suffix = _suffix(path)
        key = (reason, suffix if _SUFFIX.match(suffix) else "(other)" if suffix else "(none)")
        self[key if key in self or len(self) < _MAX_SUFFIXES else (key[0], "(other)")] += n

    def by_reason(self) -> dict[str, int]:
        """Files by reason, sorted."""
        reasons: Counter[str] = Counter()
        for (reason, _), count in self.items():
            reasons[reason] += count
        return dict(sorted(reasons.items()))

    def facts(self) -> dict[str, dict[str, int]]:
        """Files by reason and suffix, the most frequent first: how a manifest has them."""
        found: dict[str, dict[str, int]] = {reason: {} for reason in self.by_reason()}
        for (reason, suffix), count in sorted(self.items(), key=lambda item: (-item[1], item[0])):
            found[reason][suffix] = count
        return found

    @classmethod
    def of(cls, facts: Mapping[str, Mapping[str, int]]) -> Skips:
        """The skips that a manifest has."""
        return cls({(reason, suffix): n for reason, suffixes in facts.items() for suffix, n in suffixes.items()})

    def sentence(self) -> str:
        """What was left out, in words for a terminal; empty where nothing was."""
        parts = []
        for reason, suffixes in sorted(self.facts().items(), key=lambda item: (-sum(item[1].values()), item[0])):
            shown = ", ".join(f"{suffix} {count:,}" for suffix, count in list(suffixes.items())[:_SUFFIXES_SHOWN])
            more = ", ..." if len(suffixes) > _SUFFIXES_SHOWN else ""
            parts.append(f"{reason} {sum(suffixes.values()):,} ({shown}{more})")
        return f"{self.total():,} files are not read: {'; '.join(parts)}" if parts else ""


_SUFFIXES_SHOWN = 4


def skip_reason(path: str) -> str:
    """Why a file of that path is not read, for one that is not."""
    for folder in path.split("/")[:-1]:
        if folder in _SKIPPED:
            return _SKIPPED[folder]
    suffix = _suffix(path)
    if suffix in _OTHER_LANGUAGES or form_of(f"x{suffix}") in ("javascript", "java", "go", "php", "ruby"):
        return "other_language"  # the latter in a Python installation
    return "licence_or_list" if form_of(f"x{suffix}") else "no_code_or_prose"


def _suffix(path: str) -> str:
    stem, dot, suffix = path.rsplit("/", 1)[-1].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def list_tree(folder: str, skips: Skips | None = None, more: tuple[Form, ...] = ()) -> list[SourceFile]:
    """The files of a folder that hold code or prose, by path, each with its licence as far as the folder states one.

    The group is the top-level sub-folder, or the folder itself for files at its top. Symbolic links are never followed.

    Args:
        skips: counts what is left out.
        more: forms that are read beside those that are read in every source.

    Raises:
        UserError: the folder is missing, is none, cannot be read, or holds nothing to read.
    """
    root = readable_folder(folder)
    name = valid_name(root.name) or "root"
    licences = Licences()
    found = list(walk(str(root), wanted=partial(form_of, more=more), skips=skips, licences=licences))
    files = [describe(place, path, name, path.split("/")[0] if "/" in path else name, licences, more) for place, path in found]
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
    root: str,
    skipped: frozenset[str] = SKIPPED_FOLDERS,
    wanted: Callable[[str], Form | None] = form_of,
    skips: Skips | None = None,
    licences: Licences | None = None,
) -> Iterator[tuple[str, str]]:
    """(place, path below the root) of every regular file whose name is of a wanted form, sorted; links are not followed.

    Args:
        skips: counts what is left out, files of skipped folders too; of version control a folder as one.
        licences: told of the manifests and licence files on the way. All are known when the walk is over.
    """
    skips = Skips() if skips is None else skips
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
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if reason := _folder_reason(entry, skipped):
                    _note_folder(entry.path, path, reason, skips)
                else:
                    folders.append((entry.path, f"{path}/"))
            elif not entry.is_file(follow_symlinks=False):
                skips.note(path, "link" if entry.is_symlink() else "not_a_file")
            elif wanted(entry.name) is not None:
                yield entry.path, path
            else:
                skips.note(path)
            if licences is not None and licences.is_statement(path) and entry.is_file(follow_symlinks=False):
                licences.add(valid_name(path), _statement(entry.path))
        pending.extend(reversed(folders))


def _folder_reason(entry: os.DirEntry[str], skipped: frozenset[str]) -> str:
    if (Path(entry.path) / "pyvenv.cfg").exists():
        return "vendored_folder"
    return _SKIPPED.get(entry.name, "test_folder") if entry.name in skipped else ""


def _note_folder(place: str, path: str, reason: str, skips: Skips) -> None:
    if reason in ("tool_folder", "version_control"):
        skips.note(path, reason)
        return
    for _, _, names in os.walk(place):
        for name in names:
            skips.note(name, reason)


def _statement(place: str) -> bytes:
    """The bytes of a manifest or licence file, one more than are looked at; none where it cannot be read."""
    try:
        with open(place, "rb", opener=_open_no_follow) as stream:
            return stream.read(MAX_STATEMENT_BYTES + 1)
    except OSError:
        return b""


def describe(
    place: str, path: str, source: str, group: str, licence: str | Licences | None = None, more: tuple[Form, ...] = ()
) -> SourceFile:
    """The record of one file, with the hash of its content; the hash is empty where it cannot be read.

    Args:
        licence: or what tells it from the file's head and its folders.
    """
    head = b""
    try:
        # a listed sub-folder that cannot be read fails here too, and in the same way when it is to be extracted
        with open(place, "rb", opener=_open_no_follow) as stream:
            if isinstance(licence, Licences):
                head = stream.read(HEAD_BYTES)
                stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = os.fstat(stream.fileno()).st_size
    except OSError:
        sha256, size = "", 0
    return SourceFile(
        place=place,
        path=valid_name(path),
        source=source,
        group=valid_name(group),
        licence=licence.of(valid_name(path), head) if isinstance(licence, Licences) else licence,
        form=form_of(path, more) or "plain",
        bytes=size,
        sha256=sha256,
    )


def valid_name(name: str) -> str:
    """A file name as valid Unicode: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
