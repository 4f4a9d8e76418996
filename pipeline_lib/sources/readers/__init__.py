"""Readers of files that hold many texts, one file each: how such a file is recognised, its options, and what reads it.

A file NAME.py with `READER` is all that another source takes: a dump spec names it, and paths that it recognises need no spec.

A reader yields the texts of a file in a fixed order, one at a time. A text that cannot be read comes out as a `Refusal` with
the place where the trouble lies, and the rest is read. Where the file itself ends early, the reader raises `Unreadable`, or
it yields a refusal under the file's own path and goes on behind the gap: `texts_of` makes either a `DataLoss` that says its
cost, and all that came before is kept. Optional packages are imported where they are used, never at the head of its file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import tee
from pkgutil import iter_modules
from typing import Any

import numpy as np
from pydantic import BaseModel

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import Unreadable, read_whole, reading, without_suffix
from pipeline_lib.sources.first_bytes import heads_of, kind_of, prose_or_refusal, read_head
from pipeline_lib.sources.licences import HEAD_BYTES, spdx_header
from pipeline_lib.sources.records import DataLoss, SourceRecord
from pipeline_lib.sources.remote import is_remote, local_copy
from pipeline_lib.sources.safe_open import Refusal, decode, read_source
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
        one_text: a file is one text, whose refusal is no loss of a container.
    """

    read: Callable[[SourceFile, ReadLimits], Iterator[SourceRecord]]
    suffixes: tuple[str, ...] = ()
    probe: Callable[[str], bool] | None = None
    options: type[BaseModel] | None = None
    needs: tuple[str, ...] = ()
    describe: Callable[[str, str, dict[str, Any]], SourceFile] | None = None
    numbered: bool = False
    one_text: bool = False

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


def guess(place: str, head: bytes | None = None) -> str | None:
    """The name of the reader that recognises a path, glob or URL: by what it holds before its name.

    None for code, prose, and files that look like something that no reader takes.

    Args:
        head: the file's first bytes, decompressed, where they are known.

    Raises:
        TransientError: the file is not on this machine and its server did not answer.
    """
    if is_told_by_name(place):
        return None
    kind = kind_of(read_head(place, ReadLimits()) if head is None else head)
    if kind in reader_names():
        return kind
    if kind and kind != "packed":
        return None
    found = [name for name in reader_names() if _load(name).recognises(place)]
    return max(found, key=lambda name: _load(name).probe is not None, default=None)


