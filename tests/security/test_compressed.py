"""Rows S01 and S02 of the fault matrix for compressed streams: cut off anywhere, and bombs."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
CUTS = 250


@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_s01_a_stream_cut_off_anywhere_is_refused_as_truncated(tmp_path: Path, codec: str) -> None:
    draw = random.Random(1)
    whole = COMPRESS[codec](b"".join(b'{"text": "%s"}\n' % draw.randbytes(30).hex().encode() for _ in range(2000)))
    path = tmp_path / f"a.jsonl.{codec}"
    for k in range(CUTS):
        cut = k * len(whole) // CUTS
        path.write_bytes(whole[:cut])
        refusal = check_stream(str(path), ReadLimits())
        assert refusal is not None and (refusal.reason, refusal.offset) == ("truncated", cut), cut


def test_s01_control_the_standard_reader_gives_rows_of_a_truncated_zstd_file(tmp_path: Path) -> None:
    """Without the check, what is left of a file looks whole: the defence is not idle."""
    whole = COMPRESS["zst"](random.Random(1).randbytes(400_000).hex().encode())
    path = tmp_path / "a.zst"
    path.write_bytes(whole[: len(whole) // 2])
    with path.open("rb") as stream:
        assert len(zstandard.ZstdDecompressor().stream_reader(stream).read()) > 100_000  # and no error
    refusal = check_stream(str(path), ReadLimits())
    assert refusal is not None and refusal.reason == "truncated"


_CHILD = r"""
import json, re, sys, time
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import check_stream
begin = time.perf_counter()
refusal = check_stream(sys.argv[1], ReadLimits(max_expanded_bytes=int(sys.argv[2])))
# VmHWM, for ru_maxrss remembers the parent that this process was forked from
peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024
print(json.dumps([refusal and refusal.reason, peak, time.perf_counter() - begin]))
"""


def bomb(codec: str, path: Path, size: int) -> None:
    """Write `size` zero bytes, compressed."""
    openers = {"gz": gzip.open, "bz2": bz2.open, "zst": zstandard.open}
    with openers[codec](path, "wb") as stream:
        for _ in range(size // 2**20):
            stream.write(bytes(2**20))


@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_s02_a_bomb_stops_at_the_limit_in_little_memory(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"bomb.{codec}"
    bomb(codec, path, 400 * 2**20)
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(300 * 2**20)], capture_output=True, text=True, check=True, timeout=60
    )
    reason, peak_bytes, seconds = json.loads(child.stdout)
    assert reason == "expansion_limit"
    assert peak_bytes < 200 * 2**20  # all of it would be 400; the interpreter and pydantic are 60
    assert seconds < 20


def test_s02_a_nested_bomb_costs_what_its_outer_layer_costs(tmp_path: Path) -> None:
    path = tmp_path / "nested.gz"
    path.write_bytes(gzip.compress(gzip.compress(bytes(50 * 2**20))))
    begin = time.perf_counter()
    with pytest.raises(Unreadable, match="nested_compression: gz around gz"):
        open_expanded(str(path), ReadLimits())
    assert time.perf_counter() - begin < 5
