"""Our token shards against `datasets.map` with the same tokenizer, on functions of the standard library.

    python -m benchmarks.tokenize [--quick]

Ours is the whole stage: read the curated Parquet, tokenize, write Arrow shards, hash and commit them. The peer is
`Dataset.map(batched=True, num_proc=2)` of a plain tokenizer.json that wraps and cuts by itself, over a data set that is loaded
before the clock starts. Both run in fresh processes, in turn, and their ids are compared. Memory is the proportional set size
of the process and its children: the highest seen, less that after the imports. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.stdlib_pairs import stdlib_pairs
from data_contracts.schemas import PAIRS, row_id, text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import TokenDataset
from pipeline_lib.tokens.pair_tokenizer import side_tokenizer_json
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

SHARDS = ShardConfig(splits=("train",))
CURATED = "curate"  # the stage whose output ours reads
PEER_PROCESSES = 2
SAMPLE_SECONDS = 0.02
COMPARED_ROWS = 500


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 50 s on 2 cores")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        CHILDREN[options.child[0]](Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        n_pairs = write_inputs(Path(folder), 3_000 if options.quick else 100_000)
        print(json.dumps(measure(Path(folder), n_pairs, rounds=2 if options.quick else 7)))


def write_inputs(folder: Path, limit: int) -> int:
    """Curated pairs, a tokenizer learned from them, and the same as plain tokenizer.json files. Returns the pairs."""
    x_texts, y_texts = stdlib_pairs(limit)
    rows = [_row(number, x, y) for number, (x, y) in enumerate(zip(x_texts, y_texts, strict=True))]
    table = pa.Table.from_pylist(rows, schema=PAIRS).sort_by("id")
    store, stage = Store(folder / "store"), Stage(name=CURATED, version=1)

    def make(key: str) -> Outcome:
        scratch = store.scratch(stage.name)
        pq.write_table(table, scratch / "pairs.parquet", compression="zstd")
        counts = Counts(n_in=len(rows), n_out=len(rows))
        return Outcome(parts=(store.commit_part(draft_part(stage, key, "train", counts), scratch),), counts=counts)

    curated = store.build(stage, StageConfig(), {}, make)
    tokenizer = train_tokenizer(store, curated, TokenizerConfig())
    for side, most in (("x", SHARDS.max_x_tokens), ("y", SHARDS.max_y_tokens)):
        plain = side_tokenizer_json(tokenizer.part_folder(), side, most)  # type: ignore[arg-type]
        (folder / f"{side}.json").write_text(plain, encoding="utf-8")
    return len(rows)


def _row(number: int, x: str, y: str) -> dict[str, object]:
    texts = dict.fromkeys(("document_id", "source", "group", "path", "name", "language"), "stdlib")
    hashes = {"x_hash": text_hash(x), "y_hash": text_hash(y)}
    places = {"line": 1, "position": number, "generation": 0, "licence": None}
    return {"id": row_id(x, y), "kind": "code", "view": "docstring", "x": x, "y": y, **hashes, **places, **texts}


def measure(folder: Path, n_pairs: int, rounds: int) -> dict[str, float | int]:
    """Both in turn, each in a process of its own."""
    seconds: dict[str, list[float]] = {side: [] for side in CHILDREN}
    grown: dict[str, list[int]] = {side: [] for side in CHILDREN}
    for round_ in range(rounds):
        ids = set()
        for side in CHILDREN:
            result, memory = _run_child(side, folder)
            seconds[side].append(result["seconds"])
            grown[side].append(memory)
            ids.add(result["ids"])
            print(f"round {round_ + 1}: {side} {n_pairs / result['seconds']:,.0f} pairs/s, {memory / 1e6:,.0f} MB grown")
        assert len(ids) == 1, "the two sides give different token ids"
    ratios = [peer / ours for ours, peer in zip(seconds["ours"], seconds["datasets"], strict=True)]
    return {
        "speed_of_datasets_map": round(median(ratios), 3),
        "speed_of_datasets_map_low": round(min(ratios), 3),
        "speed_of_datasets_map_high": round(max(ratios), 3),
        "memory_of_datasets_map": round(median(grown["ours"]) / median(grown["datasets"]), 3),
        "pairs_per_second": round(n_pairs / median(seconds["ours"]), 1),
        "datasets_pairs_per_second": round(n_pairs / median(seconds["datasets"]), 1),
        "memory_grown_mb": round(median(grown["ours"]) / 1e6, 1),
        "datasets_memory_grown_mb": round(median(grown["datasets"]) / 1e6, 1),
        "pairs": n_pairs,
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
    }


def _run_child(side: str, folder: Path) -> tuple[dict[str, float], int]:
    """What the child says, and the most that its memory grew (bytes)."""
    command = [sys.executable, "-m", "benchmarks.tokenize", "--child", side, str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "ready\n", f"{side}: the imports failed"
        process = psutil.Process(child.pid)
        before = highest = _memory(process)
        child.stdin.write("go\n")
        child.stdin.close()
        while child.poll() is None:
            highest = max(highest, _memory(process))
            time.sleep(SAMPLE_SECONDS)
        assert child.returncode == 0, f"{side} failed"
        return json.loads(child.stdout.read().splitlines()[-1]), highest - before


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total
    return total


def _wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _tell(seconds: float, x_ids: list[list[int]], y_ids: list[list[int]]) -> None:
    print(json.dumps({"seconds": seconds, "ids": row_id(str(x_ids), str(y_ids))}))


def ours(folder: Path) -> None:
    """The stage "shards" in a store of its own."""
    import pandas  # noqa: F401 - pyarrow imports it, 28 MB, when it first converts a list; the peer does so with its imports

    inputs = Store(folder / "store")
    curated, tokenizer = (_only(inputs, stage) for stage in (CURATED, "tokenizer"))
    _wait_for_start()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        shards = write_shards(Store(place), curated, tokenizer, SHARDS)
        seconds = time.perf_counter() - start
        rows = TokenDataset.open(shards, "train-docstring").rows(pa.array(range(COMPARED_ROWS)).to_numpy())
        _tell(seconds, [ids.tolist() for ids in rows.x_ids], [ids.tolist() for ids in rows.y_ids])


def _only(store: Store, stage: str) -> Artifact:
    (path,) = (store.root / stage).glob("*/manifest.json")
    return store.open(stage, path.parent.name)


def datasets_map(folder: Path) -> None:
    """`datasets.map` in two processes."""
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer

    disable_progress_bars()
    x_tokenizer, y_tokenizer = (Tokenizer.from_file(str(folder / f"{side}.json")) for side in ("x", "y"))

    def tokenized(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {
            "x_ids": [encoding.ids for encoding in x_tokenizer.encode_batch_fast(batch["x"])],
            "y_ids": [encoding.ids for encoding in y_tokenizer.encode_batch_fast(batch["y"])],
        }

    (pairs,) = _only(Store(folder / "store"), CURATED).paths("pairs.parquet")
    _wait_for_start()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        loaded = Dataset.from_parquet(str(pairs), cache_dir=place)
        unused = [name for name in loaded.column_names if name not in ("id", "x_hash", "y_hash", "document_id")]
        start = time.perf_counter()
        made = loaded.map(tokenized, batched=True, num_proc=PEER_PROCESSES, remove_columns=unused)
        seconds = time.perf_counter() - start
        head = made[:COMPARED_ROWS]
        _tell(seconds, head["x_ids"], head["y_ids"])


CHILDREN = {"ours": ours, "datasets": datasets_map}


if __name__ == "__main__":
    main()
