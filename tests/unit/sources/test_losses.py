"""Containers that end early: what came before the break is kept, whole, and the break is told once with what it cost."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from dump_files import page, read_dump, response, texts

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources import codecs, readers
from pipeline_lib.sources.codecs import codec_of
from pipeline_lib.sources.decompress import Expanded, Unreadable, open_expanded
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.records import DataLoss, SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import Form

lz4_frame = pytest.importorskip("lz4.frame", reason="lz4 is of the extra `dumps`")
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".lz4": lambda data: lz4_frame.compress(data, content_checksum=True),
}
COMPRESSED = sorted(set(CODECS) - {""})
WORDS = [random.Random(n).randbytes(3).hex() for n in range(400)]


def prose(number: int) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=40))


def lines(count: int) -> bytes:
    return b"".join(json.dumps({"text": prose(n), "id": str(n)}).encode() + b"\n" for n in range(count))


def tar(count: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for n in range(count):
            info = tarfile.TarInfo(f"p{n}.py")
            info.size = len(prose(n))
            archive.addfile(info, io.BytesIO(prose(n).encode()))
    return out.getvalue()


def zipped(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(count):
            archive.writestr(f"p{n}.py", prose(n))
    return out.getvalue()


def xml(count: int) -> bytes:
    one = "<page><title>T{}</title><ns>0</ns><revision><text>{}</text></revision></page>"
    return f"<mediawiki>{''.join(one.format(n, prose(n)) for n in range(count))}</mediawiki>".encode()


def warc(count: int) -> bytes:
    return b"".join(response(f"http://a.org/{n}", page(prose(n)), gzip=False) for n in range(count))


MAKERS: dict[str, tuple[Form, Callable[[int], bytes]]] = {
    "a.jsonl": ("json_lines", lines),
    "a.tar": ("archive", tar),
    "a.zip": ("archive", zipped),
    "a.xml": ("mediawiki", xml),
    "a.warc": ("warc", warc),
}
LAYOUTS = [(name, suffix) for name in MAKERS for suffix in CODECS if name != "a.zip" or not suffix]


def losses(found: list[SourceRecord]) -> list[Refusal]:
    return [item.content for item in found if isinstance(item, DataLoss) and isinstance(item.content, Refusal)]


@pytest.mark.parametrize(("name", "suffix"), LAYOUTS)
def test_a_file_that_is_cut_keeps_what_came_before_and_tells_the_cut(tmp_path: Path, name: str, suffix: str) -> None:
    form, make = MAKERS[name]
    whole = CODECS[suffix](make(150))
    path = tmp_path / (name + suffix)
    path.write_bytes(whole)
    full = list(texts(read_dump(path, form)).items())
    assert len(full) == 150
    before = 0
    for tenth in range(1, 10):
        path.write_bytes(whole[: tenth * len(whole) // 10])
        found = read_dump(path, form)
        kept = list(texts(found).items())
        assert kept == full[: len(kept)] and before <= len(kept) < 150 + (name == "a.zip"), (
            "a beginning of it, never less of more"
        )
        before = len(kept)
        if (name, suffix) == ("a.jsonl", ""):
            assert [getattr(item.content, "reason", "") for item in found].count("not_json") <= 1  # the line that was cut
        else:
            (loss,) = losses(found)
            assert loss.reason == "truncated" or (not suffix and loss.reason in ("xml_damaged", "no_warc_header"))
            if loss.reason == "truncated":
                assert loss.lost_bytes == path.stat().st_size  # nobody knows how much is missing: all of it is weighed
    if suffix not in (".bz2", ".zst", ".lz4"):  # which give blocks of 64 kB and more, or nothing
        assert before > 100


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_what_comes_before_damage_does_not_depend_on_the_pieces_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte is flipped: the same bytes come out in pieces of 50 bytes as in one, and the damage is told at the same place."""
    path = tmp_path / f"a{suffix}"
    whole = bytearray(CODECS[suffix](lines(1500)))
    for place in (len(whole) // 3, len(whole) * 4 // 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        seen = set()
        for most in (50, 1000, 7777, 1 << 20):
            with open_expanded(str(path), ReadLimits()) as stream:
                monkeypatch.setattr(stream, "_piece", most)
                seen.add(drained(stream))
        assert len(seen) == 1, [(len(out), refusal) for out, refusal in seen]
        ((out, refusal),) = seen
        if refusal is not None:
            assert refusal.reason in ("damaged", "truncated") and refusal.offset >= place
            assert refusal.lost_bytes is not None and 0 <= refusal.lost_bytes <= len(whole)
        assert len(out) < len(lines(1500)) or refusal is not None or suffix == ".lzma"  # which has no checksum


def drained(stream: Expanded) -> tuple[bytes, Refusal | None]:
    out = bytearray()
    try:
        while data := stream.read_some(3333):
            out += data
    except Unreadable as error:
        return bytes(out), error.refusal
    return bytes(out), None


def test_the_cost_of_damage_is_what_lies_behind_it_and_of_a_false_checksum_the_member(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    first, second = gzip.compress(lines(200)), gzip.compress(lines(200))
    path.write_bytes(first + second[:10] + b"\xff" * 20 + second[30:])  # no deflate block begins with 0xff
    found = read_dump(path, "json_lines")
    (loss,) = losses(found)
    assert len(texts(found)) == 200 and loss.reason == "damaged" and len(first) + 10 <= loss.offset <= len(first) + 12
    assert loss.lost_bytes == path.stat().st_size - loss.offset
    path.write_bytes(first + second[:-8] + zlib.crc32(b"other").to_bytes(4, "little") + second[-4:])
    found = read_dump(path, "json_lines")
    (loss,) = losses(found)
    assert len(texts(found)) == 400 and (loss.reason, loss.lost_bytes) == ("damaged", len(second))
    assert f"begins at byte {len(first)} is not what was written" in loss.detail


def test_the_first_bytes_tell_the_codec_not_the_name(tmp_path: Path) -> None:
    for suffix, compress in CODECS.items():
        for other in ("", ".gz", ".zst", ".bz2"):
            path = tmp_path / f"a.jsonl{other}"
            path.write_bytes(compress(lines(20)))
            assert len(texts(read_dump(path, "json_lines"))) == 20, (suffix, other)
    path = tmp_path / "book.txt"
    path.write_bytes(gzip.compress(b"A text under a wrong name."))
    (found,) = texts_of(describe(str(path), path.name, "s", "g"), SourceConfig())
    assert isinstance(found.content, SourceText) and found.content.text == "A text under a wrong name."


@pytest.mark.parametrize(
    ("head", "name", "advice"),
    [(b"7z\xbc\xaf\x27\x1c\0\4", "a.7z", "7z x a.7z"), (b"Rar!\x1a\x07\1\0", "a.rar", "unrar x a.rar"),
     (b"LZIP\1\xff\xfe\0", "a.lz", "lzip -d"), (b"\x1f\x9d\x90\xff\0", "a.Z", "gunzip"),
     (b"\x8b\xff\0\x80", "a.br", "brotli -d")],
)  # fmt: skip
def test_a_format_that_is_not_read_has_a_reason_of_its_own(tmp_path: Path, head: bytes, name: str, advice: str) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(1000))
    for form in ("archive", "json_lines", "plain")[name == "a.7z" :]:
        (found,) = read_dump(path, form)
        assert isinstance(found.content, Refusal) and found.content.reason == "unsupported_compression", form
        assert advice in found.content.detail
        assert isinstance(found, DataLoss) == (form != "plain")
    assert codec_of(b"LZIP is a format, and this is a text of it.", "a.txt") is None


def test_a_large_window_is_told_with_the_flag_that_made_it_and_can_be_allowed(tmp_path: Path) -> None:
    long = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=long).stream_writer(out, closefd=False) as writer:
        writer.write(lines(100))  # of unknown length: the frame names its window
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(out.getvalue())
    (loss,) = losses(read_dump(path, "json_lines"))
    assert loss.reason == "zstd_window" and loss.lost_bytes == path.stat().st_size
    assert "--long=28" in loss.detail and "max_zstd_window_bytes" in loss.detail
    assert len(texts(read_dump(path, "json_lines", ReadLimits(max_zstd_window_bytes=2**28)))) == 100
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(lines(100), preset=9))
    (loss,) = losses(read_dump(path, "json_lines", ReadLimits(max_xz_memory_bytes=2**20)))
    assert loss.reason == "xz_memory" and "max_xz_memory_bytes" in loss.detail


