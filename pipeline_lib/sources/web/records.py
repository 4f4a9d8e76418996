"""Records of web archives: WARC 0.17 to 1.1 and ARC 1.0 to 2.0, in a member each, in one stream, or not compressed.

Their bounds are found from the length that each declares and from what must follow there: behind a damaged record, or a wrong
length, reading goes on with the next one that can be found.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Expanded, Unreadable
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.web.http_message import header_fields

_BEGIN = b"WARC/"
_VERSION = re.compile(rb"WARC/\d\.\d{1,2}[ \t]*\r?\n")
_VERSION_BYTES = 12
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_END_BYTES = 4  # the two empty lines behind a record
# An ARC record's one line: URL, address, date, type and length; ARC 2 has five more fields before the length. URLs hold spaces.
_ARC_HEAD = re.compile(
    rb"([a-zA-Z][a-zA-Z0-9+.-]*:[^\n]*?) ([0-9a-fA-F.:]{1,45}|-) (\d{12,17}) ([^\n]{1,200}?)"
    rb"(?: (?:\d{3}|-) \S+ \S+ \d+ \S+)? (\d{1,15})[ \t]*\r?\n"
)
_ARC_START = re.compile(rb"(?:\n|\A)(?P<record>(?=https?:|ftp:|dns:|filedesc:)" + _ARC_HEAD.pattern + rb")")
_ARC_BEGIN = b"http"
_ARC_LINE_BYTES = 8 * 1024
READ_TYPES = frozenset({"response", "resource", "conversion", "revisit"})


class WebRecord(NamedTuple):
    """One record that may hold a page, its digest checked where it states one."""

    kind: str  # one of READ_TYPES
    fields: dict[str, str]  # of the record's header, by name in lower case; ARC's under the names that WARC gave them
    block: bytes

    @property
    def url(self) -> str:
        """The address that was captured."""
        return (self.fields.get("warc-target-uri") or self.fields.get("warc-record-id") or "").strip("<> ")


def web_records(stream: Expanded, limits: ReadLimits) -> Iterator[WebRecord | Refusal]:
    """The records that may hold a page, and a refusal for each bad record.

    Refusals: no_warc_header, wrong_length, digest_mismatch, segmented, file_too_large, and those of `decompress`. The offset
    is that of the compressed member that the record begins in, of its first byte in a file that is not compressed.
    A record behind a wrong length may be given the offset of the one before.
    """
    cut = _Cut(stream, limits)
    while True:
        try:
            if not cut.begin():
                return
            record = cut.record()
            if isinstance(record, Refusal) and not cut.passed:
                cut.skip_to_next()  # damage that is met on the way is why the record is bad, and is told in its place
            if record is not None:
                yield record
        except Unreadable as error:
            yield Refusal(error.refusal.reason, error.refusal.detail, cut.offset)
            if error.refusal.reason == "expansion_limit" or not cut.skip_damage():
                return


class _Cut:
    """The bytes from the current record's first one on, as far as they were needed."""

    def __init__(self, stream: Expanded, limits: ReadLimits) -> None:
        self.stream = stream
        self.most_header = limits.max_header_bytes
        self.most = limits.max_text_bytes + self.most_header
        self.bytes = bytearray()
        self.position = 0  # of bytes[0] in what the file holds, decompressed
        self.offset = 0
        self.passed = False  # the current record is behind, whatever became of it
        self.is_arc: bool | None = None  # None: no record was found yet
        self.damage: Unreadable | None = None  # met behind a record that is whole

    def begin(self) -> bool:
        """Stand at the first byte of a record; False at the end of the file."""
        self.passed = False
        if self.damage is not None:
            damage, self.damage = self.damage, None
            raise damage
        fresh = not self.bytes
        while self.fill(len(_BEGIN)) and self.bytes[:1] in (b"\r", b"\n"):
            self.drop(len(self.bytes) - len(self.bytes.lstrip(b"\r\n")))
        if len(self.bytes) < len(_BEGIN) and not self.bytes.strip():
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

    def record(self) -> WebRecord | Refusal | None:
        """The record that begins here, or why there is none; None, and behind it already, for one of a type not read."""
        if self.bytes.startswith(_BEGIN):
            return self.warc_record()
        if not self.is_arc and self.is_arc is not None:
            return self.refuse("no_warc_header", f"expected {_BEGIN.decode()}, got {bytes(self.bytes[:20])!r}")
        while b"\n" not in self.bytes and len(self.bytes) < _ARC_LINE_BYTES and self.fill(len(self.bytes) + 1):
            pass
        head = _ARC_HEAD.match(bytes(self.bytes[:_ARC_LINE_BYTES]))
        if head is None:
            return self.refuse("no_warc_header", f"expected a record of WARC or ARC, got {bytes(self.bytes[:20])!r}")
        return self.arc_record(head)

    def warc_record(self) -> WebRecord | Refusal | None:
        while (end := _HEAD_END.search(self.bytes, 0, self.most_header)) is None:
            if len(self.bytes) > self.most_header or not self.fill(len(self.bytes) + 1):
                return self.refuse("no_warc_header", "its header has no end, or is longer than source.limits.max_header_bytes")
        head, start = bytes(self.bytes[: end.start()]), end.end()
        del end  # a match keeps the bytes that it was found in from being cut
        if _VERSION.search(head, 1):
            return self.refuse("no_warc_header", "another record begins before its header has an end")
        fields = header_fields(head.partition(b"\n")[2])
        length = fields.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= 15):
            return self.refuse("wrong_length", f"Content-Length is {length[:50]!r}, expected a number of bytes")
        block = self.block(start, int(length), is_arc=False)
        if isinstance(block, Refusal):
            return block
        self.is_arc = False
        kind = fields.get("warc-type", "").lower()
        if kind == "continuation":
            self.passed = True
            return self.refuse("segmented", f"segment {fields.get('warc-segment-number', '?')[:20]} of a record, not joined")
        if kind not in READ_TYPES or (kind == "resource" and not _is_page_url(fields.get("warc-target-uri", ""))):
            return None
        refusal = self.check_digest(fields["warc-block-digest"], block) if "warc-block-digest" in fields else None
        return refusal or WebRecord(kind, fields, block)

    def arc_record(self, head: re.Match[bytes]) -> WebRecord | Refusal | None:
        url, _, date, kind, length = (part.decode("utf-8", "replace") for part in head.groups())
        block = self.block(head.end(), int(length), is_arc=True)
        if isinstance(block, Refusal):
            return block
        self.is_arc = True
        if not _is_page_url(url):
            return None
        return WebRecord("response", {"warc-target-uri": url, "warc-date": date, "arc-content-type": kind}, block)

    def block(self, start: int, length: int, is_arc: bool) -> bytes | Refusal:
        """What the record holds, and go on behind it; a refusal where it does not end there."""
        end = start + length
        if end > self.most:
            return self.refuse("file_too_large", f"{length} bytes, at most {self.most} are read")
        if not self.fill(end):
            return self.refuse("truncated", f"Content-Length is {length}, the file ends before")
        try:
            self.fill(end + _END_BYTES)
        except Unreadable as damage:
            self.damage = damage
        tail = bytes(self.bytes[end : end + _END_BYTES])
        rest = tail.lstrip(b"\r\n")
        if rest and (rest == tail if is_arc else not _BEGIN.startswith(rest)):
            return self.refuse("wrong_length", f"Content-Length is {length}, no empty lines follow there")
        found = bytes(self.bytes[start:end])
        self.drop(end + len(tail) - len(rest))
        return found

    def check_digest(self, stated: str, block: bytes) -> Refusal | None:
        """A refusal where the block's bytes are not those that were written."""
        if _agrees(stated, block) is not False:
            return None
        self.passed = True
        return self.refuse("digest_mismatch", f"its bytes are not those of {stated[:200]}")

    def refuse(self, reason: str, detail: str) -> Refusal:
        """A refusal of the record that begins here."""
        return Refusal(reason, detail, self.offset)

    def skip_to_next(self) -> None:
        """Go to the next place where a record seems to begin, in what is held or behind it."""
        self.drop(1)
        while (at := self.next_start()) < 0:  # its matches are gone: one keeps the bytes from being cut
            self.drop(max(0, len(self.bytes) - (_VERSION_BYTES if self.is_arc is False else _ARC_LINE_BYTES) + 1))
            if not self.fill(len(self.bytes) + 1):
                self.drop(len(self.bytes))
                return
        self.drop(at)

    def next_start(self) -> int:
        """Place of the next head of a record in what is held; -1: none."""
        starts = []
        if not self.is_arc and (warc := _VERSION.search(self.bytes)):
            starts.append(warc.start())
        if self.is_arc is not False and (arc := _ARC_START.search(self.bytes)):
            starts.append(arc.start("record"))
        return min(starts, default=-1)

    def skip_damage(self) -> bool:
        """Go to the next compressed member that holds a record; False where there is none."""
        self.drop(len(self.bytes))
        return self.stream.skip_damage(_ARC_BEGIN if self.is_arc else _BEGIN)


def _is_page_url(url: str) -> bool:
    """False for what crawlers write down of themselves: a file's description, answers of DNS, their arguments and logs."""
    return url.strip("<> ").lower().startswith(("http:", "https:", "file:"))


def _agrees(stated: str, block: bytes) -> bool | None:
    """Whether a digest (algorithm:value, the value in base 32, base 64 or hexadecimal) is that of a block; None: not known."""
    name, _, value = stated.partition(":")
    algorithm = name.strip().lower().replace("-", "").replace("_", "")
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        return None if value else False
    got = hashlib.new(algorithm, block, usedforsecurity=False)
    text, bits = value.strip(), got.digest()
    encoded = {base64.b32encode(bits).decode().rstrip("="), got.hexdigest().upper()}
    exact = {base64.b64encode(bits).decode().rstrip("="), base64.urlsafe_b64encode(bits).decode().rstrip("=")}
    return text.upper().rstrip("=") in encoded or text.rstrip("=") in exact
