"""The files that a dump spec names, on this machine or not, each with what tells its content."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import without_suffix
from pipeline_lib.sources.dump_spec import DumpSource
from pipeline_lib.sources.remote import is_remote, list_url
from pipeline_lib.sources.source_file import Form, SourceFile, member_form_of
from pipeline_lib.sources.source_tree import SKIPPED_FOLDERS, describe, shown, walk

_TEXT_FORMS: dict[str, Form] = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
    ".html": "html",
    ".htm": "html",
}


def list_dump(sources: Sequence[DumpSource]) -> list[SourceFile]:
    """Every file of every source.

    Raises:
        UserError: a source is missing, cannot be read or holds nothing for its reader.
        TransientError: a server did not answer.
    """
    return [file for source in sources for file in list_source(source)]


def list_source(source: DumpSource) -> list[SourceFile]:
    """Every file of one source, by path. Raises as `list_dump` does."""
    if source.reader == "git":
        files = [_repository(source)]
    else:
        files = list(_remote_files(source) if is_remote(source.url) else _local_files(source))
    if not files:
        raise UserError(f"source {source.name}: nothing for the reader {source.reader} at {source.url}; mend its url or reader")
    given = {"licence": source.licence, "weight": source.weight, "options": source.options}
    given |= {"group": source.group, "one_group": True} if source.group else {}
    return [file.model_copy(update=given) for file in files]


def _local_files(source: DumpSource) -> Iterator[SourceFile]:
    folder = Path(source.url)
    if folder.is_dir():
        _refuse_folder(source)
        wanted = member_form_of if source.reader == "tree" else _text_form
        for place, path in walk(str(folder.resolve()), wanted=wanted):
            yield _described(source, place, path, wanted(path))
        return
    if folder.exists():
        places, root = [source.url], str(folder.parent)
    else:
        places, root = sorted(set(glob.glob(source.url, recursive=True))), _fixed_folder(source.url)  # noqa: PTH207 - absolute
    for place in places:
        if not os.path.isdir(place):  # noqa: PTH112 - a string that may hold bytes that are no UTF-8
            path = os.path.relpath(place, root)
            yield _described(source, os.path.abspath(place), path, _form(source, path))  # noqa: PTH100


def _remote_files(source: DumpSource) -> Iterator[SourceFile]:
    folder, files = list_url(source.url)
    if folder:
        _refuse_folder(source)
    for file in files:
        wanted = member_form_of if source.reader == "tree" else _text_form
        form = wanted(file.path) if folder else _form(source, file.path)
        if form is None or not SKIPPED_FOLDERS.isdisjoint(file.path.split("/")[:-1]):
            continue
        yield SourceFile(
            place=file.url,
            path=file.path,
            source=source.name,
            group=_group(source, file.path),
            licence=source.licence,
            form=form,
            bytes=file.bytes,
            sha256=file.identity,
        )


def _repository(source: DumpSource) -> SourceFile:
    from pipeline_lib.sources.git_repository import describe_repository

    if is_remote(source.url):
        raise UserError(f"source {source.name}: {source.url}: a repository is read from disk; `git clone --bare` it first")
    return describe_repository(source.url, source.name, source.options.get("revision", "HEAD"))


def _described(source: DumpSource, place: str, path: str, form: Form | None) -> SourceFile:
    file = describe(place, path, source.name, _group(source, path), source.licence)
    return file.model_copy(update={"form": form or "plain"})


def _form(source: DumpSource, path: str) -> Form:
    """What a file is that was named by itself or by a glob: the reader's word counts, not the suffix."""
    if source.reader == "tree":
        return member_form_of(path) or "plain"
    if source.reader == "text":
        return _text_form(path) or "plain"
    return source.reader


def _text_form(path: str) -> Form | None:
    return _TEXT_FORMS.get(Path(without_suffix(path)).suffix.lower())


def _group(source: DumpSource, path: str) -> str:
    """A folder of a tree is a group, as a file of texts is; a container's texts may get groups of their own."""
    if source.reader == "tree":
        return shown(path.split("/", maxsplit=1)[0] if "/" in path else source.name)
    return shown(path)


def _refuse_folder(source: DumpSource) -> None:
    if source.reader not in ("tree", "text"):
        raise UserError(
            f"source {source.name}: {source.url} is a folder; the reader {source.reader} takes files: give a glob such as"
            f" {source.url.rstrip('/')}/*"
        )


def _fixed_folder(pattern: str) -> str:
    """The folders of a glob before its first wild card."""
    parts = pattern.split("/")
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"
