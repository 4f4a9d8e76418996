"""Compressed files: what comes out is what went in, whatever is wrong is refused with its place."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from dump_files import read_dump, reasons
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded

LIMITS = ReadLimits()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "txt": lambda data: data,
}
CODECS = sorted(COMPRESS)


def mixed(size: int) -> bytes:
    """Bytes of which some can be compressed."""
    draw = random.Random(size)
    return b"".join(draw.randbytes(50) + bytes(50) for _ in range(size // 100))


def read(path: Path, limits: ReadLimits = LIMITS) -> bytes:
    with open_expanded(str(path), limits) as stream:
        return stream.read()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 100, 3_000_000])
def test_what_went_in_comes_out(tmp_path: Path, codec: str, size: int) -> None:
    path = tmp_path / f"a.{codec}"
    path.write_bytes(COMPRESS[codec](mixed(size)))
    assert check_stream(str(path), LIMITS, hashlib.sha256(path.read_bytes()).hexdigest()) is None
    assert read(path) == mixed(size)


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz", "zst"])
def test_members_one_after_another_are_one_content_and_know_where_they_begin(tmp_path: Path, codec: str) -> None:
    first, second = COMPRESS[codec](b"one\n"), COMPRESS[codec](b"two\n")
    path = tmp_path / "named-otherwise"  # by its first bytes
    path.write_bytes(first + second + bytes(512))  # padded with zeros, as tar and tapes do
    assert read(path) == b"one\ntwo\n"
    with open_expanded(str(path), LIMITS) as stream:
        starts = [(stream.read_some(), stream.member_start) for _ in range(2)]
    assert starts == [(b"one\n", 0), (b"two\n", len(first))]


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz", "zst"])
def test_reading_goes_on_behind_damage(tmp_path: Path, codec: str) -> None:
    parts = [COMPRESS[codec](b"WARC " + mixed(1000)) for _ in range(3)]
    broken = parts[1][: len(parts[1]) // 2]
    path = tmp_path / f"a.{codec}"
    path.write_bytes(parts[0] + broken + parts[2])
    with open_expanded(str(path), LIMITS) as stream:
        with pytest.raises(Unreadable):
            stream.read()
        assert stream.skip_damage(b"WARC ")
        assert stream.member_start <= stream.raw_read == len(parts[0]) + len(broken)
        assert stream.read() == b"WARC " + mixed(1000)
        assert not stream.skip_damage(b"WARC ")


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz", "zst"])
def test_an_expansion_beyond_the_limits_is_refused(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"a.{codec}"
    path.write_bytes(COMPRESS[codec](bytes(8_000_000)))
    for limits in (ReadLimits(max_expansion=20, free_expansion_bytes=1_000_000), ReadLimits(max_expanded_bytes=2_000_000)):
        refusal = check_stream(str(path), limits)
        assert refusal is not None and refusal.reason == "expansion_limit"
    assert check_stream(str(path), ReadLimits(max_expansion=1e6)) is None


def test_bytes_that_are_neither_text_nor_what_the_name_says_are_damaged(tmp_path: Path) -> None:
    for codec in ("gz", "bz2", "xz", "zst"):
        path = tmp_path / f"a.{codec}"
        path.write_bytes(b"\xff\xfe\0\x80" * 50)
        refusal = check_stream(str(path), LIMITS)
        assert refusal is not None and refusal.reason == "damaged" and refusal.offset < 5
        path.write_bytes(b"<html>404 Not Found</html>")
        assert check_stream(str(path), LIMITS) is None and read(path) == b"<html>404 Not Found</html>"


def test_changed_missing_and_irregular_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.gz").symlink_to(path)
    got = [check_stream(str(place), LIMITS) for place in (tmp_path, tmp_path / "pipe", tmp_path / "link.gz", tmp_path / "no")]
    assert [refusal and refusal.reason for refusal in got] == ["not_a_file", "not_a_file", "unreadable", "unreadable"]
    changed = check_stream(str(path), LIMITS, sha256="0" * 64)
    assert changed is not None and changed.reason == "content_changed"


def test_it_serves_tarfile(tmp_path: Path) -> None:
    (tmp_path / "member.txt").write_bytes(mixed(700_000))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "member.txt", "member.txt")
    with open_expanded(str(tmp_path / "a.tar.gz"), LIMITS) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        member = archive.next()
        assert member is not None
        content = archive.extractfile(member)
        assert content is not None and content.read() == mixed(700_000)


@given(data=st.binary(max_size=2000), codec=st.sampled_from(["gz", "bz2", "xz", "zst"]))
@settings(deadline=None, max_examples=200)
def test_noise_is_refused_or_read_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes, codec: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"noise.{codec}"
    path.write_bytes(data)
    refusal = check_stream(str(path), LIMITS)
    assert refusal is None or refusal.reason in ("truncated", "damaged", "unsupported_compression")


def test_what_is_compressed_twice_says_so(tmp_path: Path) -> None:
    content = b'{"text": "Some prose."}\n' * 200
    for outer in (gzip.compress, bz2.compress, lzma.compress):
        for inner in (gzip.compress, bz2.compress, lzma.compress):
            (tmp_path / "a.jsonl.gz").write_bytes(outer(inner(content)))
            assert reasons(read_dump(tmp_path / "a.jsonl.gz", "json_lines")) == ["nested_compression"]
