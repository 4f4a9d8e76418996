"""Our extraction against bare tree-sitter parsing of the same files.

    python -m benchmarks.extract [--quick] [--folder FOLDER]

Bare: read each file and call `Parser.parse` on it. Ours: all that a Dask task does for a bundle: read, check the hash, decode,
parse, walk, filter, segment, build the Arrow tables, write the Parquet files, hash and commit the part. The files are
Python sources of the standard library and the runtime dependencies, drawn by the hash of their path, tests left out (ours
does not parse them), in bundles as large as the demo's. First both in turn in one process on one core, then each with one and
with two worker processes. On one core it is the process's own time that counts, so that what else runs on the machine does not.
Other languages: 6 MB each, of what the folders given or those of the system hold.
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

from distributed import Client

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.languages import rules_of
from pipeline_lib.pairs.extract import ExtractWork, commit_rows, extract_bundle, extract_file, seldom_collected
from pipeline_lib.pairs.filters import is_test_path
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.runtime.cluster import Killed, local_cluster, run_tasks
from pipeline_lib.sources.dump_files import Bundle, bundles_of, list_files
from pipeline_lib.sources.folder import describe, walk
from pipeline_lib.sources.source_file import CODE_FORMS, SourceFile, form_of
from pipeline_lib.store.store import Store

WORK = ExtractWork(source=SourceConfig(), extract=ExtractConfig())


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller sample, under 50 s on 2 cores")
    parser.add_argument("--folder", action="append", help="where to look for the other languages' source; may be repeated")
    arguments = parser.parse_args()
    quick = arguments.quick
    files = ordered_files()
    one_core = sample(files, 6_000_000 if quick else 24_000_000, 6_000_000)
    two_workers = sample(files, 3_500_000 if quick else 7_000_000, 600_000)
    figures: dict[str, float | int] = {**others_per_core(arguments.folder or ["/usr/share", "/usr/lib", "/usr/local"], quick)}
    figures |= {**per_core(one_core, rounds=2 if quick else 5), **scaling(two_workers, rounds=4 if quick else 15)}
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


def bare(files: Iterable[SourceFile]) -> None:
    """Read and parse, and nothing else."""
    for file in files:
        with Path(file.place).open("rb") as stream:
            rules_of(file.form).parser.parse(stream.read())


def per_core(bundles: list[Bundle], rounds: int) -> dict[str, float | int]:
    """Both in turn in this process, on one core, file by file, ours with its share of each part's writing at the end.

    File by file, because a machine's speed drifts within seconds by more than what is to be measured.
    """
    ours, parse = [], []
    with one_core(), folder() as root:
        extract_bundle(f"{root}/warm", bundles[0], WORK)
        for round_ in range(rounds):
            seconds = [in_turn(Store(f"{root}/{round_}"), bundle) for bundle in bundles]
            ours.append(sum(pair[0] for pair in seconds))
            parse.append(sum(pair[1] for pair in seconds))
            print(f"one core: ours {ours[-1]:.2f} s, bare parsing {parse[-1]:.2f} s, {parse[-1] / ours[-1]:.3f}")
    ratios = [p / o for p, o in zip(parse, ours, strict=True)]
    size = sum(bundle.bytes for bundle in bundles)
    return {
        "python_of_bare_parse_per_core": round(sum(parse) / sum(ours), 3),
        "python_of_bare_parse_per_core_low": round(min(ratios), 3),
        "python_of_bare_parse_per_core_high": round(max(ratios), 3),
        "mb_per_second_per_core": round(size * rounds / sum(ours) / 1e6, 2),
        "bare_mb_per_second_per_core": round(size * rounds / sum(parse) / 1e6, 2),
        "sample_bytes": size,
        "sample_files": sum(len(bundle.files) for bundle in bundles),
    }


def others_per_core(folders: list[str], quick: bool) -> dict[str, float]:
    """The same ratio for each other language of which these folders hold source, a bundle as large as the demo's of each."""
    figures = {}
    found = {path: place for folder_ in folders for place, path in walk(folder_)}
    for form in sorted(CODE_FORMS - {"python"}):
        files = files_of(form, found, 1_000_000 if quick else 6_000_000)
        size = sum(file.bytes for file in files)
        if size < 100_000:
            continue
        bundles = bundles_of(files, 6_000_000)
        with one_core(), folder() as root:
            in_turn(Store(f"{root}/warm"), bundles[0])
            seconds = [in_turn(Store(f"{root}/{n}"), bundle) for n in range(1 if quick else 5) for bundle in bundles]
        figures[f"{form}_of_bare_parse_per_core"] = round(sum(s[1] for s in seconds) / sum(s[0] for s in seconds), 3)
        print(f"{form} {figures[f'{form}_of_bare_parse_per_core']} ({len(files)} files, {size:,} bytes)")
    return figures


