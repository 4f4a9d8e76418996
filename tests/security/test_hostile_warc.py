"""Row S05: a damaged record is set aside with its place, the next valid one is still read."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from dump_files import page, read_dump, reasons, response, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import Refusal


def record(number: int) -> bytes:
    """A record of one page, not compressed."""
    return response(f"http://a.org/{number}", page(f"page {number}"), gzip=False)


def with_length(raw: bytes, change: int) -> bytes:
    """The record with another Content-Length (the first is the WARC header's)."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [
        b"Content-Length: %d" % (int(line.split(b":")[1]) + change) if line.startswith(b"Content-Length") else line
        for line in head.split(b"\r\n")
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def without(raw: bytes, field: bytes) -> bytes:
    """The record without a header field."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(field)) + b"\r\n\r\n" + body


BAD = record(1)
FAULTS = {
    "digest": (BAD.replace(b"first paragraph", b"FIRST paragraph"), "digest_mismatch"),
    "length too small": (with_length(BAD, -40), "wrong_length"),
    "length too large": (with_length(BAD, 40), "wrong_length"),
    "length far too large": (with_length(BAD, 10**9), "file_too_large"),
    "length is no number": (BAD.replace(b"Content-Length: ", b"Content-Length: x", 1), "wrong_length"),
    "no length": (without(BAD, b"Content-Length"), "wrong_length"),
    "no version": (BAD.replace(b"WARC/1.", b"XXXX/1.", 1), "no_warc_header"),
    "cut in its body": (BAD[: len(BAD) - 60], "wrong_length"),
    "cut in its header": (BAD[:150], "no_warc_header"),
    "noise": (random.Random(1).randbytes(3000), "no_warc_header"),
}


@pytest.mark.parametrize("shape", ["plain", "member each", "one member"])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_s05_a_bad_record_costs_no_other(tmp_path: Path, fault: str, shape: str) -> None:
    bad, reason = FAULTS[fault]
    parts = [record(0), bad, record(2), record(3)]
    if shape == "member each":
        parts = [gzip.compress(part) for part in parts]
    whole = b"".join(parts)
    path = tmp_path / "a.warc"
    path.write_bytes(gzip.compress(whole) if shape == "one member" else whole)
    found = read_dump(path, "warc")
    got = list(texts(found))
    assert got == ["http://a.org/0", "http://a.org/2", "http://a.org/3"]
    (refusal,) = [item.content for item in found if isinstance(item.content, Refusal)]
    assert (refusal.reason, refusal.offset) == (reason, 0 if shape == "one member" else len(parts[0]))


def test_s05_a_damaged_member_costs_no_other(tmp_path: Path) -> None:
    parts = [gzip.compress(record(number)) for number in range(4)]
    damaged = bytearray(parts[1])
    damaged[60:80] = bytes(20)
    path = tmp_path / "a.warc.gz"
    for bad, whole in ((bytes(damaged), False), (parts[1][:100], False), (parts[1][:-4], True)):
        path.write_bytes(parts[0] + bad + parts[2] + parts[3])
        found = read_dump(path, "warc")
        # one whose digest holds is whole, although the checksum behind it is cut off
        assert list(texts(found)) == [f"http://a.org/{number}" for number in range(4) if number != 1 or whole]
        assert len(reasons(found)) == 1


def test_s01_a_truncated_warc_keeps_the_records_before(tmp_path: Path) -> None:
    parts = [gzip.compress(record(number)) for number in range(4)]
    whole, ends = b"".join(parts), [sum(map(len, parts[: n + 1])) for n in range(4)]
    path = tmp_path / "a.warc.gz"
    for k in range(1, 200):
        cut = k * len(whole) // 200
        path.write_bytes(whole[:cut])
        found = read_dump(path, "warc")
        complete = sum(end <= cut for end in ends)
        got = list(texts(found))
        assert got == [f"http://a.org/{number}" for number in range(len(got))]
        # one whose digest holds is whole, although the checksum behind it is cut off
        assert len(got) == complete or (len(got) == complete + 1 and cut >= ends[complete] - 12)
        assert reasons(found) == ([] if cut in ends else ["truncated"]), cut


def test_s02_a_bomb_in_a_record_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    bomb = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000) + b"\r\n\r\n"
    path.write_bytes(gzip.compress(record(0)) + gzip.compress(bomb) + gzip.compress(record(2)))
    found = read_dump(path, "warc", ReadLimits(max_expansion=5_000))
    assert (list(texts(found)), reasons(found)) == (["http://a.org/0", "http://a.org/2"], ["file_too_large"])
    assert reasons(read_dump(path, "warc", ReadLimits(max_expansion=100, free_expansion_bytes=2**20)))[-1] == "expansion_limit"
