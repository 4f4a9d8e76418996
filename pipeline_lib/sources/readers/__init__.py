"""Readers of files that hold many texts, one file each: how such a file is recognised, its options, and what reads it.

A file NAME.py with `READER` is all that another source takes: a dump spec names it, and paths that it recognises need no spec.

A reader yields the texts of a file in a fixed order, one at a time. It raises nothing that an input can cause: what cannot be
read comes out as a `Refusal` with the place where the trouble lies, and the rest is read. Optional packages are imported where
they are used, never at the head of its file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

from pydantic import BaseModel

from pipeline_lib.config.data import ReadLimits, SourceConfig
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import read_whole, without_suffix
from pipeline_lib.sources.first_bytes import kind_of, prose_or_refusal, read_head
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.remote import local_copy
from pipeline_lib.sources.safe_open import Refusal, SourceText, decode, read_source
from pipeline_lib.sources.source_file import CODE_FORMS, COPY_MARK, SourceFile, form_of


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of file that holds many texts.

    Args:
        read: yields the texts of a file, within the limits.
        suffixes: of a file's name, in lower case, by which it is recognised where no spec names the reader and its first bytes
            are of no known kind; behind them may stand what says how it is compressed.
        probe: looks into a file or folder of such a name, or of any where there are no suffixes, and says whether it is one.
        options: what a spec may give besides, with its defaults; `file.options` holds them, checked.
        needs: modules of optional packages (the extra `dumps`).
        describe: place, source's name and options to the one file that stands for a folder, such as a repository.
        numbered: the paths that it gives end in the record's number, so that no two are the same.
    """

    read: Callable[[SourceFile, ReadLimits], Iterator[SourceRecord]]
    suffixes: tuple[str, ...] = ()
    probe: Callable[[str], bool] | None = None
    options: type[BaseModel] | None = None
    needs: tuple[str, ...] = ()
    describe: Callable[[str, str, dict[str, Any]], SourceFile] | None = None
    numbered: bool = False

    def recognises(self, place: str) -> bool:
        """True for a path, glob or URL of this kind, by its name and, on this machine, by what it holds."""
        names = place.lower(), without_suffix(place).lower()
        named = any(name.endswith(self.suffixes) for name in names) if self.suffixes else self.probe is not None
        return named and (self.probe is None or self.probe(place))


@cache
def reader_names() -> tuple[str, ...]:
    """All readers; nothing is imported for it."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


@cache
def reader_of(form: str) -> Reader | None:
    """The reader of a file's form; None where the file is one text. Imported when it is first asked for.

    Raises:
        UserError: a package that it needs is not installed.
    """
    if form not in reader_names():
        return None
    reader = _load(form)
    for module in reader.needs:
        if find_spec(module) is None:
            raise UserError(f"the reader {form} needs {module}, which is not here: pip install 'cpt-factory[dumps]'")
    return reader


def options_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a reader, checked and complete.

    Raises:
        pydantic.ValidationError: an option is wrong.
        UserError: the reader takes none, or a package that it needs is not installed.
    """
    reader = reader_of(name)
    if reader is not None and reader.options is not None:
        return reader.options.model_validate(given).model_dump(mode="json")
    if given:
        raise UserError(f"options: got {', '.join(map(str, given))}, but the reader {name} takes none")
    return {}


def guess(place: str) -> str | None:
    """The name of the reader that recognises a path, glob or URL: by what it holds, on this machine, before its name.

    None for code, prose, and files that look like something that no reader takes.
    """
    if form_of(without_suffix(place)) in _BY_NAME:
        return None
    kind = kind_of(read_head(place, ReadLimits()))
    if kind in reader_names():
        return kind
    if kind and kind != "packed":
        return None
    found = [name for name in reader_names() if _load(name).recognises(place)]
    return max(found, key=lambda name: _load(name).probe is not None, default=None)


# code is told by its name, for it may begin like a page (PHP) or a table; so is prose with marks of its own
_BY_NAME = CODE_FORMS | {"markdown", "restructuredtext"}


def _load(name: str) -> Reader:
    reader: Reader = import_module(f"{__name__}.{name}").READER
    return reader


def texts_of(file: SourceFile, config: SourceConfig) -> Iterator[SourceRecord]:
    """Every text of a file: what its reader finds in it, else the file itself.

    Raises:
        TransientError: the file is not on this machine and its server did not answer.
    """
    with local_copy(file) as here:
        reader = reader_of(file.form)
        if isinstance(here, Refusal):
            yield SourceRecord(file, here)
        elif reader is None:
            yield SourceRecord(file, _read_text(here, config))
        else:
            names = _Names()
            for found in reader.read(here, config.limits):
                own = found if reader.numbered or found.file.path == file.path else names.told_apart(found)
                yield own.changed(group=file.group) if file.one_group else own


def _read_text(file: SourceFile, config: SourceConfig) -> SourceText | Refusal:
    text = _decoded(file, config)
    return text if file.form != "plain" else prose_or_refusal(file, text, config.limits)


def _decoded(file: SourceFile, config: SourceConfig) -> SourceText | Refusal:
    if without_suffix(file.place) == file.place:
        return read_source(file.place, config.max_file_bytes, file.sha256, python=file.form == "python")
    data = read_whole(file.place, config.limits, config.max_file_bytes, file.sha256)
    return data if isinstance(data, Refusal) else decode(data)


class _Names:
    """The paths of a file's texts so far, 8 bytes of hash each: a text whose path an earlier one has gets a number."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.copies: dict[int, int] = {}  # of paths that came again: the last number given

    def told_apart(self, found: SourceRecord) -> SourceRecord:
        """The text under a path of its own; a refusal as it is, for no row of a table is named by it."""
        path = found.file.path
        if isinstance(found.content, Refusal) or self._is_new(path):
            return found
        first = _short_hash(path)
        number = self.copies.get(first, 1) + 1
        while not self._is_new(f"{path}{COPY_MARK}{number}"):
            number += 1
        self.copies[first] = number
        return found.changed(path=f"{path}{COPY_MARK}{number}")

    def _is_new(self, path: str) -> bool:
        key = _short_hash(path)
        if key in self.known:
            return False
        self.known.add(key)
        return True


def _short_hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()[:8], "big")