def files_of(form: str, found: dict[str, str], total_bytes: int) -> list[SourceFile]:
    """The first files of a language by the hash of their path, so many bytes; no tests, nothing that is generated at length."""
    paths = (path for path in found if form_of(path) == form and not is_test_path(path))
    files: list[SourceFile] = []
    size = 0
    for path in sorted(paths, key=lambda p: hashlib.sha256(p.encode()).digest()):
        if size >= total_bytes:
            break
        file = describe(found[path], path, form, form)
        if 0 < file.bytes < 200_000:
            files.append(file)
            size += file.bytes
    return files


def in_turn(store: Store, bundle: Bundle) -> tuple[float, float]:
    """Seconds of this process for our extraction of a bundle, and for parsing its files."""
    ours = parse = 0.0
    rows = Rows(WORK.extract.generation, store.scratch("extract"))
    gc.collect()
    with seldom_collected():  # as in a task
        for index, file in enumerate(bundle.files):
            for turn in (index, index + 1):  # the second one to read a file finds it in the cache
                start = time.process_time()
                if turn % 2:
                    extract_file(file, WORK, rows)
                    ours += time.process_time() - start
                else:
                    bare([file])
                    parse += time.process_time() - start
    return ours + timed(lambda: commit_rows(store, bundle, WORK, rows), time.process_time), parse


def scaling(bundles: list[Bundle], rounds: int) -> dict[str, float]:
    """The speed-up of either from a second process; all four in turn, with processes that are up and warm."""
    totals: Counter[str] = Counter()
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        for workers in (1, 2):
            client = stack.enter_context(local_cluster(workers, WORK.extract.worker_memory_bytes))
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
            runs[f"ours, {workers}"] = partial(extract_on, client, bundles, stack.enter_context(folder()))
            runs[f"bare, {workers}"] = partial(parse_on, pool, bundles)
        for round_ in range(rounds + 1):
            seconds = {name: timed(run) for name, run in runs.items()}
            print("; ".join(f"{name} workers: {value:.2f} s" for name, value in seconds.items()))
            if round_:  # the first one warms
                totals.update(seconds)
    ours, parse = totals["ours, 1"] / totals["ours, 2"], totals["bare, 1"] / totals["bare, 2"]
    return {
        "two_workers_of_bare_parse_scaling": round(ours / parse, 3),
        "two_workers_speedup": round(ours, 3),
        "two_workers_bare_speedup": round(parse, 3),
    }


def extract_on(client: Client, bundles: list[Bundle], place: Path) -> None:
    """Extract all bundles on a cluster, into a new store."""

    def take(_: int, result: object) -> None:
        assert not isinstance(result, Killed), "a worker was killed: too little memory for the benchmark"

    root = tempfile.mkdtemp(dir=place)
    run_tasks(client, extract_bundle, [(root, bundle, WORK) for bundle in bundles], take, lambda: None)


def parse_on(pool: ProcessPoolExecutor, bundles: list[Bundle]) -> None:
    """Parse all bundles in a pool."""
    list(pool.map(bare, [bundle.files for bundle in bundles]))


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds by the clock, which is the wall's if none is given."""
    gc.collect()
    start = clock()
    work()
    return clock() - start


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
