"""Stack Exchange dumps (Posts.xml, Comments.xml): a post a row, its HTML as prose, its question as group.

A row is one element with attributes alone, so that each is parsed by itself: a damaged one costs no other.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import ParseError

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.html import fragment_text
from pipeline_lib.sources.records import SourceRecord, refused_record, text_record
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import LINE_MARK, SourceFile
from pipeline_lib.sources.time_limit import within_time

_READ_BYTES = 1 << 16
_ROW_PER_TEXT = 8  # a row holds HTML, escaped again
_MOST_HELD = 10_000
_CUT = re.compile(rb"<row[\s/]")
_END_BYTES = 64  # hold a cut mark, or the end of a list without rows
_EMPTY = re.compile(rb"(?:</\w+|<\w+\s*/)>\s*\Z")
_TEXTS = {"Body": "html", "Text": "plain"}  # of posts; of comments and of the history of posts
# the licence of what was written before a day, https://stackoverflow.com/help/licensing; rows of newer dumps say theirs
_LICENCES = (("2011-04-08", "CC-BY-SA-2.5"), ("2018-05-02", "CC-BY-SA-3.0"), ("9999", "CC-BY-SA-4.0"))


def read_stack_exchange(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every post or comment, in order; one that is deleted or was never filled is an empty text.

    Refusals: bad_row, file_too_large, html_depth, and those of decoding. Of the file: no_text_column (users, votes and the
    like), no_rows, bad_encoding, truncated, and those of reading.
    """
    held: list[SourceRecord] = []  # until a row has a text: where none has, the file is another table
    names: list[str] = []
    any_text, broken = False, None
    try:
        with open_expanded(file.place, limits) as stream:
            for number, row in enumerate(_rows(stream, limits.record_bytes(_ROW_PER_TEXT)), 1):
                fields = row if isinstance(row, Refusal) else _fields(row)
                if isinstance(fields, Refusal):
                    held.append(refused_record(file, f"{LINE_MARK}{number}", fields, number))
                else:
                    names = names or list(fields)
                    any_text = any_text or not _TEXTS.keys().isdisjoint(fields)
                    held.append(_post(file, number, fields, limits))
                if any_text or len(held) >= _MOST_HELD:
                    yield from held
                    held.clear()
    except Unreadable as error:
        broken = error.refusal
    if names and not any_text and broken is None:
        detail = f"no row has a Body or a Text; they hold {ascii(names)[:300]}: give Posts.xml or Comments.xml"
        yield SourceRecord(file, Refusal("no_text_column", detail))
        return
    yield from held
    if broken is not None:
        yield SourceRecord(file, broken)


def _rows(stream: io.RawIOBase, most: int) -> Iterator[bytes | Refusal]:
    """The bytes of each row; of the last one only where the list is closed behind it."""
    held, seen = b"", False
    for data in _utf8(stream):
        held += data
        seen = seen or _CUT.search(held) is not None
        starts = [found.start() for found in _CUT.finditer(held)]
        for start, end in pairwise(starts):
            yield held[start:end]
        held = held[starts[-1] :] if starts else held[-_END_BYTES:]
        if len(held) > most:
            yield Refusal("file_too_large", f"a row of more than {most} bytes")
            held = b""
    if _CUT.match(held):
        if b"</" not in held:
            raise Unreadable(Refusal("truncated", "the list of rows has no end: get the file again"))
        yield held
    elif not seen and held and not _EMPTY.search(held):
        raise Unreadable(Refusal("no_rows", "no <row> in it, and no empty list of them: no dump of Stack Exchange"))


def _utf8(stream: io.RawIOBase) -> Iterator[bytes]:
    """The bytes piece by piece; of UTF-16, by its byte order mark, as UTF-8."""
    decoder: codecs.IncrementalDecoder | None = None
    at = 0
    while data := stream.read(_READ_BYTES):
        if not at and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            decoder = codecs.getincrementaldecoder("utf-16")()
        at += len(data)
        try:
            yield decoder.decode(data).encode() if decoder else data
        except UnicodeError as error:
            raise Unreadable(Refusal("bad_encoding", f"no UTF-16: {ascii(str(error))[:200]}", at)) from error


def _fields(row: bytes) -> dict[str, str] | Refusal:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    end = row.find(b"/>")
    end = row.find(b">") if end < 0 else end
    head = row[:end] if end >= 0 else row
    # what stands in an attribute may hold a bracket, if whoever wrote the file did not escape it
    for data in (head + b"/>", row[: row.rfind(b"/>")] + b"/>"):
        try:
            return dict(fromstring(data, forbid_dtd=True).attrib)
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            refusal = Refusal("bad_row", ascii(str(error))[:200])
    return refusal


def _post(file: SourceFile, number: int, fields: dict[str, str], limits: ReadLimits) -> SourceRecord:
    name = next((name for name in _TEXTS if name in fields), "")
    form = _TEXTS.get(name, "plain")
    text: Any = fields.get(name, "")
    if form == "html":
        text = within_time("page", lambda: fragment_text(fields[name], limits))
    if isinstance(text, str) and text and (title := fields.get("Title", "").strip()):
        text = f"{title}\n\n{text}"
    question = fields.get("ParentId") or fields.get("PostId") or fields.get("Id") or str(number)
    own = {"form": form, "group": f"{file.path}!{question}", "licence": _licence(fields)}
    found = text_record(file, fields.get("Id", ""), text, limits, f"{LINE_MARK}{number}", **own)
    if isinstance(found.content, Refusal):
        return SourceRecord(found.file, Refusal(found.content.reason, found.content.detail, number))
    return found


def _licence(fields: dict[str, str]) -> str:
    """The licence that a row states, else the one of its day."""
    stated = fields.get("ContentLicense", "").strip()
    if stated:
        return stated.replace(" ", "-")
    day = fields.get("CreationDate", "")[:10]
    return next(licence for before, licence in _LICENCES if day < before) if day else ""


READER = Reader(read=read_stack_exchange, needs=("defusedxml", "resiliparse"), numbered=True)
