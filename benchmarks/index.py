"""Kinds of index side by side: build time, memory, bytes, recall@10 and latency, and Flat beside bare FAISS.

    python -m benchmarks.index [--quick] [--rows N] [--home FOLDER] [--update]

A million vectors of 256 dimensions (50,000 with --quick), made by a fixed seed to be like embeddings: clusters of very unequal
size, within clusters of clusters, and variance that falls off over the dimensions. Each kind is built in a process of its own
by the code of the index stage, from vectors on disk; its memory is the most that it and its workers hold beside mapped files,
less what they hold before the first vector. Queries are other draws of the same clusters. Latency is that of one query for ten
results on one thread, the files in the page cache. With --home, or where CPT_HOME holds a run, the vectors of its largest
embedded part are indexed as well. With --update each kind is built, a hundredth of its rows goes and as many come, and
processor seconds of the delta stand beside those of a build of the whole, both with their measurement of recall, and both of
what finds vectors alone, without rows, texts and BM25. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WIDTH, QUERIES, K = 256, 200, 10
BLOCK = 50_000
KINDS = ("flat", "hnsw", "ivf_flat", "ivf_pq", "sq8", "binary")
FIGURES = (
    "build_seconds", "build_cpu_seconds", "peak_memory_mb", "disk_mb", "memory_mb", "recall", "p50_ms", "p95_ms",
    "delta_cpu_seconds", "whole_cpu_seconds", "delta_recall", "whole_recall",
)  # fmt: skip


def main() -> None:
    """Measure, and print the figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 vectors")
    parser.add_argument("--rows", type=int, help="vectors")
    parser.add_argument(
        "--home", type=Path, default=os.environ.get("CPT_HOME"), help="artifact root whose vectors are indexed too"
    )
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="some of them")
    parser.add_argument("--update", action="store_true", help="a delta of a hundredth against a build of the whole")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "FILE", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, file, width = options.one
        print(json.dumps((measure_update if options.update else measure)(kind, Path(file), int(width))))
        return
    n = options.rows or (50_000 if options.quick else 1_000_000)
    figures: dict[str, Any] = {"rows": n, "width": WIDTH, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "vectors")
        write_clustered(file, n)
        if options.update:
            print(json.dumps(figures | compared(options.kinds, file, WIDTH, "--update")))
            return
        figures |= compared(options.kinds, file, WIDTH)
        figures |= bare(file, WIDTH) if "flat" in options.kinds else {}
        if options.home and (found := real_vectors(Path(options.home), file)):
            figures |= {f"demo_{name}": value for name, value in compared(options.kinds, file, found[1]).items()}
            figures |= {"demo_rows": found[0], "demo_width": found[1]}
    print(json.dumps(figures))


def write_clustered(file: Path, n: int, width: int = WIDTH) -> None:
    """Vectors of length 1, and after them the queries, a block at a time: the same for the same seed, whatever n is."""
    generator = np.random.default_rng(17)
    falling_D = 1 / (1 + np.arange(width) / 8)  # as of the principal components of embeddings: some 20 dimensions count
    topics = generator.standard_normal((200, width)) * falling_D
    centres = topics[generator.integers(200, size=20_000)] + 0.7 * generator.standard_normal((20_000, width)) * falling_D
    popular = generator.permutation(1 / (1 + np.arange(len(centres))) ** 0.7)
    rotation = np.linalg.qr(generator.standard_normal((width, width)))[0]
    with file.open("wb") as out:
        for first in range(0, n + QUERIES, BLOCK):
            rows = min(BLOCK, n + QUERIES - first)
            chosen = generator.choice(len(centres), size=rows, p=popular / popular.sum())
            vectors_ND = centres[chosen] + generator.standard_normal((rows, width)) * falling_D
            vectors_ND = (vectors_ND @ rotation).astype(np.float32)
            out.write((vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).tobytes())


