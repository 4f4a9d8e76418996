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
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

from pipeline_lib.config import ExtractConfig, SourceConfig
from pipeline_lib.pairs.bundle import ExtractWork, extract_bundle
from pipeline_lib.pairs.cluster import Killed, local_cluster, run_tasks
from pipeline_lib.pairs.filters import is_test_path
from pipeline_lib.pairs.languages import PYTHON
from pipeline_lib.sources.bundles import Bundle, bundles_of, list_files
from pipeline_lib.sources.source_file import SourceFile

WORK = ExtractWork(source=SourceConfig(), extract=ExtractConfig())


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller sample, under 50 s on 2 cores")
    quick = parser.parse_args().quick
    files = ordered_files()
    one_core = sample(files, 5_000_000 if quick else 24_000_000, 3_000_000)
    two_workers = sample(files, 10_000_000 if quick else 48_000_000, 1_000_000)
    figures = {**per_core(one_core, rounds=4 if quick else 9), **scaling(two_workers, rounds=2 if quick else 4)}
    print(json.dumps(figures))


def ordered_files() -> list[SourceFile]:
    """The Python files that are no tests, by the hash of their path."""
    files = [file for file in list_files(SourceConfig()) if file.form == "python" and not is_test_path(file.path)]
    return sorted(files, key=lambda file: hashlib.sha256(file.path.encode()).digest())


def sample(files: list[SourceFile], total_bytes: int, bundle_bytes: int) -> list[Bundle]:
    """Bundles of the first files, `total_bytes` in all."""
    before = accumulate((file.bytes for file in files), initial=0)
    chosen = [file for file, offset in zip(files, before, strict=False) if offset < total_bytes]
    return bundles_of(chosen, bundle_bytes)


def bare(bundle: Bundle) -> None:
    """Read and parse, and nothing else."""
    for file in bundle.files:
        with open(file.place, "rb") as stream:  # noqa: PTH123  # as cheaply as can be
            PYTHON.parser.parse(stream.read())


def per_core(bundles: list[Bundle], rounds: int) -> dict[str, float | int]:
    """Both in turn in this process, on one core: the median over bundles and rounds of the ratio of two neighbouring times.

    Each of ours is held against the mean of the parsing just before and just after it, for a machine's speed drifts.
    """
    ratios, ours, parse = [], 0.0, 0.0
    with one_core(), folder() as root:
        extract_bundle(f"{root}/warm", bundles[0], WORK)
        for round_ in range(rounds):
            for bundle in bundles:
                before = timed(partial(bare, bundle))
                seconds = timed(partial(extract_bundle, f"{root}/{round_}", bundle, WORK))
                after = timed(partial(bare, bundle))
                ratios.append((before + after) / 2 / seconds)
                ours, parse = ours + seconds, parse + (before + after) / 2
            print(f"one core, round {round_}: " + ", ".join(f"{ratio:.3f}" for ratio in ratios[-len(bundles) :]))
    size = rounds * sum(bundle.bytes for bundle in bundles)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "python_of_bare_parse_per_core": round(middle, 3),
        "python_of_bare_parse_per_core_quartile_low": round(low, 3),
        "python_of_bare_parse_per_core_quartile_high": round(high, 3),
        "mb_per_second_per_core": round(size / ours / 1e6, 2),
        "bare_mb_per_second_per_core": round(size / parse / 1e6, 2),
        "sample_bytes": size // rounds,
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
        return timed(lambda: run(f"{root}/timed", bundles))


def parse_seconds(bundles: list[Bundle], workers: int) -> float:
    """Parse all bundles in that many processes, after one task each to warm them."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(bare, bundles[:1] * (2 * workers)))
        return timed(lambda: list(pool.map(bare, bundles)))


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
