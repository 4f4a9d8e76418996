"""`cpt serve` over HTTP beside bare FAISS: `python -m benchmarks.serve [--quick]`.

An HNSW index of a million rows of 256 dimensions (`--quick`: 20,000) and a small encoder of random weights: speed does not
depend on them. Documents lie around vectors of that encoder, so that a query finds its own. The service is the command as a
person starts it; its clients are another process on the same cores, which share them: ask on an otherwise idle machine. Bare
FAISS searches the same file for the same queries, one after another, in one thread, from vectors that are there already;
`library` embeds them too, by `Searcher.search`. Each round has its own number of clients, who ask as soon as they are answered.

The last line is one flat JSON object: milliseconds at the 50th, 95th and 99th percentile of each, requests a second, errors,
the service's memory after a quarter as many requests and after all of them, and seconds from a kill to the next answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import psutil

from benchmarks.encode import random_export
from benchmarks.stdlib_pairs import stdlib_pairs

if TYPE_CHECKING:
    from pipeline_lib.search.query import Searcher
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DIMENSIONS = 256
MODEL = {"layers": 2, "width": DIMENSIONS, "heads": 4, "inner": 512, "positions": 160}
CLIENTS = (1, 8, 64)
SLICE = 8192
NOISE = 0.6  # length of what is added to a vector of length 1
K = 10
START_SECONDS = 120.0
CLIENT = "import sys, benchmarks.serve as s; s.ask_many(*sys.argv[1:])"


def main() -> None:
    """Measure, and print the figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rows and 2,000 requests")
    parser.add_argument("--rows", type=int, help="rows of the index")
    parser.add_argument("--requests", type=int, help="requests in all, a third with each number of clients")
    options = parser.parse_args()
    rows = options.rows or (20_000 if options.quick else 1_000_000)
    requests = options.requests or (2_000 if options.quick else 20_000)
    with tempfile.TemporaryDirectory() as place:
        queries = build(Path(place), rows)
        figures = {"rows": rows, "requests": requests} | in_process(Path(place), queries)
        figures |= over_http(Path(place), queries, requests)
    print(json.dumps(figures | {"cores": len(os.sched_getaffinity(0))}))


