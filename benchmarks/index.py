"""Kinds of index side by side: build time, memory, bytes, recall@10 and latency, and Flat beside bare FAISS.

    python -m benchmarks.index [--quick] [--rows N] [--home FOLDER]

A million vectors of 256 dimensions (50,000 with --quick), made by a fixed seed to be like embeddings: clusters of very unequal
size, within clusters of clusters, and variance that falls off over the dimensions. Each kind is built in a process of its own
by the code of the index stage, from vectors on disk; its memory is the most that it and its workers hold beside mapped files,
less what they hold before the first vector. Queries are other draws of the same clusters. Latency is that of one query for ten
results on one thread, the files in the page cache. With --home, or where CPT_HOME holds a run, the vectors of its largest
embedded part are indexed as well. The last line is one flat JSON object.
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
FIGURES = ("build_seconds", "peak_memory_mb", "disk_mb", "memory_mb", "recall", "p50_ms", "p95_ms")


def main() -> None:
    """Measure, and print the figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 vectors")
    parser.add_argument("--rows", type=int, help="vectors")
    parser.add_argument(
        "--home", type=Path, default=os.environ.get("CPT_HOME"), help="artifact root whose vectors are indexed too"
    )
    parser.add_argument("--kinds", nargs="+", default=KINDS, help="some of them")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "FILE", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, file, width = options.one
        print(json.dumps(measure(kind, Path(file), int(width))))
        return
    n = options.rows or (50_000 if options.quick else 1_000_000)
    figures: dict[str, Any] = {"rows": n, "width": WIDTH, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "vectors")
        write_clustered(file, n)
        figures |= compared(options.kinds, file, WIDTH)
        figures |= bare(file, WIDTH, figures) if "flat" in options.kinds else {}
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


def compared(kinds: tuple[str, ...], file: Path, width: int) -> dict[str, Any]:
    """Each kind in a process of its own."""
    figures: dict[str, Any] = {}
    for kind in kinds:
        command = [sys.executable, "-m", "benchmarks.index", "--one", kind, str(file), str(width)]
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
    from pipeline_lib.search.factories import exact_nearest, nearest, open_index, recall_of
    from pipeline_lib.search.index_build import ADDED_ROWS, Vectors, write_files
    from pipeline_lib.search.recall_gate import Asked, settle
    from pipeline_lib.store.store import Store

    vectors_ND, queries_QD = _opened(file, width)
    vectors = Vectors(lambda at: np.asarray(vectors_ND[at : at + ADDED_ROWS]), range(0, len(vectors_ND), ADDED_ROWS))
    config = IndexConfig(kind=kind)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        folder = Path(place, "index")
        folder.mkdir()
        with Anonymous() as held:
            start = time.perf_counter()
            facts = write_files(vectors, config, folder, Store(Path(place, "home")))
            seconds = time.perf_counter() - start
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
        "settle_seconds": round(settled, 2),
        "peak_memory_mb": round(held.most / 1e6, 1),
        "disk_mb": round(sum(sizes.values()) / 1e6, 1),
        "memory_mb": round(sum(size for name, size in sizes.items() if name != "vectors.bin") / 1e6, 1),
        "recall": round(recall_of(found, right), 4),
        "p50_ms": round(1000 * float(np.median(taken)), 3),
        "p95_ms": round(1000 * float(np.quantile(taken, 0.95)), 3),
        **{name: facts[name] for name in ("factory", "effort", "recall_curve") if name in facts},
        "curve": facts["recall"].get("curve"),
    }  # fmt: skip


def bare(file: Path, width: int, figures: dict[str, Any]) -> dict[str, Any]:
    """The same Flat index by FAISS alone, in memory: how long it takes to make and write it, and to answer."""
    import faiss

    vectors_ND, queries_QD = _opened(file, width)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        start = time.perf_counter()
        index = faiss.IndexFlatIP(width)
        index.add(np.asarray(vectors_ND))
        faiss.write_index(index, str(Path(place, "index")))
        seconds = time.perf_counter() - start
    taken = []
    for query_D in np.concatenate([queries_QD[QUERIES // 2 :]] * 2):
        start = time.perf_counter()
        index.search(query_D[None], K)
        taken.append(time.perf_counter() - start)
    p50_ms = 1000 * float(np.median(taken[len(taken) // 2 :]))
    return {
        "bare_build_seconds": round(seconds, 2),
        "bare_p50_ms": round(p50_ms, 3),
        "flat_build_of_bare": round(figures["flat_build_seconds"] / seconds, 3),
        "flat_latency_of_bare": round(figures["flat_p50_ms"] / p50_ms, 3),
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
