"""Web archives: WARC (0.17 to 1.1) and ARC responses as the main text of their pages, WET conversions as they are.

Read: `response` and `resource` records of HTML, responses with status 200, and `conversion` records of plain text. A `revisit`
is given the text of the page that it refers to, where that is in the same file. Requests, metadata and warcinfo hold no page
and are passed over; what else holds none is refused as `not_html` or `http_status`.

A file is read twice: the first pass takes a hash of each URL and its date, so that the second knows which captures to leave
out, and which texts revisits will ask for. It holds one record and some 80 bytes for each page seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.html import main_text
from pipeline_lib.sources.records import SourceRecord, text_record, too_large
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time
from pipeline_lib.sources.web.captures import Captures, Spool, page_keys, survey
from pipeline_lib.sources.web.http_message import HttpMessage, decoded_body, parse_http
from pipeline_lib.sources.web.records import WebRecord, web_records

_HTML = ("text/html", "application/xhtml+xml")
_NO_TYPE = ("", "-", "no-type", "unknown", "unknown/unknown", "application/unknown", "*/*")
_HTML_BEGINS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title")
_SNIFFED_BYTES = 1024
_CHARSET = re.compile(r"(?i)charset\s*=\s*[\"']?([^\s;,\"']+)")


class WarcOptions(BaseModel):
    """Options of the reader, as a spec gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captures: Literal["latest", "first", "all"] = Field(
        "latest",
        description="Captures of one URL in a file that are read. latest: the last one by date, what the URL leads to; its"
        " forerunners are near-duplicates, each a false negative of the others; first: the first one; all: each. Those left"
        " out are counted as `other_capture`.",
    )


def read_warc(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """The pages of a WARC, ARC or WET file, in its order; group: the host.

    A file that is cut off or damaged keeps the records that are whole (each has a digest of its own), and the rest is looked
    for behind the damage.
    """
    options = WarcOptions.model_validate(file.options)
    try:
        with open_expanded(file.place, limits) as stream:
            captures = survey(
                web_records(stream, limits), options.captures, lambda record: not isinstance(page_of(record), Refusal)
            )
        with open_expanded(file.place, limits) as stream, Spool() as spool:
            pages = _Pages(file, limits, captures, spool)
            for number, record in enumerate(web_records(stream, limits)):
                yield from pages.of(number, record)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


class _Pages:
    """The texts of an archive's records in the second pass."""

    def __init__(self, file: SourceFile, limits: ReadLimits, captures: Captures, spool: Spool) -> None:
        self.file = file
        self.limits = limits
        self.captures = captures
        self.spool = spool
        self.early: dict[int, list[tuple[int, WebRecord]]] = {}  # revisits that came before their page, by its key

    def of(self, number: int, record: WebRecord | Refusal) -> Iterator[SourceRecord]:
        """The text of a record, and of the revisits that waited for it, or why there is none."""
        if isinstance(record, Refusal):
            yield SourceRecord(self.file, record)
        elif record.kind == "revisit":
            yield from self.revisit(number, record)
        else:
            keys = [key for key in page_keys(record) if key in self.captures.wanted] if self.captures.wanted else []
            text = self.read(record) if keys or not self.captures.leaves_out(number) else ""
            self.spool.put(keys, text)
            yield self.found(number, record, text)
            for key in keys:
                for waiting in self.early.pop(key, []):
                    yield from self.revisit(*waiting)

    def revisit(self, number: int, record: WebRecord) -> Iterator[SourceRecord]:
        status = parse_http(record.block).status if record.block.strip() else None
        key = self.captures.original(record)
        if status not in (None, 200, 304):
            yield self.found(number, record, _not_200(status))
        elif key is None:
            yield self.found(number, record, Refusal("revisit_unresolved", "the page that it refers to is not in this file"))
        elif (text := self.spool.get(key)) is not None:
            yield self.found(number, record, text)
        else:
            self.early.setdefault(key, []).append((number, record))

    def read(self, record: WebRecord) -> str | Refusal:
        try:
            return within_time("page", lambda: _text(record, self.limits))
        except (OSError, ValueError) as error:
            return Refusal("bad_record", str(error))

    def found(self, number: int, record: WebRecord, text: str | Refusal) -> SourceRecord:
        try:
            host = urlsplit(record.url).hostname or ""
        except ValueError as error:  # a URL that is none
            text, host = Refusal("bad_record", str(error)), ""
        if self.captures.leaves_out(number):
            text = Refusal("other_capture", "its URL has another capture in this file; see the reader's option `captures`")
        form = "plain" if record.kind == "conversion" else "html"
        return text_record(self.file, record.url, text, self.limits, form=form, group=host).changed(filters="web")


def _text(record: WebRecord, limits: ReadLimits) -> str | Refusal:
    if record.kind == "conversion":
        try:
            size = len(record.block)
            return record.block.decode("utf-8") if size <= limits.max_text_bytes else too_large(size, limits)
        except UnicodeDecodeError as error:
            return Refusal("bad_encoding", f"{error.reason} (0x{record.block[error.start]:02x})", error.start)
    page = page_of(record)
    if isinstance(page, Refusal):
        return page
    body = decoded_body(page, limits.max_text_bytes)
    if isinstance(body, Refusal):
        return body
    charset = _CHARSET.search(page.headers.get("content-type", ""))
    return main_text(body, limits, charset.group(1) if charset else "")


def page_of(record: WebRecord) -> HttpMessage | Refusal:
    """The answer that a record keeps, its body as it was stored; or why it is no page."""
    stated = record.fields.get("content-type", "")
    if record.kind == "conversion" or (record.kind == "resource" and "http" not in stated.lower()):
        answer = HttpMessage(200, {"content-type": "text/html" if record.kind == "conversion" else stated}, record.block)
    else:
        answer = parse_http(record.block)
    if answer.status != 200:
        return _not_200(answer.status)
    kind = re.split("[;,]", answer.headers.get("content-type", ""))[0].strip().lower()
    if kind in _NO_TYPE:
        stated = record.fields.get("warc-identified-payload-type") or record.fields.get("arc-content-type", "")
        kind = stated.split(";")[0].strip().lower()
    if kind in _HTML or (kind in _NO_TYPE and _begins_as_html(answer)):
        return answer
    return Refusal("not_html", f"Content-Type is {kind[:100] or 'not given'}")


def _not_200(status: int | None) -> Refusal:
    return Refusal("http_status", f"{'none' if status is None else status}, 200 is read")


def _begins_as_html(answer: HttpMessage) -> bool:
    body = decoded_body(answer, _SNIFFED_BYTES)
    return not isinstance(body, Refusal) and body.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML_BEGINS)


READER = Reader(
    read=read_warc,
    suffixes=(".warc.gz", ".warc", ".warc.zst", ".wet.gz", ".wet", ".arc.gz", ".arc"),
    options=WarcOptions,
    needs=("resiliparse",),
)