def real_vectors(home: Path, file: Path) -> tuple[int, int] | None:
    """The documents' vectors of a run's model with the most texts; their number and width, None where there are none."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(home.glob("store/vectors/parts/*-y-*/vectors.npy")):
        parts.setdefault(path.parent.name.partition("-y-")[0], []).append(path)
    if not parts:
        return None
    largest = max(parts.values(), key=lambda paths: sum(path.stat().st_size for path in paths))
    vectors_ND = np.concatenate([np.load(path, mmap_mode="r", allow_pickle=False) for path in largest])
    np.random.default_rng(17).permutation(vectors_ND).tofile(file)
    return len(vectors_ND) - QUERIES, vectors_ND.shape[1]


def compared(kinds: tuple[str, ...], file: Path, width: int, *more: str) -> dict[str, Any]:
    """Each kind in a process of its own."""
    figures: dict[str, Any] = {}
    for kind in kinds:
        command = [sys.executable, "-m", "benchmarks.index", *more, "--one", kind, str(file), str(width)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{kind}: {done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        print(kind, json.dumps(found), flush=True)
        figures |= {f"{kind}_{name}": value for name, value in found.items() if name in FIGURES}
    return figures


def measure(kind: str, file: Path, width: int) -> dict[str, Any]:
    """Build one kind as the index stage does, and search it."""
    import faiss

    from pipeline_lib.config.run import IndexConfig
    from pipeline_lib.index.build import ADDED_ROWS, Vectors, write_files
    from pipeline_lib.index.factories import exact_nearest, nearest, open_index, recall_of
    from pipeline_lib.index.recall_gate import Asked, settle
    from pipeline_lib.store.store import Store

    vectors_ND, queries_QD = _opened(file, width)
    vectors = Vectors(lambda at: np.asarray(vectors_ND[at : at + ADDED_ROWS]), range(0, len(vectors_ND), ADDED_ROWS))
    config = IndexConfig(kind=kind)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        folder = Path(place, "index")
        folder.mkdir()
        with Anonymous() as held:
            start, cpu = time.perf_counter(), sum(os.times()[:4])
            facts = write_files(vectors, config, folder, Store(Path(place, "home")))
            seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
            facts |= settle(folder, facts, config, lambda: Asked(queries_QD[: QUERIES // 2], "held-out queries"), vectors)
            settled = time.perf_counter() - start - seconds
        index = open_index(folder, facts)
        asked_QD = queries_QD[QUERIES // 2 :]
        right = exact_nearest(vectors.slices(), asked_QD, K).tolist()
        faiss.omp_set_num_threads(1)
        found: list[list[int]] = []
        taken: list[float] = []
        for round_ in range(2):  # the first fills the page cache
            for query_D in asked_QD:
                start = time.perf_counter()
                rows_1K = nearest(index, query_D[None], K)[1]
                taken += [time.perf_counter() - start] if round_ else []
                found += rows_1K.tolist() if round_ else []
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return {
        "build_seconds": round(seconds, 2),
        "build_cpu_seconds": round(cpu, 2),
        "settle_seconds": round(settled, 2),
        "peak_memory_mb": round(held.most / 1e6, 1),
        "disk_mb": round(sum(sizes.values()) / 1e6, 1),
        "memory_mb": round(sum(size for name, size in sizes.items() if name != "vectors.bin") / 1e6, 1),
        "recall": round(recall_of(found, right), 4),
        "p50_ms": round(1000 * float(np.median(taken)), 3),
        "p95_ms": round(1000 * float(np.quantile(taken, 0.95)), 3),
        **{name: facts[name] for name in ("factory", "effort") if name in facts},
        "curve": facts["recall"].get("curve"),
    }  # fmt: skip


def measure_update(kind: str, file: Path, width: int) -> dict[str, Any]:
    """Processor seconds and recall of a delta of a hundredth, and of a build of the whole of the same rows."""
    from pipeline_lib.config.run import IndexConfig
    from pipeline_lib.index.build import ADDED_ROWS, Vectors, write_files
    from pipeline_lib.index.delta import Base, Growth
    from pipeline_lib.index.recall_gate import Asked, settle
    from pipeline_lib.store.store import Store

    vectors_ND, queries_QD = _opened(file, width)
    n_new = len(vectors_ND) // 100
    before = np.arange(len(vectors_ND) - n_new)
    gone = np.random.default_rng(17).choice(before, n_new, replace=False)
    now = np.concatenate([np.setdiff1d(before, gone), np.arange(len(before), len(vectors_ND))])
    before_N = np.where(now < len(before), now, -1)
    config, asked = IndexConfig(kind=kind), Asked(queries_QD, "held-out queries")

    def over(rows: np.ndarray) -> Vectors:
        return Vectors(lambda at: vectors_ND[rows[at : at + ADDED_ROWS]], range(0, len(rows), ADDED_ROWS))

    def whole(rows: np.ndarray, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        facts = write_files(over(rows), config, folder, store)
        return facts | settle(folder, facts, config, lambda: asked, over(rows))

    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        store, base_folder, folder = Store(Path(place, "home")), Path(place, "base"), Path(place, "delta")
        base = Base(base_folder, "", {**whole(before, base_folder), "count": len(before)}, before_N)
        cpu = sum(os.times()[:4])
        fresh = whole(now, Path(place, "fresh"))
        whole_cpu, cpu = sum(os.times()[:4]) - cpu, sum(os.times()[:4])
        folder.mkdir()
        made = Growth(base, over(now), lambda rows: vectors_ND[now[rows]], config, store).write(folder, lambda: asked)
        return {
            "delta_cpu_seconds": round(sum(os.times()[:4]) - cpu, 2),
            "whole_cpu_seconds": round(whole_cpu, 2),
            "delta_recall": made["recall"]["at_10"],
            "whole_recall": fresh["recall"]["at_10"],
            "delta": made["delta"],
        }


def bare(file: Path, width: int) -> dict[str, Any]:
    """The Flat index of the index stage and FAISS's alone, in turn in one process: processor seconds of both."""
    import faiss

    from pipeline_lib.config.run import IndexConfig
    from pipeline_lib.index.build import ADDED_ROWS, Vectors, write_files
    from pipeline_lib.index.factories import nearest, open_index
    from pipeline_lib.store.store import Store

    vectors_ND, queries_QD = _opened(file, width)
    vectors = Vectors(lambda at: np.asarray(vectors_ND[at : at + ADDED_ROWS]), range(0, len(vectors_ND), ADDED_ROWS))
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        folder = Path(place, "index")
        folder.mkdir()
        start = time.process_time()
        facts = write_files(vectors, IndexConfig(kind="flat"), folder, Store(Path(place, "home")))
        ours_seconds = time.process_time() - start
        start = time.process_time()
        alone = faiss.IndexFlatIP(width)
        alone.add(np.asarray(vectors_ND))
        faiss.write_index(alone, str(Path(place, "bare")))
        bare_seconds = time.process_time() - start
        index = open_index(folder, facts)
        taken: dict[str, list[float]] = {"ours": [], "bare": []}
        sides = {"ours": lambda query: nearest(index, query, K), "bare": lambda query: alone.search(query, K)}
        for query_D in np.concatenate([queries_QD] * 2):
            for name, search in sides.items():
                start = time.process_time()
                search(query_D[None])
                taken[name].append(time.process_time() - start)
    ours, theirs = (1000 * float(np.median(taken[name][QUERIES:])) for name in ("ours", "bare"))
    return {
        "flat_query_cpu_ms": round(ours, 3),
        "bare_query_cpu_ms": round(theirs, 3),
        "flat_build_of_bare": round(ours_seconds / bare_seconds, 3),
        "flat_query_of_bare": round(ours / theirs, 3),
    }


def _opened(file: Path, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries in a file."""
    all_ND = np.memmap(file, np.float32, "r").reshape(-1, width)
    return all_ND[:-QUERIES], np.asarray(all_ND[-QUERIES:])


class Anonymous:
    """The most memory that this process and its children hold beside mapped files, above what it held at the start."""

    def __init__(self) -> None:
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = _anonymous_bytes()

    def __enter__(self) -> Anonymous:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, _anonymous_bytes() - self._before)


def _anonymous_bytes() -> int:
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += 1024 * int(status.partition("RssAnon:")[2].split()[0])
        except (OSError, IndexError):  # it has ended
            continue
    return total


if __name__ == "__main__":
    main()
