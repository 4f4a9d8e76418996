"""Documents through the whole of data preparation on 2 cores: dump, extraction, validation, deduplication and split, shards.

    python -m benchmarks.whole [--documents N] [--near] [--quick] [--keep FOLDER]

The dump is generated: documents of some 290 words, put together at random by a fixed seed from the sentences of the prose on
this machine and, where they are there, of the dumps in the evaluation data (CPT_EVAL_DATA), so that hardly
any two pieces are equal. It is written as JSON Lines in C4's layout, gzip, 4,000 documents a file; writing it is not counted.
Then the stages run as `cpt build-dataset` runs them, with the demo's settings; `--near` turns near-duplicate removal on.

Of each stage: seconds, processor time, bytes that it left, and the largest memory of the process tree (PSS, sampled).
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks import EVAL_DATA
from benchmarks.deduplicate import paragraphs
from data_contracts.check_shards import check_shards
from data_contracts.validate import validate
from pipeline_lib.config.built_in import demo
from pipeline_lib.config.run import RunConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.pairs.extract import extract
from pipeline_lib.runtime.cost import tree_pss_bytes
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

FILE_DOCUMENTS = 4_000
WORKERS = 2
SAMPLE_SECONDS = 1.0
_POOL: list[str] = []  # sentences
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def main() -> None:
    """Measure, and print the figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    parser.add_argument("--near", action="store_true", help="near-duplicates too, which need cpt-factory[dumps]")
    parser.add_argument("--quick", action="store_true", help="2,000 documents, under 50 s")
    parser.add_argument("--keep", type=Path, help="where dump and artifacts stay; default: a temporary folder")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp(prefix="benchmark-whole-"))
    try:
        print(json.dumps(measure(place, 2_000 if options.quick else options.documents, options.near)))
    finally:
        if not options.keep:
            shutil.rmtree(place)


def measure(place: Path, n: int, near: bool) -> dict[str, float | int]:
    """All stages in order; the figures of each, and of the whole."""
    config = whole_config(write_dump(place / "dump", n), near)
    store, run = Store(place / "artifacts"), Run()
    extracted = run.stage("extract", lambda: extract(store, config.source, config.extract))
    validated = run.stage("validate", lambda: validate(store, extracted, config.contract, processes=config.extract))
    curated = run.stage("curate", lambda: curate(store, validated, config.curate))
    tokenizer = run.stage("tokenizer", lambda: train_tokenizer(store, curated, config.tokenizer))
    shards = run.stage("shards", lambda: write_shards(store, curated, tokenizer, config.shards, processes=config.extract))
    run.stage("check_shards", lambda: check_shards(store, shards, tokenizer, config.contract))
    figures, seconds = run.figures, run.seconds
    return {
        "documents": n,
        "dump_bytes": sum(file.stat().st_size for file in (place / "dump").glob("*.gz")),
        "pairs_extracted": extracted.manifest.counts.n_out,
        "pairs_curated": curated.manifest.counts.n_out,
        **figures,
        "seconds": round(seconds, 1),
        "minutes_for_1_million_at_this_rate": round(seconds / n * 1e6 / 60, 1),
        "documents_per_second": round(n / seconds, 1),
        "peak_memory_bytes": run.peak_bytes,
        "cores": min(WORKERS, len(os.sched_getaffinity(0))),
    }


def whole_config(spec: Path, near: bool) -> RunConfig:
    """The demo's settings over a dump spec."""
    config = demo()
    source = config.source.model_copy(update={"dump": str(spec)})
    extract_config = config.extract.model_copy(update={"workers": WORKERS})
    curate_config = config.curate
    if near:
        curate_config = curate_config.model_copy(update={"near": curate_config.near.model_copy(update={"threshold": 0.8})})
    return config.model_copy(update={"source": source, "extract": extract_config, "curate": curate_config})


class Run:
    """What each stage took."""

    def __init__(self) -> None:
        self.figures: dict[str, float | int] = {}
        self.seconds = 0.0
        self.peak_bytes = 0

    def stage(self, name: str, work: Callable[[], Artifact]) -> Artifact:
        """Run one stage and note its figures."""
        before, start = _cpu_seconds(), time.perf_counter()
        with watched_memory() as peak:
            made = work()
        seconds = time.perf_counter() - start
        size = sum(file.bytes for part in made.manifest.parts for file in part.files)
        self.seconds += seconds
        self.peak_bytes = max(self.peak_bytes, *peak)
        self.figures |= {
            f"{name}_seconds": round(seconds, 1),
            f"{name}_cpu_seconds": round(_cpu_seconds() - before, 1),
            f"{name}_bytes": size,
            f"{name}_peak_memory_bytes": max(peak),
        }
        print(f"{name}: {seconds:.1f} s, {size / 1e6:,.1f} MB, at most {max(peak) / 1e6:,.0f} MB of memory", flush=True)
        return made


def _cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    return sum(os.times()[:4])


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """The memory of the process tree, sampled in a thread: a list that grows."""
    root, stop = psutil.Process(), threading.Event()
    samples = [tree_pss_bytes(root)]

    def watch() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            samples.append(tree_pss_bytes(root))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def write_dump(folder: Path, n: int) -> Path:
    """Write so many documents, unless they are there; returns the dump spec."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "dump.yaml"
    if not spec.exists():
        _POOL[:] = sentences()  # before the fork: 5 MB that are sent to nobody
        starts = range(0, n, FILE_DOCUMENTS)
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("fork")) as processes:
            list(processes.map(_write_file, repeat(folder), starts, (min(FILE_DOCUMENTS, n - at) for at in starts)))
        _POOL.clear()
        spec.write_text(f"- {{name: web, reader: json_lines, url: {folder}/*.jsonl.gz, licence: unknown}}\n")
    return spec


def _write_file(folder: Path, first: int, count: int) -> None:
    generator = random.Random(first)
    with gzip.open(folder / f"{first:09d}.jsonl.gz", "wt", compresslevel=1) as out:
        for number in range(first, first + count):
            parts = (" ".join(generator.choices(_POOL, k=generator.randint(2, 4))) for _ in range(generator.randint(3, 8)))
            record = {"text": "\n\n".join(parts), "url": f"https://{number % 100_003}.example.org/{number}"}
            out.write(json.dumps(record) + "\n")


def sentences() -> list[str]:
    """Sentences of 8 to 40 words, each once."""
    texts = paragraphs()
    for real in sorted((EVAL_DATA / "dumps" / "jsonl").glob("*.jsonl.gz")):
        texts += [json.loads(line)["text"] for line in gzip.decompress(real.read_bytes()).splitlines()]
    found = dict.fromkeys(" ".join(part.split()) for text in texts for part in _SENTENCE_END.split(text))
    return [sentence for sentence in found if 8 <= len(sentence.split()) <= 40]


if __name__ == "__main__":
    main()
