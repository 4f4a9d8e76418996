"""Bodies that their headers describe wrongly: decoded where they decode, else taken as they are."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard

from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.web.http_message import decoded_body, header_fields, parse_http

PAGE = b"<html><body><p>" + b" ".join(b"Word %d of the page." % n for n in range(400)) + b"</p></body></html>"
MOST = 2_000_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def chunked(data: bytes, size: int = 1000, extension: bytes = b"", trailer: bytes = b"", end: bytes = b"\r\n") -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x%s%s%s%s" % (len(part), extension, end, part, end) for part in parts) + b"0" + end + trailer + end


def answer(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK", end: bytes = b"\r\n") -> bytes:
    return end.join([status.encode(), *(header.encode() for header in headers), b"", b""]) + body


GZIP = gzip.compress(PAGE)
WHOLE = {
    "as it says, gzip": (GZIP, "Content-Encoding: gzip"),
    "stale gzip": (PAGE, "Content-Encoding: gzip"),
    "x-gzip": (GZIP, "content-encoding: X-GZIP"),
    "none": (PAGE, "Content-Encoding: none"),
    "identity": (PAGE, "Content-Encoding: identity"),
    "no coding at all": (PAGE, "Content-Encoding: utf-8"),
    "unknown coding of text": (PAGE, "Content-Encoding: amz-1.0"),
    "zlib": (zlib.compress(PAGE), "Content-Encoding: deflate"),
    "raw deflate": (raw_deflate(PAGE), "Content-Encoding: deflate"),
    "stale deflate": (PAGE, "Content-Encoding: deflate"),
    "brotli": (brotli.compress(PAGE), "Content-Encoding: br"),
    "stale brotli": (PAGE, "Content-Encoding: br"),
    "zstd": (zstandard.compress(PAGE), "Content-Encoding: zstd"),
    "stale zstd": (PAGE, "Content-Encoding: zstd"),
    "gzip that nobody says": (GZIP, "Content-Type: text/html"),
    "gzip with bytes behind": (GZIP + b"\r\n\0\0junk", "Content-Encoding: gzip"),
    "gzip in two members": (gzip.compress(PAGE[:900]) + gzip.compress(PAGE[900:]), "Content-Encoding: gzip"),
    "gzip without its checksum": (GZIP[:-8], "Content-Encoding: gzip"),
    "two codings": (gzip.compress(zlib.compress(PAGE)), "Content-Encoding: deflate, gzip"),
    "two codings in two lines": (brotli.compress(GZIP), "Content-Encoding: gzip", "Content-Encoding: br"),
    "the same coding twice, once there": (GZIP, "Content-Encoding: gzip, gzip"),
    "chunked": (chunked(PAGE), "Transfer-Encoding: chunked"),
    "stale chunked": (PAGE, "Transfer-Encoding: chunked"),
    "chunk extensions": (chunked(PAGE, extension=b'; name="a value"'), "Transfer-Encoding: chunked"),
    "padded lengths": (chunked(PAGE, extension=b"   "), "Transfer-Encoding: chunked"),
    "trailers": (chunked(PAGE, trailer=b"Expires: never\r\nX-Sum: 12\r\n"), "Transfer-Encoding: chunked"),
    "chunks of bare newlines": (chunked(PAGE, end=b"\n"), "Transfer-Encoding: chunked"),
    "chunks without an end": (chunked(PAGE)[:-5], "Transfer-Encoding: chunked"),
    "chunked gzip": (chunked(GZIP), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    "stale chunked, true gzip": (GZIP, "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    "chunked, stale gzip": (chunked(PAGE), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
    "Content-Length above the body": (PAGE, "Content-Length: 9999999"),
    "Content-Length below the body": (PAGE, "Content-Length: 3"),
    "folded header": (GZIP, "Content-Type: text/html;\r\n\tcharset=utf-8", "Content-Encoding:\r\n gzip"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_body_comes_out_whole(name: str) -> None:
    body, *headers = WHOLE[name]
    assert decoded_body(parse_http(answer(body, *headers)), MOST) == PAGE


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (GZIP[: len(GZIP) // 2], "Content-Encoding: gzip"),
        (GZIP[: len(GZIP) // 2] + bytes(200), "Content-Encoding: gzip"),
        (chunked(PAGE)[: len(PAGE) // 2], "Transfer-Encoding: chunked"),
        (zlib.compress(PAGE)[:700], "Content-Encoding: deflate"),
        (brotli.compress(PAGE)[:300], "Content-Encoding: br"),
    ],
)
def test_a_body_that_is_cut_short_gives_what_is_there(body: bytes, header: str) -> None:
    got = decoded_body(parse_http(answer(body, header)), MOST)
    assert isinstance(got, bytes) and len(got) > 500 and PAGE.startswith(got[:500])


def test_a_body_that_no_library_decodes_is_refused() -> None:
    for name in ("compress", "br", "gzip"):
        got = decoded_body(parse_http(answer(b"\x1f\x9d\x90\x00\x01\x02" * 50, f"Content-Encoding: {name}")), MOST)
        assert isinstance(got, Refusal) and got.reason == "content_encoding" and name in got.detail


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate, brotli.compress, zstandard.compress])
def test_a_bomb_stops_at_the_bound(pack: object) -> None:
    name = {"compress": "gzip"}.get(pack.__name__, "deflate")  # type: ignore[attr-defined]
    name = {brotli.compress: "br", zstandard.compress: "zstd", zlib.compress: "deflate"}.get(pack, name)
    body = pack(b"a" * 30_000_000)  # type: ignore[operator]
    got = decoded_body(parse_http(answer(body, f"Content-Encoding: {name}")), 1_000_000)
    assert isinstance(got, bytes) and 1_000_000 < len(got) <= 1_000_001 + 70_000


@pytest.mark.parametrize(
    ("block", "status", "type_"),
    [
        (answer(PAGE, "Content-Type: text/html", status="HTTP/2 200"), 200, "text/html"),
        (answer(PAGE, "Content-Type: text/html", status="HTTP/2.0 200 "), 200, "text/html"),
        (answer(PAGE, "CONTENT-TYPE : text/html", status="http/1.0 404 Not Found"), 404, "text/html"),
        (answer(PAGE, "content-type:text/html", end=b"\n"), 200, "text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + PAGE, 200, "text/html"),  # no empty line
        (answer(PAGE, "Content-Type: text/html", "Link: <a>,\r\n <b>", "no colon"), 200, "text/html"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(PAGE, "Content-Type: text/html"), 200, "text/html"),
        (PAGE, 200, ""),  # HTTP/0.9
    ],
)
def test_heads_of_all_kinds(block: bytes, status: int, type_: str) -> None:
    message = parse_http(block)
    assert (message.status, message.headers.get("content-type", ""), message.body) == (status, type_, PAGE)


def test_fields_are_read_whatever_their_case_folds_and_bytes() -> None:
    head = "A: 1\r\nb :  two \r\n words\r\nContent-Encoding: gzip\r\ncontent-encoding: br\r\nÜ: ü\r\n: none\r\n".encode(
        "latin-1"
    )
    assert header_fields(head) == {"a": "1", "b": "two words", "content-encoding": "gzip, br", "ü": "ü"}
