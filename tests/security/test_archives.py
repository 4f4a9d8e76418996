"""Rows S02, S03 and S06 of the fault matrix for archives: bombs, members that want out, and bytes at random."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import Skips, describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.safe_open import Refusal

MAX_RSS = 512 * 1024**2
READ = """
import json, re, sys
from collections import Counter
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.folder import Skips, describe
file = describe(sys.argv[1], "a", "s", "g").model_copy(update={"form": "archive"})
found = Counter()
for _, content, _ in texts_of(file, SourceConfig(limits=ReadLimits(max_expansion=300, free_expansion_bytes=2**20))):
    if not isinstance(content, Skips):
        found[content.reason if isinstance(content, Refusal) else "text"] += 1
# VmHWM, for ru_maxrss remembers the parent that this process was forked from
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
print(json.dumps([found, peak]))
"""


def read(path: Path, limits: ReadLimits | None = None) -> Counter[str]:
    file = describe(str(path), path.name, "s", "g").model_copy(update={"form": "archive"})
    found = texts_of(file, SourceConfig(limits=limits or ReadLimits()))
    contents = (record.content for record in found if not isinstance(record.content, Skips))
    return Counter(content.reason if isinstance(content, Refusal) else "text" for content in contents)


def read_apart(path: Path) -> dict[str, int]:
    """Read in a process of its own, which may use no more than 512 MB and 60 seconds."""
    answer = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=60, check=True)
    found, rss = json.loads(answer.stdout)
    assert rss < MAX_RSS, f"{rss / 1024**2:.0f} MB"
    return found


# ---- S02: bombs


def overlapping_zip(path: Path, names: int) -> None:
    """Every name of the directory points at one and the same deflated megabyte of zeros (Fifield 2019, fully overlapping)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(bytes(1_000_000)) + packer.flush()
    fields = (20, 0, 8, 0, 33, zlib.crc32(bytes(1_000_000)), len(body), 1_000_000)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *fields, 4, 0) + b"a.py" + body
    rows = [struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, 8, 0, 0, 0, 0, 0, 0) + b"%08x" % i for i in range(names)]
    directory = b"".join(rows)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, names, names, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


def test_s02_members_that_overlap_are_a_bomb(tmp_path: Path) -> None:
    overlapping_zip(tmp_path / "a.zip", 20_000)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:  # 20 GB by its own word
        assert sum(info.file_size for info in archive.infolist()) == 20_000_000_000
    assert read_apart(tmp_path / "a.zip") == {"expansion_limit": 1}


def test_s02_a_zip_of_zeros_stops_at_the_limit(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for index in range(30):
            archive.writestr(f"{index}.py", bytes(1_900_000))
    found = read(tmp_path / "a.zip", ReadLimits(max_expansion=100, free_expansion_bytes=2**20))
    assert found["expansion_limit"] == 1 and found.total() < 12
    assert found.total() - found["expansion_limit"] == found["nul_byte"]


def test_s02_a_member_larger_than_it_says_is_read_no_further(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", b"#" * 50_000_000)
    content = (tmp_path / "a.zip").read_bytes()
    assert content.count(struct.pack("<L", 50_000_000)) == 2
    (tmp_path / "a.zip").write_bytes(content.replace(struct.pack("<L", 50_000_000), struct.pack("<L", 10)))
    assert read_apart(tmp_path / "a.zip") == {"damaged": 1}


def test_s02_a_tar_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    """One member of 1 GB of zeros in 1 MB: skipped by its size, but a stream must be read to pass it."""
    header = tarfile.TarInfo("a.bin")
    header.size = 1024**3
    zeros = gzip.compress(bytes(16 * 1024**2))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header.tobuf()) + zeros * 64)
    begun = time.perf_counter()
    assert read_apart(tmp_path / "a.tar.gz") == {"expansion_limit": 1}
    assert time.perf_counter() - begun < 30