def build(place: Path, rows: int) -> list[str]:
    """Publish a model and an index of so many rows; returns queries."""
    from pipeline_lib.search.onnx_encoder import OnnxEncoder
    from pipeline_lib.search.registry import Candidate, promote
    from pipeline_lib.store.store import Store

    queries, documents = stdlib_pairs(2_000)
    exported = random_export(place, MODEL, [*queries, *documents], onnx=True)
    centres_CD = OnnxEncoder(exported.part_folder()).embed([*queries, *documents], "document")
    began = time.perf_counter()
    indexed = write_index(Store(place), exported, centres_CD, rows)
    print(f"{rows:,} rows indexed in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    promote(place, "bench", Candidate(exported, indexed))
    return [" ".join(query.split())[:200] for query in queries]


def write_index(store: Store, exported: Artifact, centres_CD: np.ndarray, rows: int) -> Artifact:
    """An HNSW index as the stage leaves one, of vectors around these."""
    from pipeline_lib.config.base import StageConfig
    from pipeline_lib.config.run import IndexConfig
    from pipeline_lib.index.build import ADDED_ROWS, Vectors, write_files
    from pipeline_lib.index.index import STAGE
    from pipeline_lib.index.pieces import Piece
    from pipeline_lib.index.recall_gate import perturbed, settle
    from pipeline_lib.index.rows import RowWriter
    from pipeline_lib.store.records import Outcome, draft_part

    config = IndexConfig(kind="hnsw")

    def read(start: int) -> np.ndarray:
        """The vectors (n, D) from a row on; the same ones each time."""
        random = np.random.default_rng(start)
        n = min(ADDED_ROWS, rows - start)
        noise_ND = random.standard_normal((n, DIMENSIONS), np.float32) * (NOISE / DIMENSIONS**0.5)
        vectors_ND = centres_CD[random.integers(len(centres_CD), size=n)] + noise_ND
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)

    def piece(row: int) -> Piece:
        kind = "code" if row < rows // 2 else "text"
        text = (
            f"def function_{row}(value):\n    return value + {row}"
            if kind == "code"
            else f"Passage {row} of many, about numbers."
        )
        columns = {
            "text": text,
            "id": f"{row:032x}",
            "kind": kind,
            "name": f"module.name_{row}",
            "path": f"package/file_{row // 20}.py",
        }
        columns |= {"line": 1 + row % 20, "doc": text[:60], "source": "bench", "language": "python", "licence": "MIT"}
        return Piece(**columns, package=f"package-{row % 100}")

    def make(key: str) -> Outcome:
        scratch = store.scratch("index")
        with RowWriter(scratch, config.text_characters) as writer:
            for start in range(0, rows, SLICE):
                writer.write([piece(row) for row in range(start, min(rows, start + SLICE))])
        vectors = Vectors(read, range(0, rows, ADDED_ROWS))
        made = write_files(vectors, config, scratch, store)
        made |= settle(scratch, made, config, lambda: perturbed(vectors), vectors)
        facts = {"count": rows, "code": rows // 2, "text": rows - rows // 2, "dim": DIMENSIONS}
        record = {**made, **facts, "text_characters": config.text_characters, "version": 2, "model_digest": exported.digest}
        (scratch / "index.json").write_text(json.dumps(record))
        return Outcome(parts=(store.commit_part(draft_part(STAGE, key, "index"), scratch),))

    return store.build(STAGE, StageConfig(), {"exported": exported}, make)


def in_process(place: Path, queries: Sequence[str]) -> dict[str, float]:
    """Bare FAISS and the library, a query at a time."""
    import faiss

    from pipeline_lib.search.query import Searcher
    from pipeline_lib.search.registry import in_use

    searcher: Searcher = Searcher(in_use(place, "bench"))
    vectors_QD = searcher.encoder.embed(queries, "query")
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(searcher.current.index / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    index.hnsw.efSearch = max(index.hnsw.efSearch, searcher.index.effort.ef)
    asked = {
        "bare": lambda number: index.search(vectors_QD[number : number + 1], K),
        "embed": lambda number: searcher.encoder.embed([queries[number]], "query"),
        "library": lambda number: searcher.search(queries[number], k=K),
    }
    figures: dict[str, float] = {}
    for name, ask in asked.items():
        taken = []
        for number in [*range(100), *range(len(queries))]:
            began = time.perf_counter()
            ask(number)
            taken.append(time.perf_counter() - began)
        figures |= _percentiles(name, taken[100:])
    return figures


def over_http(place: Path, queries: Sequence[str], requests: int) -> dict[str, float]:
    """The service with 1, 8 and 64 clients, its memory, and its way back from a kill."""
    (place / "queries.json").write_text(json.dumps(queries))
    figures: dict[str, float] = {"errors": 0}
    with served(place) as (process, port):
        ask_from_outside(place, port, CLIENTS[-1], requests // 4)  # each thread has had its largest batches
        figures["memory_before_mib"] = _memory(process)
        for clients in CLIENTS:
            told = ask_from_outside(place, port, clients, requests // len(CLIENTS))
            figures |= _percentiles(f"http_{clients}", told["seconds"])
            figures[f"http_{clients}_per_second"] = round(len(told["seconds"]) / told["wall"], 1)
            figures["errors"] += told["errors"]
        figures["memory_after_mib"] = _memory(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.perf_counter()
        with served(place) as (_, port_again):
            ask_from_outside(place, port_again, 1, 1)
            figures["seconds_from_kill"] = round(time.perf_counter() - began, 2)
    return figures


@contextmanager
def served(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`cpt serve` of this folder and its port, once it is ready."""
    words = [sys.executable, "-m", "flows.cli", "serve", "--port", "0", "--name", "bench"]
    environment = {**os.environ, "CPT_HOME": str(place), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        first = process.stdout.readline().decode().split()
        yield process, int(first[1].rstrip("/").rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(30)


def ask_from_outside(place: Path, port: int, clients: int, requests: int) -> dict[str, object]:
    """What clients in a process of their own measured."""
    words = [sys.executable, "-c", CLIENT, str(place / "queries.json"), str(port), str(clients), str(requests)]
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
    return json.loads(answer.stdout)


def ask_many(file: str, port: str, clients: str, requests: str) -> None:
    """Ask as so many clients at once, each over one connection, and print the seconds of every request."""
    queries = json.loads(Path(file).read_text())
    left = iter(range(int(requests)))
    seconds: list[float] = []
    errors = 0

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        for number in left:
            began = time.perf_counter()
            target = f"/search?k={K}&q={quote(queries[number % len(queries)], safe='')}"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.perf_counter() - began)
            errors += not (head.startswith(b"HTTP/1.1 200") and body.count(b'"rank"') == K)
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(client() for _ in range(int(clients))))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    print(json.dumps({"seconds": seconds, "errors": errors, "wall": time.perf_counter() - began}))


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    at = np.percentile(np.array(seconds) * 1000, (50, 95, 99))
    return {f"{name}_p{share}_ms": round(float(value), 3) for share, value in zip((50, 95, 99), at, strict=True)}


def _memory(process: subprocess.Popen[bytes]) -> float:
    """Memory of its own in MiB: pages of the index's files are the system's to drop."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return round(psutil.Process(process.pid).memory_info().rss / 2**20, 1)
    (own,) = [line for line in rollup.read_text().splitlines() if line.startswith("Anonymous:")]
    return round(int(own.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
