"""Common Crawl: WARC responses as the main text of their pages, WET conversions as they are.

Read: `response` records of HTML with status 200, `conversion` records of plain text. Requests, metadata, warcinfo, resources
and revisits hold no page and are passed over; responses of other kinds are refused as `not_html` or `http_status`.

fastwarc parses the records. Their bounds are found here, from the length that each declares and the empty lines that must
follow: behind a damaged record, or a wrong length, reading goes on with the next one that can be found.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.decompress import Expanded, Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.html import main_text
from pipeline_lib.sources.records import SourceRecord, text_record, too_large
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time

_BEGIN = b"WARC/1."
_VERSION = re.compile(rb"WARC/1\.\d\r\n")
_VERSION_BYTES = 10
_END = b"\r\n\r\n"
_HEADER_BYTES = 64 * 1024
_FIELD = re.compile(rb"(?im)^(content-length|warc-type|warc-block-digest)[ \t]*:[ \t]*(.*?)[ \t]*\r?$")
READ_TYPES = (b"response", b"conversion")


def warc_records(stream: Expanded, limits: ReadLimits) -> Iterator[Any | Refusal]:
    """The response and conversion records, as fastwarc's, with the block digest checked, and a refusal for each bad record.

    Refusals: no_warc_header, wrong_length, digest_mismatch, bad_record, file_too_large, and those of `decompress`. The offset
    is that of the compressed member that the record begins in, of its first byte in a file that is not compressed.
    A record behind a wrong length may be given the offset of the one before.
    """
    cut = _Cut(stream, limits)
    while True:
        try:
            if not cut.begin():
                return
            record = cut.record()
            if record is not None:
                yield record
                if not isinstance(record, Refusal):
                    continue
                cut.skip_to_next()
        except Unreadable as error:
            yield Refusal(error.refusal.reason, error.refusal.detail, cut.offset)
            if error.refusal.reason == "expansion_limit" or not cut.skip_damage():
                return


class _Cut:
    """The bytes from the current record's first one on, as far as they were needed."""

    def __init__(self, stream: Expanded, limits: ReadLimits) -> None:
        self.stream = stream
        self.most = limits.max_text_bytes + _HEADER_BYTES
        self.bytes = bytearray()
        self.position = 0  # of bytes[0] in what the file holds, decompressed
        self.offset = 0

    def begin(self) -> bool:
        """Stand at the first byte of a record; False at the end of the file."""
        fresh = not self.bytes
        if not self.fill(len(_BEGIN)) and not self.bytes.strip():
            return False
        if self.stream.codec == "plain":
            self.offset = self.position
        elif fresh:
            self.offset = self.stream.member_start
        return True

    def fill(self, wanted: int) -> bool:
        """Hold that many bytes, where there are as many."""
        while len(self.bytes) < wanted:
            data = self.stream.read_some()
            if not data:
                return False
            self.bytes += data
        return True

    def drop(self, count: int) -> None:
        """Go on behind that many bytes."""
        del self.bytes[:count]
        self.position += count

    def record(self) -> Any | Refusal | None:
        """The record that begins here, or why there is none; None, and behind it already, for one of a type not read."""
        if not self.bytes.startswith(_BEGIN):
            return self.refuse("no_warc_header", f"expected {_BEGIN.decode()}, got {bytes(self.bytes[:20])!r}")
        while (head := self.bytes.find(_END)) < 0:
            if len(self.bytes) > _HEADER_BYTES or not self.fill(len(self.bytes) + 1):
                return self.refuse("no_warc_header", "its header has no end")
        fields = {key.lower(): value for key, value in _FIELD.findall(self.bytes, 0, head + 2)}
        length = fields.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 15:
            return self.refuse("wrong_length", f"Content-Length is {length[:50]!r}, expected a number of bytes")
        whole = head + len(_END) + int(length) + len(_END)
        if whole > self.most:
            return self.refuse("file_too_large", f"{int(length)} bytes, at most {self.most} are read")
        if not self.fill(whole - len(_END)):
            return self.refuse("truncated", f"Content-Length is {int(length)}, the file ends before")
        if self.fill(whole) and self.bytes[whole - len(_END) : whole] != _END:
            return self.refuse("wrong_length", f"Content-Length is {int(length)}, no empty lines follow there")
        record = None
        if fields.get(b"warc-type", b"").lower() in READ_TYPES:
            record = self.parse(bytes(self.bytes[:whole]), b"warc-block-digest" in fields)
        if not isinstance(record, Refusal):
            self.drop(whole)
        return record

    def parse(self, whole: bytes, has_digest: bool) -> Any | Refusal:
        """A record's bytes as fastwarc's record, unless they are not those that were written."""
        from fastwarc.warc import ArchiveIterator

        try:
            record = next(iter(ArchiveIterator(io.BytesIO(whole), parse_http=False)), None)
            if record is None:
                return self.refuse("bad_record", "fastwarc finds no record in it")
            if has_digest and not record.verify_block_digest():
                # fastwarc may not see a header that `fields` has, where bytes of the head are broken
                digest = record.headers.get("WARC-Block-Digest", "a digest that cannot be read")
                return self.refuse("digest_mismatch", f"its bytes are not those of {digest}")
        except (OSError, ValueError) as error:
            return self.refuse("bad_record", str(error))
        return record

    def refuse(self, reason: str, detail: str) -> Refusal:
        """A refusal of the record that begins here."""
        return Refusal(reason, detail, self.offset)

    def skip_to_next(self) -> None:
        """Go to the next place where a record seems to begin, in what is held or behind it."""
        self.drop(1)
        while (found := _VERSION.search(self.bytes)) is None:
            self.drop(max(0, len(self.bytes) - _VERSION_BYTES + 1))
            if not self.fill(len(self.bytes) + 1):
                self.drop(len(self.bytes))
                return
        at = found.start()
        del found  # a match keeps the bytes that it was found in from being cut
        self.drop(at)

    def skip_damage(self) -> bool:
        """Go to the next compressed member that holds a record; False where there is none."""
        self.drop(len(self.bytes))
        return self.stream.skip_damage(_BEGIN)


_HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """The pages of a WARC or WET file, in its order; group: the host.

    A file that is cut off or damaged keeps the records that are whole (each has a digest of its own), and the rest is looked
    for behind the damage.
    """
    try:
        with open_expanded(file.place, limits) as stream:
            for record in warc_records(stream, limits):
                if isinstance(record, Refusal):
                    yield SourceRecord(file, record)
                else:
                    yield _page(file, record, limits)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _page(file: SourceFile, record: Any, limits: ReadLimits) -> SourceRecord:
    url = (record.headers.get("WARC-Target-URI") or record.record_id or "").strip("<>")
    try:
        text = within_time("page", lambda: _text(record, limits))
        host = urlsplit(url).hostname or ""
    except (OSError, ValueError) as error:  # of HTTP headers and transfer codings; of a URL that is none
        text, host = Refusal("bad_record", str(error)), ""
    return text_record(file, url, text, limits, form="plain" if _is_wet(record) else "html", group=host)


def _is_wet(record: Any) -> bool:
    return str(record.headers.get("WARC-Type", "")).lower() == "conversion"


def _text(record: Any, limits: ReadLimits) -> str | Refusal:
    if _is_wet(record):
        data = record.reader.read(limits.max_text_bytes + 1)
        try:
            return data.decode("utf-8") if len(data) <= limits.max_text_bytes else too_large(len(data), limits)
        except UnicodeDecodeError as error:
            return Refusal("bad_encoding", f"{error.reason} (0x{data[error.start]:02x})", error.start)
    record.parse_http(auto_decode="all")
    if record.http_headers is None or record.http_headers.status_code != 200:
        status = record.http_headers.status_code if record.http_headers is not None else "none"
        return Refusal("http_status", f"{status}, 200 is read")
    kind = (record.http_content_type or "").lower()
    if kind not in _HTML:
        return Refusal("not_html", f"Content-Type is {kind[:100] or 'not given'}")
    return main_text(record.reader.read(limits.max_text_bytes + 1), limits, record.http_charset or "")


READER = Reader(read=read_warc, suffixes=(".warc.gz", ".warc", ".wet.gz", ".wet"), needs=("fastwarc", "resiliparse"))
