"""Our extraction against bare tree-sitter parsing of the same files.

    python -m benchmarks.extract [--quick]

Bare: read each file and call `Parser.parse` on it. Ours: all that a Dask task does for a bundle: read, check the hash, decode,
parse, walk, filter, segment, build the Arrow tables, write the Parquet files, hash and commit the part. The files are
Python sources of the standard library and the runtime dependencies, drawn by the hash of their path, tests left out (ours
does not parse them). First both in turn in one process on one core, then each with one and with two worker processes.
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from pipeline_lib.config import ExtractConfig, SourceConfig
from pipeline_lib.pairs.bundle import ExtractWork, extract_bundle
from pipeline_lib.pairs.cluster import Killed, local_cluster, run_tasks
from pipeline_lib.pairs.filters import is_test_path
from pipeline_lib.pairs.languages import PYTHON
from pipeline_lib.sources.bundles import Bundle, bundles_of, list_files

WORK = ExtractWork(source=SourceConfig(), extract=ExtractConfig())


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller sample, under 50 s on 2 cores")
    quick = parser.parse_args().quick
    one_core = sample(3_000_000 if quick else 12_000_000, 1_000_000)
    two_workers = sample(10_000_000 if quick else 40_000_000, 1_000_000)
    figures = {**per_core(one_core, rounds=5 if quick else 9), **scaling(two_workers, rounds=2 if quick else 3)}
    print(json.dumps(figures))


def sample(total_bytes: int, bundle_bytes: int) -> list[Bundle]:
    """Bundles of Python files in the order of their paths' hashes, `total_bytes` in all."""
    files = [file for file in list_files(SourceConfig()) if file.form == "python" and not is_test_path(file.path)]
    files.sort(key=lambda file: hashlib.sha256(file.path.encode()).digest())
    chosen, size = [], 0
    for file in files:
        if size >= total_bytes:
            break
        chosen.append(file)
        size += file.bytes
    return bundles_of(chosen, bundle_bytes)


def bare(bundle: Bundle) -> None:
    """Read and parse, and nothing else."""
    for file in bundle.files:
        with open(file.place, "rb") as stream:  # noqa: PTH123  # as cheaply as can be
            PYTHON.parser.parse(stream.read())


def per_core(bundles: list[Bundle], rounds: int) -> dict[str, float | int]:
    """Both in turn in this process, on one core; the ratio is the median over the rounds."""
    ours_seconds, bare_seconds, cpu_ratios = [], [], []
    with one_core(), folder() as root:
        for round_ in range(rounds + 1):
            ours, ours_cpu = timed(lambda: [extract_bundle(f"{root}/{round_}", bundle, WORK) for bundle in bundles])  # noqa: B023
            parse, parse_cpu = timed(lambda: [bare(bundle) for bundle in bundles])
            if round_:  # the first one warms caches and imports
                ours_seconds.append(ours)
                bare_seconds.append(parse)
                cpu_ratios.append(parse_cpu / ours_cpu)
            print(f"one core, round {round_}: ours {ours:.2f} s, bare parsing {parse:.2f} s, {parse / ours:.3f}")
    size = sum(bundle.bytes for bundle in bundles)
    ratios = [parse / ours for parse, ours in zip(bare_seconds, ours_seconds, strict=True)]
    return {
        "python_of_bare_parse_per_core": round(statistics.median(ratios), 3),
        "python_of_bare_parse_per_core_cpu_time": round(statistics.median(cpu_ratios), 3),
        "python_of_bare_parse_per_core_low": round(min(ratios), 3),
        "python_of_bare_parse_per_core_high": round(max(ratios), 3),
        "mb_per_second_per_core": round(size / statistics.median(ours_seconds) / 1e6, 2),
        "bare_mb_per_second_per_core": round(size / statistics.median(bare_seconds) / 1e6, 2),
        "sample_bytes": size,
        "sample_files": sum(len(bundle.files) for bundle in bundles),
    }


def scaling(bundles: list[Bundle], rounds: int) -> dict[str, float]:
    """The speed-up of either from a second process, start-up excluded; each the best of the rounds."""
    ours = {workers: [] for workers in (1, 2)}
    parse = {workers: [] for workers in (1, 2)}
    for round_ in range(rounds):
        for workers in (1, 2):
            ours[workers].append(ours_seconds(bundles, workers))
            parse[workers].append(parse_seconds(bundles, workers))
            print(f"{workers} workers, round {round_}: ours {ours[workers][-1]:.2f} s, bare parsing {parse[workers][-1]:.2f} s")
    ours_speedup, parse_speedup = min(ours[1]) / min(ours[2]), min(parse[1]) / min(parse[2])
    return {
        "two_workers_of_bare_parse_scaling": round(ours_speedup / parse_speedup, 3),
        "two_workers_speedup": round(ours_speedup, 3),
        "two_workers_bare_speedup": round(parse_speedup, 3),
    }


def ours_seconds(bundles: list[Bundle], workers: int) -> float:
    """Extract all bundles on a cluster of that size, after one task each to warm it."""
    with local_cluster(workers, WORK.extract.worker_memory_bytes) as client, folder() as root:

        def take(_: int, result: object) -> None:
            assert not isinstance(result, Killed), "a worker was killed: too little memory for the benchmark"

        def run(place: str, some: list[Bundle]) -> None:
            run_tasks(client, extract_bundle, [(place, bundle, WORK) for bundle in some], take, lambda: None)

        run(f"{root}/warm", bundles[:1] * (2 * workers))
        return timed(lambda: run(f"{root}/timed", bundles))[0]


def parse_seconds(bundles: list[Bundle], workers: int) -> float:
    """Parse all bundles in that many processes, after one task each to warm them."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(bare, bundles[:1] * (2 * workers)))
        return timed(lambda: list(pool.map(bare, bundles)))[0]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is removed again."""
    place = Path(tempfile.mkdtemp(prefix="benchmark-extract-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