def test_empty_files_zeros_and_folders_in_place_of_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    assert [loss.reason for loss in losses(read_dump(tmp_path / "a.jsonl.gz", "json_lines"))] == ["file_empty"]
    (tmp_path / "b.jsonl.gz").write_bytes(bytes(100_000))
    (loss,) = losses(read_dump(tmp_path / "b.jsonl.gz", "json_lines"))
    assert loss.reason == "damaged" and loss.offset < 2 and loss.lost_bytes == 100_000 - loss.offset
    (tmp_path / "c.jsonl").mkdir()
    assert [loss.reason for loss in losses(read_dump(tmp_path / "c.jsonl", "json_lines"))] == ["not_a_file"]


def test_a_gap_costs_what_was_passed_over_and_reading_goes_on(tmp_path: Path) -> None:
    parts = [response(f"http://a.org/{n}", page(prose(n))) for n in range(60)]
    broken = parts[30][: len(parts[30]) // 2]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join([*parts[:30], broken, *parts[31:]]))
    found = read_dump(path, "warc")
    assert len(texts(found)) == 59 and {loss.offset for loss in losses(found)} == {len(b"".join(parts[:30]))}
    assert 0 < sum(loss.lost_bytes or 0 for loss in losses(found)) < 8 * 1024


def test_an_archive_without_its_directory_gives_its_members(tmp_path: Path) -> None:
    whole = zipped(30)
    path = tmp_path / "a.zip"
    path.write_bytes(whole[: whole.index(b"PK\1\2")])  # all members, no directory
    found = read_dump(path, "archive")
    assert len(texts(found)) == 30 and [loss.reason for loss in losses(found)] == ["truncated"]
    place = whole.index(b"p20.py") + 60  # of its content
    path.write_bytes(whole[:place] + b"\0" + whole[place + 1 : whole.index(b"PK\1\2")])
    assert len(texts(read_dump(path, "archive"))) == 29


def test_no_bound_on_members_unless_one_is_set(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(500)))
    assert ReadLimits().max_members is None and len(texts(read_dump(path, "json_lines"))) == 500
    found = read_dump(path, "json_lines", ReadLimits(max_members=100))
    (loss,) = losses(found)
    assert len(texts(found)) == 100 and loss.reason == "too_many_members"
    assert loss.lost_bytes is not None and 0.7 < loss.lost_bytes / path.stat().st_size < 0.85


def test_names_are_told_apart_beyond_those_held_as_a_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readers, "_FRESH_NAMES", 50)
    file = describe(str(tmp_path), "a", "s", "g")
    names = readers._Names()
    draw = random.Random(0)
    paths = [f"p{draw.randrange(300)}" for _ in range(1000)]
    content = SourceText("x", b"x")
    got = [names.told_apart(SourceRecord(file.model_copy(update={"path": path}), content)).file.path for path in paths]
    assert len(set(got)) == 1000 and all(new.split("#")[0] == old for new, old in zip(got, paths, strict=True))
    assert names.sorted.dtype == np.uint64 and names.sorted.size + len(names.fresh) == 1000


def test_each_codec_of_the_table_is_tried_here() -> None:
    assert {suffix.lstrip(".") for suffix in COMPRESSED} == {codec.name for codec in codecs.CODECS}