def test_s02_an_extended_header_is_bounded(tmp_path: Path) -> None:
    """tarfile would read a path of 600 MB into memory."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 600_000_000
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with (tmp_path / "a.tar").open("r+b") as stream:
        stream.truncate(50_000_000)
    assert read_apart(tmp_path / "a.tar") == {"expansion_limit": 1}


def test_s02_archives_in_archives_stay_closed(tmp_path: Path) -> None:
    content = b"x = 1\n"
    for level in range(6):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(16):
                archive.writestr(f"{index}.zip" if level else f"{index}.py", content)
        content = buffer.getvalue()
    (tmp_path / "a.zip").write_bytes(content)
    assert read_apart(tmp_path / "a.zip") == {"nested_archive": 16}


# ---- S03: members that want out


def evil(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 6 if kind == tarfile.REGTYPE else 0
    return info


SHAPES: dict[str, tuple[list[tarfile.TarInfo], dict[str, int]]] = {
    "parent": ([evil("../escape.py")], {"unsafe_path": 1}),
    "parent-inside": ([evil("a/../../escape.py")], {"unsafe_path": 1}),
    "parent-backslash": ([evil("a\\..\\..\\escape.py")], {"unsafe_path": 1}),
    "absolute": ([evil("/tmp/escape.py")], {"unsafe_path": 1}),
    "drive": ([evil("C:/escape.py")], {"unsafe_path": 1}),
    "symlink-then-file": ([evil("d.py", tarfile.SYMTYPE, ".."), evil("d.py/escape.py")], {"link": 1, "text": 1}),
    "symlink-to-secret": ([evil("a.py", tarfile.SYMTYPE, "/etc/passwd")], {"link": 1}),
    "hardlink": ([evil("a.py", tarfile.LNKTYPE, "../secret.py")], {"link": 1}),
    "device": ([evil("a.py", tarfile.CHRTYPE), evil("b.py", tarfile.BLKTYPE)], {"not_a_file": 2}),
    "fifo": ([evil("a.py", tarfile.FIFOTYPE)], {"not_a_file": 1}),
    "duplicate": ([evil("a.py"), evil("./a.py"), evil("a.py")], {"text": 3}),
    "long-name": ([evil("a/" * 3000 + "a.py")], {"unsafe_path": 1}),
    "control-characters": ([evil("a\n\x1b[2J\u202e.py")], {"text": 1}),
}


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*"))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_s03_nothing_leaves_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, suffix: str) -> None:
    members, expected = SHAPES[shape]
    (tmp_path / "work").mkdir()
    (tmp_path / "secret.py").write_text("secret")
    path = tmp_path / "work" / f"a.tar{suffix}"
    with tarfile.open(path, "w:gz" if suffix else "w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x = 1\n") if info.size else None)
    monkeypatch.chdir(tmp_path / "work")
    before = snapshot(tmp_path)
    assert read(path) == expected
    assert snapshot(tmp_path) == before
    assert not list(Path("/tmp").glob("escape.py"))


def test_s03_members_without_number_are_read_in_little_memory(tmp_path: Path) -> None:
    """Half of them devices, of which no more than 10,000 are told one by one."""
    device, file = evil("d", tarfile.CHRTYPE), evil("x.py")
    file.size = 0
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as stream:
        for index in range(11_000):
            file.name = f"{index}.py"
            stream.write(device.tobuf() + file.tobuf())
    assert read_apart(tmp_path / "a.tar.gz") == {"not_a_file": 10_000, "text": 10_000, "too_many_members": 1}


def test_s03_links_and_names_of_zip_members_are_refused_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../escape.py", "x = 1")
        archive.writestr("/escape.py", "x = 1")
        archive.writestr("good.py", "x = 1")
    assert read(tmp_path / "a.zip") == {"link": 1, "unsafe_path": 2, "text": 1}


# ---- S06: bytes at random


def a_tar(members: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for index in range(members):
            info = tarfile.TarInfo(f"ä{index}/" + "long/" * 25 + "a.py")
            info.size = 600
            archive.addfile(info, io.BytesIO(b"x = 1\n" * 100))
    return buffer.getvalue()


def a_zip(members: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(members):
            archive.writestr(f"ä{index}/a.py", b"x = 1\n" * 100)
    return buffer.getvalue()


@pytest.mark.parametrize("maker", [a_tar, a_zip])
def test_s06_mutated_bytes_give_texts_or_reasons(tmp_path: Path, maker) -> None:
    whole = maker(4)
    draw = random.Random(6)
    reasons: Counter[str] = Counter()
    path = tmp_path / "a"
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8, 64))):
            place = draw.randrange(len(content))
            content[place] = draw.choice((0, 0xFF, draw.randrange(256), ord("7")))
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        path.write_bytes(content)
        reasons += read(path)
    assert reasons["text"] > 50 and len(reasons) > 4, reasons
