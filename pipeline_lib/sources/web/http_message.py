"""HTTP answers as archives keep them: status, headers and body, decoded where it decodes and taken as it is elsewhere.

Crawlers have stored bodies that they had decoded already under the headers of the encoded ones, cut them short, and lost line
ends and parts of heads. What the headers say is tried, never trusted.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

from pipeline_lib.sources.safe_open import Refusal

_HEAD_END = re.compile(rb"\r?\n[ \t]*\r?\n|\n(?=<)")  # an empty line; without one, the first line of markup
_STATUS = re.compile(rb"(?i)\s*(?:HTTP|H|ICY)[ /0-9.]*?[ \t]+(\d{3})(?!\d)")
_FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")
_CHUNK_HEAD = re.compile(rb"\r?\n?[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
_LISTS = frozenset({"content-encoding", "transfer-encoding"})  # fields that may come several times, as one list
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_TEXT_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # the bytes that tell binary data (WHATWG, MIME Sniffing)
_SMALL_PIECE = 64
_MOST_ANSWERS = 4  # in one block
_MOST_CODINGS = 4  # of one body; each costs the bound on its length once more

Decoder = Callable[[bytes, int], bytes | None]


class HttpMessage(NamedTuple):
    """One answer; its headers under their names in lower case."""

    status: int | None
    headers: dict[str, str]
    body: bytes


def header_fields(head: bytes) -> dict[str, str]:
    """The fields of a header by name in lower case, folded lines joined; of one that comes again, the last."""
    fields: dict[str, str] = {}
    for line in _FOLD.sub(b" ", head).splitlines():
        name, colon, value = line.partition(b":")
        key, text = _text(name).strip().lower(), _text(value).strip()
        if colon and key:
            fields[key] = f"{fields[key]}, {text}" if key in _LISTS and key in fields else text
    return fields


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse_http(block: bytes) -> HttpMessage:
    """The parts of the last answer in a block: others may stand before it, of a proxy, or `100 Continue`.

    One without a head, as HTTP/0.9 gives it, is all body, and its status 200.
    """
    if block[:64].lstrip().startswith(b"<"):
        return HttpMessage(200, {}, block)
    for _ in range(_MOST_ANSWERS):
        end = _HEAD_END.search(block)
        head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
        if not (body.startswith(b"HTTP/") and _STATUS.match(body)):
            break
        block = body
    status = _STATUS.match(head)
    return HttpMessage(int(status.group(1)) if status else None, header_fields(head), body)


def decoded_body(message: HttpMessage, most: int) -> bytes | Refusal:
    """The body without its transfer and content codings, each taken off where the bytes have it; at most `most` + 1 bytes.

    Refusals: content_encoding (what is left is no text, and a coding could not be taken off).
    """
    body = message.body
    failed = []
    for coding in _codings(message.headers):
        decoded = _DECODERS[coding](body, most) if coding in _DECODERS else None
        if decoded is None or (looks_like_text(body) and not looks_like_text(decoded)):
            failed.append(coding)
        else:
            body = decoded
    for magic, name in ((_GZIP, "gzip"), (_ZSTD, "zstd")):  # said by no header, or in the wrong order
        if body.startswith(magic):
            body = _DECODERS[name](body, most) or body
    if failed and not looks_like_text(body):
        return Refusal("content_encoding", f"its body is no text, and not {', '.join(failed)} as its headers say")
    return body


def _codings(headers: dict[str, str]) -> list[str]:
    """The codings of a body in the order in which they are taken off: the last that was put on first."""
    names = [name.strip(" \t\"'").lower() for key in sorted(_LISTS) for name in headers.get(key, "").split(",")]
    return [name for name in reversed(names) if name not in _NO_CODING][:_MOST_CODINGS]


def looks_like_text(body: bytes) -> bool:
    """True where the first bytes are not those of binary data."""
    return body.startswith(_TEXT_MARKS) or _BINARY.search(body, 0, 1024) is None


def _dechunk(body: bytes, most: int) -> bytes | None:
    """The chunks joined; None where the body is not cut into chunks. One that breaks off gives what is there."""
    out, at = bytearray(), 0
    while len(out) <= most and (head := _CHUNK_HEAD.match(body, at)):
        at = head.end()
        size = int(head.group(1), 16)
        chunk = body[at : at + size]
        at += size
        if not out and body[at : at + 1] not in (b"\r", b"\n", b""):
            return None  # a first line that only looked like a length
        out += chunk
        if size == 0 or at >= len(body):
            return bytes(out)  # trailers may follow
    if not out:
        return None
    rest = body[at:]
    return bytes(out + rest)[: most + 1] if rest.strip() else bytes(out)


def _inflate(body: bytes, most: int, wbits: int) -> bytes | None:
    """The output of zlib, as far as the data is whole; None where it is none of that format. Bytes behind it are ignored."""
    out, rest = bytearray(), body
    while True:
        inner = zlib.decompressobj(wbits)
        try:
            out += inner.decompress(rest, most + 1 - len(out))
        except zlib.error:
            out += _before_damage(rest, most + 1 - len(out), wbits) if wbits > 0 else b""
            break
        rest = inner.unused_data
        if not inner.eof or len(out) > most or not rest.startswith(_GZIP):
            break
    return bytes(out) if out or not body else None


def _before_damage(body: bytes, most: int, wbits: int) -> bytes:
    inner, out = zlib.decompressobj(wbits), bytearray()
    try:
        for start in range(0, len(body), _SMALL_PIECE):
            out += inner.decompress(body[start : start + _SMALL_PIECE], max(1, most - len(out)))
            if len(out) >= most:
                break
    except zlib.error:
        pass
    return bytes(out)


def _gunzip(body: bytes, most: int) -> bytes | None:
    return _inflate(body, most, 31) if body.startswith(_GZIP) else None


def _deflate(body: bytes, most: int) -> bytes | None:
    """Either of what servers send as `deflate`: the zlib format, as the standard says, or the bare stream."""
    has_head = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    whole = _inflate(body, most, 15) if has_head else None
    return whole if whole is not None else _inflate(body, most, -15)


def _brotli(body: bytes, most: int) -> bytes | None:
    if find_spec("brotli") is None:
        return None
    import brotli

    inner, out = brotli.Decompressor(), bytearray()
    try:
        out += inner.process(body, output_buffer_limit=most + 1)
        while len(out) <= most and not inner.is_finished() and (more := inner.process(b"", output_buffer_limit=most + 1)):
            out += more
    except brotli.error:
        return None
    return bytes(out) or None


def _unzstd(body: bytes, most: int) -> bytes | None:
    if find_spec("zstandard") is None:
        return None
    import zstandard

    out = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=8 * 1024**2).stream_reader(body, read_across_frames=True) as stream:
            while len(out) <= most and (more := stream.read(min(65_536, most + 1 - len(out)))):
                out += more
    except zstandard.ZstdError:
        pass  # what came out before the damage is kept
    return bytes(out) or None


_NO_CODING = frozenset({"", "identity", "none", "utf-8", "binary", "8bit", "7bit"})
_DECODERS: dict[str, Decoder] = {
    "chunked": _dechunk,
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "x-deflate": _deflate,
    "br": _brotli,
    "zstd": _unzstd,
}
