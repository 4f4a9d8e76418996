"""Which reader opens which container: a file that holds many texts. A new one is one file and one line here.

A reader yields what it finds as files of their own, in a fixed order, holding one text at a time. It raises nothing that an
input can cause: what cannot be read comes out as a `Refusal` with the place where the trouble lies, and the rest is read.
A reader with options declares them as a pydantic model `Options` in its module; it gets them checked, in `file.options`.

What a reader of records hands on: one record's text as a file of its own inside its container.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel

from pipeline_lib.config.data import ReadLimits, SourceConfig
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import read_whole, without_suffix
from pipeline_lib.sources.remote import local_copy
from pipeline_lib.sources.safe_open import Refusal, SourceText, decode, read_source
from pipeline_lib.sources.source_file import COPY_MARK, DIGEST_MARK, Form, SourceFile


class Found(NamedTuple):
    """One text inside a container, or why it could not be read.

    `file` is the container's record with what is the text's own: path (the container's, "!" and the record's name, member
    or URL; no two texts of a container have the same), form, group, licence, the sha256 and the length of its bytes.
    """

    file: SourceFile
    content: SourceText | Refusal


Reader = Callable[[SourceFile, ReadLimits], Iterator[Found]]

_READERS: dict[str, str] = {
    "html": "pipeline_lib.sources.html:read_html",
    "warc": "pipeline_lib.sources.warc:read_warc",
    "mediawiki": "pipeline_lib.sources.mediawiki:read_mediawiki",
    "json_lines": "pipeline_lib.sources.records:read_json_lines",
    "parquet": "pipeline_lib.sources.records:read_parquet",
    "archive": "pipeline_lib.sources.archives:read_archive",
    "git": "pipeline_lib.sources.git:read_repository",
    "code_search_net": "pipeline_lib.sources.code_search_net:read_records",
}

_LINED: frozenset[Form] = frozenset({"json_lines", "parquet"})  # the path of each record ends in its line


def reader_of(form: Form) -> Reader | None:
    """The reader of a container's form; None where the file is one text. Imported when it is first asked for."""
    place = _READERS.get(form)
    if place is None:
        return None
    module, _, name = place.partition(":")
    reader: Reader = getattr(_load(form, module), name)
    return reader


def options_of(reader: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a reader, checked and complete: those of the pydantic model `Options` of its module.

    Raises:
        pydantic.ValidationError: an option is wrong.
        UserError: the reader takes none, or cannot be loaded.
    """
    place = _READERS.get(reader)
    options = None
    if place is not None:
        options = getattr(_load(reader, place.partition(":")[0]), "Options", None)
    if options is None:
        if given:
            raise UserError(f"options: got {', '.join(map(str, given))}, but the reader {reader} takes none")
        return {}
    checked: BaseModel = options.model_validate(given)
    return checked.model_dump(mode="json")


def texts_of(file: SourceFile, config: SourceConfig) -> Iterator[Found]:
    """Every text of a file: of a container what its reader finds, else the file itself.

    Raises:
        TransientError: the file is not on this machine and its server did not answer.
    """
    with local_copy(file) as here:
        reader = reader_of(file.form)
        if isinstance(here, Refusal):
            yield Found(file, here)
        elif reader is None:
            yield Found(file, _read_text(here, config))
        else:
            names = _Names()
            for found in reader(here, config.limits):
                own = found if file.form in _LINED or found.file.path == file.path else names.told_apart(found)
                yield _in_one_group(own, file.group) if file.one_group else own


class _Names:
    """The paths of a container's texts so far, 8 bytes of hash each: a text whose path an earlier one has gets a number."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.copies: dict[int, int] = {}  # of paths that came again: the last number given

    def told_apart(self, found: Found) -> Found:
        """The text under a path of its own; a refusal as it is, for no row of a table is named by it."""
        path = found.file.path
        if isinstance(found.content, Refusal) or self._is_new(path):
            return found
        first = _short_hash(path)
        number = self.copies.get(first, 1) + 1
        while not self._is_new(f"{path}{COPY_MARK}{number}"):
            number += 1
        self.copies[first] = number
        return Found(found.file.model_copy(update={"path": f"{path}{COPY_MARK}{number}"}), found.content)

    def _is_new(self, path: str) -> bool:
        key = _short_hash(path)
        if key in self.known:
            return False
        self.known.add(key)
        return True


def _short_hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _read_text(file: SourceFile, config: SourceConfig) -> SourceText | Refusal:
    if without_suffix(file.place) == file.place:
        return read_source(file.place, config.max_file_bytes, file.sha256, python=file.form == "python")
    data = read_whole(file.place, config.limits, config.max_file_bytes, file.sha256)
    return data if isinstance(data, Refusal) else decode(data)


def _in_one_group(found: Found, group: str) -> Found:
    return Found(found.file.model_copy(update={"group": group}), found.content)


def _load(reader: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the reader {reader} needs {error.name}, which is not here: pip install 'cpt-factory[dumps]'"
        ) from error


_NAME_CHARACTERS = 500  # a URL may be of any length, and stands in every row
_DIGEST_DIGITS = 16


def found_text(
    container: SourceFile, name: str, content: str | Refusal, limits: ReadLimits, mark: str = "", **own: Any
) -> Found:
    """A record as it was found.

    Args:
        name: of the record: its URL, title or id.
        content: its text, or why there is none. NUL bytes and unpaired surrogates, which escapes can make, are refused.
        mark: stands behind the name, such as the record's line.
        own: what is the record's own among group, licence and form.
    """
    text = as_text(content, limits) if isinstance(content, str) else content
    data = text.data if isinstance(text, SourceText) else b""
    changes: dict[str, Any] = {key: shown(value) for key, value in own.items() if value}
    changes |= {
        "path": f"{container.path}!{address(name)}{mark}",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Found(container.model_copy(update=changes), text)


def as_text(text: str, limits: ReadLimits) -> SourceText | Refusal:
    """A string of unknown origin as text: valid Unicode without NUL, its newlines folded, no longer than the limit."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > limits.max_text_bytes:
        return too_large(len(data), limits)
    return decode(data)


def too_large(size: int, limits: ReadLimits) -> Refusal:
    """The refusal of a text that is longer than the limit (bytes)."""
    return Refusal("file_too_large", f"{size} bytes, at most {limits.max_text_bytes} are read")


def address(name: str) -> str:
    """A record's name as a path that no other name has: one that cannot be shown whole ends in a digest of all of it."""
    short = shown(name)
    if short == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{short}{DIGEST_MARK}{digest}"


def shown(name: str) -> str:
    """A name that any table can hold: on one line, valid Unicode, not endless."""
    return " ".join(name[:_NAME_CHARACTERS].replace("\0", " ").encode("utf-8", "replace").decode().split())