def guesses(places: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each place and the reader that recognises it, as `guess` says; what is remote is looked at many files at a time."""
    limits = ReadLimits()
    told, others = tee(places)
    heads = heads_of((place for place in others if not is_told_by_name(place)), limits)
    for place in told:
        yield place, None if is_told_by_name(place) else guess(place, next(heads)[1])


def is_told_by_name(place: str) -> bool:
    """True for code and for prose with marks of its own, which are not looked into."""
    return form_of(without_suffix(place)) in _BY_NAME


# code is told by its name, for it may begin like a page (PHP) or a table; so is prose with marks of its own
_BY_NAME = CODE_FORMS | {"markdown", "restructuredtext"}


def _load(name: str) -> Reader:
    reader: Reader = import_module(f"{__name__}.{name}").READER
    return reader


def is_container(file: SourceFile) -> bool:
    """True where a file holds many texts."""
    reader = reader_of(file.form)
    return reader is not None and not reader.one_text


def texts_of(file: SourceFile, config: SourceConfig) -> Iterator[SourceRecord]:
    """Every text of a file: what its reader finds in it, else the file itself; and a `DataLoss` for each part that is not read.

    A file that is another than was listed ends in the loss `content_changed`: nothing that came of it may be used.

    Raises:
        TransientError: the file is not on this machine and its server did not answer.
    """
    with local_copy(file) as here:
        reader = reader_of(file.form)
        one_text = reader is None or reader.one_text
        if isinstance(here, Refusal):
            yield SourceRecord(file, here) if one_text else DataLoss(file, replace(here, lost_bytes=file.bytes))
        elif reader is None or reader.one_text:
            yield from _one_text(_with_its_licence(here, config) if is_remote(file.place) else here, reader, config)
        elif not file.bytes and file.sha256:
            yield DataLoss(file, Refusal("file_empty", "0 bytes: get the file again", 0, 0))
        else:
            yield from _Container(here, reader, config.limits).records()


def _with_its_licence(file: SourceFile, config: SourceConfig) -> SourceFile:
    """The file with the licence of its own header, which nobody looked into when it was listed: it was not here."""
    stated = spdx_header(read_head(file.place, config.limits, HEAD_BYTES))
    return file.model_copy(update={"licence": stated}) if stated else file


def _one_text(file: SourceFile, reader: Reader | None, config: SourceConfig) -> Iterator[SourceRecord]:
    if reader is not None:
        yield from reader.read(file, config.limits)
        return
    text = read_source(file.place, config.max_file_bytes, file.sha256, python=file.form == "python")
    if without_suffix(file.place) != file.place or isinstance(text, Refusal):  # the first bytes may tell more of a refused one
        data = read_whole(file.place, config.limits, config.max_file_bytes, file.sha256)
        text = data if isinstance(data, Refusal) else decode(data, file.form == "python", file.form not in CODE_FORMS)
    yield SourceRecord(file, text if file.form != "plain" else prose_or_refusal(file, text, config.limits))


class _Container:
    """A file of many texts while it is read: what it gives, what it lost, and how much that is."""

    def __init__(self, file: SourceFile, reader: Reader, limits: ReadLimits) -> None:
        self.file, self.reader, self.limits = file, reader, limits
        self.names = _Names()

    def records(self) -> Iterator[SourceRecord]:
        """The texts, each under a path of its own, and the losses, each once its cost is known."""
        with reading(self.file.place, self.file.sha256) as state:
            gap: Refusal | None = None
            before = 0  # where in the file the reading stood when it gave the last text, or came to the end of a gap
            for found in self._found():
                if gap is not None:
                    yield self._loss(gap, state.position - before)
                    before, gap = state.position, None
                if isinstance(found, Refusal):
                    gap = found
                else:
                    before = state.position
                    yield found
            if gap is not None:  # of a file that was cut nobody knows how much is missing
                yield self._loss(gap, self.file.bytes if gap.reason == "truncated" else self.file.bytes - before)
            if (changed := state.changed()) is not None:
                yield self._loss(changed, self.file.bytes)

    def _found(self) -> Iterator[SourceRecord | Refusal]:
        """The texts; and why there is a gap, or an end."""
        most = self.limits.max_members
        try:
            for count, found in enumerate(self.reader.read(self.file, self.limits), 1):
                if most is not None and count > most:
                    yield Refusal("too_many_members", f"more than {most}; see source.limits.max_members")
                    return
                if found.file.path == self.file.path and isinstance(found.content, Refusal):
                    yield found.content
                    continue
                own = found if self.reader.numbered else self.names.told_apart(found)
                yield own.changed(group=self.file.group) if self.file.one_group else own
        except Unreadable as error:
            yield error.refusal

    def _loss(self, refusal: Refusal, read_past: int) -> DataLoss:
        lost = read_past if refusal.lost_bytes is None else refusal.lost_bytes
        return DataLoss(self.file, replace(refusal, lost_bytes=max(0, min(lost, self.file.bytes))))


_FRESH_NAMES = 1 << 18  # 25 MB as a set; the others take 8 bytes each: 160 MB for 20 million
_MOST_COPIES = 1 << 20


class _Names:
    """The paths of a file's texts so far, 8 bytes of hash each: a text whose path an earlier one has gets a number."""

    def __init__(self) -> None:
        self.fresh: set[int] = set()
        self.sorted = np.empty(0, np.uint64)  # all before those
        self.copies: dict[int, int] = {}  # of paths that came again: the last number given, where it is still known

    def told_apart(self, found: SourceRecord) -> SourceRecord:
        """The text under a path of its own; a refusal as it is, for no row of a table is named by it."""
        path = found.file.path
        if isinstance(found.content, Refusal) or self._is_new(path):
            return found
        first = _short_hash(path)
        number = self.copies.get(first, 1) + 1
        while not self._is_new(f"{path}{COPY_MARK}{number}"):
            number += 1
        if len(self.copies) >= _MOST_COPIES:
            self.copies.clear()
        self.copies[first] = number
        return found.changed(path=f"{path}{COPY_MARK}{number}")

    def _is_new(self, path: str) -> bool:
        key = _short_hash(path)
        if key in self.fresh:
            return False
        if self.sorted.size:
            at = int(self.sorted.searchsorted(np.uint64(key)))
            if at < self.sorted.size and int(self.sorted[at]) == key:
                return False
        self.fresh.add(key)
        if len(self.fresh) >= _FRESH_NAMES:
            self.sorted = np.concatenate([self.sorted, np.fromiter(self.fresh, np.uint64, len(self.fresh))])
            self.sorted.sort()
            self.fresh.clear()
        return True


def _short_hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()[:8], "big")
