"""Training reads far more than memory holds, from a disk and from a distant bucket, and hardly ever waits for it.

A step is 60 ms of arithmetic here; what is measured is how long it had to wait for its batch. Run by itself this file is the
process under a memory limit that the tests start.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.config.data import CurateConfig, ReadingConfig
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.batches import BatchPlan
from pipeline_lib.tokens.rows import PairRows
from pipeline_lib.train.batches import ReadAhead

STAGE = Stage(name="shards", version=1)
STEP_SECONDS, X_TOKENS, Y_TOKENS = 0.06, 48, 256
ROW_BYTES = 2 * (X_TOKENS + Y_TOKENS)
MEMORY = Path("/sys/fs/cgroup/memory")  # of cgroup version 1; version 2 keeps it one folder up
VERSION_2 = Path("/sys/fs/cgroup")


def write_rows(store: Store, files: int, rows: int) -> None:
    """An artifact of stage "shards" with generated token ids."""
    scratch = store.scratch(STAGE.name)
    random = np.random.default_rng(0)
    for number in range(files):
        first = number * rows
        columns: dict[str, Any] = {"pair_id": pa.array([f"{first + i:032x}" for i in range(rows)])}
        for side, length in (("x", X_TOKENS), ("y", Y_TOKENS)):
            ids = random.integers(0, 30_000, rows * length, dtype=np.uint16)
            ids[::length] = (first + np.arange(rows)) % 30_000
            columns[f"{side}_ids"] = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, ids)
        columns |= {name: np.arange(first, first + rows) for name in ("x_hash", "y_hash", "document_hash")}
        table = pa.table(columns)
        with pa.OSFile(str(scratch / f"shard-{number:05d}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_batch(table.combine_chunks().to_batches()[0])
    names = {f"shard-{number:05d}.arrow": rows for number in range(files)}
    n = files * rows
    part = store.commit_part(draft_part(STAGE, "part", "train-docstring", Counts(n_in=n, n_out=n), names), scratch)
    store.build(STAGE, CurateConfig(), {}, lambda _: Outcome(parts=(part,), counts=part.counts))


def steps_of(place: str, cache: str, steps: int, batch: int, room: int, **order: int) -> dict[str, Any]:
    """Take the steps; returns the longest waits and what memory was used."""
    store = Store(cache, place if "://" in place else "")
    shards = store.open(STAGE.name, store.key(STAGE, CurateConfig(), {}))
    reading = ReadingConfig(fetched_bytes=room, steps_ahead=64, batches_ahead=4)
    rows = PairRows(shards, {"docstring": 1.0}, batch, 1, reading, **order)
    ahead = ReadAhead(rows.read, steps, reading.batches_ahead)
    waits, seen, most = [], set(), 0
    for step in range(steps):
        indices, found = ahead.get(step)["docstring"]
        waits.append(ahead.wait_seconds)
        assert [ids[0] for ids in found.x_ids] == (indices % 30_000).tolist()
        assert found.y_hash.tolist() == indices.tolist()
        seen.update(indices.tolist())
        most = max(most, _shard_bytes(Path(cache)) if step % 16 == 0 else 0)
        _compute(STEP_SECONDS)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "p99": float(np.quantile(waits[1:], 0.99)),
        "first": waits[0],
        "worst": max(waits[1:]),
        "rows": len(seen),
        "of": len(rows.datasets["docstring"]),
        "anonymous_kilobytes": int(status["RssAnon"].split()[0]),
        "cache_bytes": most,
    }


def _shard_bytes(cache: Path) -> int:
    """What the fetched shards take, while a thread of the reader makes room for others."""
    total = 0
    for path in cache.rglob("*.arrow"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _compute(seconds: float) -> None:
    end, matrix = time.monotonic() + seconds, np.ones((256, 256), np.float32)
    while time.monotonic() < end:
        matrix = np.tanh(matrix @ matrix)


@pytest.fixture
def limited() -> Iterator[Any]:
    """Runs this file in a process that may use so many bytes, the pages of files that it maps included."""
    version_1 = (MEMORY / "memory.limit_in_bytes").is_file()
    group = (MEMORY if version_1 else VERSION_2) / f"cpt-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")

    def run(limit: int, *arguments: object) -> dict[str, Any]:
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(limit))
        command = [sys.executable, __file__, str(group / "cgroup.procs"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        peak = int((group / ("memory.max_usage_in_bytes" if version_1 else "memory.peak")).read_text())
        return {**json.loads(done.stdout), "peak_bytes": peak}

    yield run
    group.rmdir()


def test_a_bucket_is_read_within_its_room(s3: Any, tmp_path: Path) -> None:
    s3.mkdir("tokens-small")
    write_rows(Store(tmp_path / "writer", "s3://tokens-small/root"), files=12, rows=512)
    size = 512 * ROW_BYTES
    found = steps_of("s3://tokens-small/root", str(tmp_path / "reader"), 24, 256, 4 * size, block_rows=512, window_blocks=2)
    assert found["rows"] == found["of"] == 12 * 512
    assert found["cache_bytes"] < 6 * size


def test_the_order_from_a_bucket_is_that_from_a_disk() -> None:
    plan = BatchPlan(sizes={"v": 6144}, mixture={"v": 1.0}, batch_size=256, seed=1, digest="d", block_rows=512, window_blocks=2)
    files = [np.unique(plan.rows(step)["v"] // 512).tolist() for step in range(24)]
    assert max(map(len, files)) <= 4  # two windows at most: so few files are needed near at a time


@pytest.mark.slow
def test_data_of_five_times_the_memory_from_a_disk(limited: Any, tmp_path: Path) -> None:
    limit, rows = 320 * 2**20, 32_768
    files = 5 * limit // (rows * ROW_BYTES) + 1
    write_rows(Store(tmp_path), files, rows)
    for path in tmp_path.rglob("*.arrow"):  # or its pages stay in memory, at the cost of who wrote them
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = limited(limit, tmp_path, tmp_path, 600, 256, 1, 2048, 16)
    print("disk", found)
    assert found["of"] * ROW_BYTES > 5 * limit and found["rows"] == 600 * 256
    assert found["peak_bytes"] <= limit
    assert found["p99"] < 0.01 * STEP_SECONDS


@pytest.mark.slow
def test_data_of_five_times_the_room_from_a_store_of_50_ms(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.server import DomainDispatcherApplication

    s3.mkdir("tokens-far")
    rows, files = 2048, 200
    write_rows(Store(tmp_path / "writer", "s3://tokens-far/root"), files, rows)
    answer = DomainDispatcherApplication.__call__

    def late(self: Any, environ: Any, start: Any) -> Any:
        time.sleep(0.05)
        return answer(self, environ, start)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", late)
    room = files * rows * ROW_BYTES // 5
    command = [sys.executable, __file__, "", "s3://tokens-far/root", tmp_path / "reader", 400, 256, room, rows, 8]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print("bucket", found)
    assert found["cache_bytes"] < 1.2 * found["of"] * ROW_BYTES / 5
    assert found["p99"] < 0.01 * STEP_SECONDS


if __name__ == "__main__":
    group, place, cache, *numbers = sys.argv[1:]
    if group:
        Path(group).write_text(str(os.getpid()))
    steps, batch, room, block_rows, window_blocks = map(int, numbers)
    json.dump(steps_of(place, cache, steps, batch, room, block_rows=block_rows, window_blocks=window_blocks), sys.stdout)
