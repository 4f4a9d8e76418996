"""Captures of URLs in one web archive: which of them are read, and the texts that revisits refer to."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import numpy as np

from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.web.records import WebRecord

_DATE_DIGITS = 18  # as many as 64 bits hold: to the 10,000th part of a second
_SECOND_DIGITS = 14
_HELD_BYTES = 16 * 1024**2  # of texts that revisits refer to; more lie on the disk


@dataclass
class Captures:
    """What one pass over an archive found.

    Attributes:
        left_out: for each record, by its number in the file, whether another capture of its URL is read in its place; none
            behind the last one that is left out.
        wanted: keys of pages that a revisit in the file refers to.
    """

    left_out: bytes = b""
    wanted: frozenset[int] = frozenset()

    def leaves_out(self, number: int) -> bool:
        """True where a record is not the capture of its URL that is read."""
        return number < len(self.left_out) and self.left_out[number] != 0

    def original(self, revisit: WebRecord) -> int | None:
        """The key under which the page of a revisit is found; None where the file does not hold it."""
        return next((key for key in revisit_keys(revisit) if key in self.wanted), None)


@dataclass
class _Seen:
    """Columns of 64-bit numbers, one row a page or revisit."""

    number: array[int] = field(default_factory=lambda: array("Q"))
    url: array[int] = field(default_factory=lambda: array("Q"))
    date: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, number: int, record: WebRecord) -> None:
        self.number.append(number)
        self.url.append(_hash(record.url))
        self.date.append(int(_digits(record, "warc-date")[:_DATE_DIGITS].ljust(_DATE_DIGITS, "0")))


def survey(records: Iterable[WebRecord | Refusal], rule: str, is_page: Callable[[WebRecord], bool]) -> Captures:
    """Look at all records of a file once.

    Args:
        rule: `latest`, `first` or `all` captures of a URL, by their date, then by their place in the file.
        is_page: whether a record holds a page: what does not is no capture.
    """
    pages, revisits = _Seen(), _Seen()
    page_key, revisit_key, owner = array("Q"), array("Q"), array("Q")  # owner: the row of the revisit that a key is of
    for index, record in enumerate(records):
        if isinstance(record, Refusal):
            continue
        if record.kind == "revisit":
            keys = revisit_keys(record)
            revisit_key.extend(keys)
            owner.extend([len(revisits.number)] * len(keys))
            revisits.add(index, record)
        elif is_page(record):
            page_key.extend(page_keys(record))
            pages.add(index, record)
    there = np.isin(_numbers(revisit_key), _numbers(page_key)) if revisit_key else np.zeros(0, dtype=np.bool_)
    wanted = frozenset(_numbers(revisit_key)[there].tolist())
    resolved = np.unique(_numbers(owner)[there]).astype(np.int64)
    del page_key
    return Captures(b"" if rule == "all" else _left_out(pages, revisits, resolved, rule), wanted)


def _left_out(pages: _Seen, revisits: _Seen, resolved: np.ndarray, rule: str) -> bytes:
    """The mask of the records that are not their URL's capture."""
    number, url, date = (
        np.concatenate([_numbers(getattr(pages, name)), _numbers(getattr(revisits, name))[resolved]])
        for name in ("number", "url", "date")
    )
    order = np.lexsort((number, date, url))
    number, url = number[order], url[order]
    again = url[1:] == url[:-1]
    found = (number[:-1] if rule == "latest" else number[1:])[again]
    mask = np.zeros(int(found.max()) + 1 if found.size else 0, dtype=np.uint8)
    mask[found.astype(np.int64)] = 1
    return mask.tobytes()


def page_keys(page: WebRecord) -> list[int]:
    """Keys by which a revisit may refer to a page."""
    return _keys(page, "warc-record-id", "warc-target-uri", "warc-date")


def revisit_keys(revisit: WebRecord) -> list[int]:
    """Keys of the page that a revisit refers to, the surest first."""
    return _keys(revisit, "warc-refers-to", "warc-refers-to-target-uri", "warc-refers-to-date")


def _keys(record: WebRecord, name: str, url: str, date: str) -> list[int]:
    fields = record.fields
    keys = []
    if fields.get(name):
        keys.append(_hash(f"id {fields[name].strip('<> ')}"))
    if fields.get("warc-payload-digest"):
        keys.append(_hash(f"digest {fields['warc-payload-digest'].lower().rstrip('=')}"))
    if fields.get(url) and fields.get(date):
        keys.append(_hash(f"url {fields[url].strip('<> ')} {_digits(record, date)[:_SECOND_DIGITS]}"))
    return keys


def _digits(record: WebRecord, name: str) -> str:
    return "".join(character for character in record.fields.get(name, "") if character in "0123456789")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _numbers(column: array[int]) -> np.ndarray:
    return np.frombuffer(column, dtype=np.uint64) if column else np.zeros(0, dtype=np.uint64)


class Spool:
    """Texts that revisits will ask for, by key, and why there is none; beyond a bound they lie on the disk."""

    def __init__(self) -> None:
        self.file = SpooledTemporaryFile(max_size=_HELD_BYTES)  # noqa: SIM115 - closed by __exit__
        self.places: dict[int, tuple[int, int] | Refusal] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def put(self, keys: Iterable[int], text: str | Refusal) -> None:
        """Keep a page's text, or the refusal of it, under its keys; the first page of a key stays."""
        place: tuple[int, int] | Refusal
        if isinstance(text, Refusal):
            place = text
        else:
            data = text.encode("utf-8", "surrogatepass")
            place = (self.file.seek(0, 2), len(data))
            self.file.write(data)
        for key in keys:
            self.places.setdefault(key, place)

    def get(self, key: int) -> str | Refusal | None:
        """The text under a key; None where no page came yet."""
        place = self.places.get(key)
        if place is None or isinstance(place, Refusal):
            return place
        self.file.seek(place[0])
        return self.file.read(place[1]).decode("utf-8", "surrogatepass")
