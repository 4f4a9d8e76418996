"""Stage "shards": token ids in Arrow files that are memory-mapped, one part for each split, view and generation of pairs.

Rows keep the order of the curated pairs, which is that of their ids: an id is a hash, so that consecutive rows are already
mixed over sources and documents, and a block of them is a fair sample. Or, where asked for, that of their paths: then a
block holds neighbours of one file, the hardest negatives that a corpus has. One file is one record batch, uncompressed: reading
a row is address arithmetic.

A part is named after the ids of its pairs, which are hashes of what the pairs hold: where a later generation comes in, the
parts of the earlier ones are found and stay as they are. Pairs that carry hard negatives (schemas.PAIRS_WITH_NEGATIVES) are
named after those too, and their shards have two columns more.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.schemas import text_hash
from pipeline_lib.arrow_memory import system_memory
from pipeline_lib.artifact import Artifact, Counts, Outcome, Part, Stage, Store, draft_part, sum_counts
from pipeline_lib.config import ShardConfig, WorkersConfig
from pipeline_lib.progress import Progress, silent
from pipeline_lib.tokens.dataset import part_label
from pipeline_lib.tokens.pair_tokenizer import Side
from pipeline_lib.tokens.shard_file import (
    FACTS,
    NEGATIVE_FACTS,
    NEGATIVES,
    Written,
    forget_tokenizer,
    rows_file,
    rows_files,
    shard_name,
    write_shard,
)
from pipeline_lib.workers import HERE, Workers, where_it_pays

STAGE = Stage(name="shards", version=3)
READ_ROWS = 1024
SORT_BYTES = 1024**3
MANY_ROWS = 250_000  # a minute or two of one core; below, starting processes takes about as long as they save
COLUMNS = ("id", "view", "generation", "x", "y", "x_hash", "y_hash", "document_id")
LENGTHS_FILE = "lengths.json"


def write_shards(
    store: Store,
    curated: Artifact,
    tokenizer: Artifact,
    config: ShardConfig,
    progress: Progress = silent,
    processes: WorkersConfig = HERE,
) -> Artifact:
    """Tokenize the curated pairs: stage "shards", parts "train-docstring", "train-docstring@1", ... as they have rows.

    Each part has its shards, and `lengths.json`: how many rows have so many tokens, for x and y.

    Args:
        store: where the artifact goes.
        curated: one part a split; its pairs may carry hard negatives.
        tokenizer: one part.
        config: lengths, and which splits.
        progress: counts pairs.
        processes: that tokenize, a shard a task; the bytes are the same with any number of them.
    """

    def make(_: str) -> Outcome:
        present = {part.label for part in curated.manifest.parts}
        plan = [
            piece
            for split in config.splits
            if split in present
            for piece in _pieces_of(split, curated.part_folder(split) / "pairs.parquet")
        ]
        parts = _write_parts(store, plan, tokenizer, config, progress, processes)
        names = [*FACTS, *(name for name in NEGATIVE_FACTS if any(name in part.facts for part in parts))]
        facts = {name: sum(part.facts.get(name, 0) for part in parts) for name in names}
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=facts)

    with system_memory():
        return store.build(STAGE, config, {"curated": curated, "tokenizer": tokenizer}, make)


@dataclass(frozen=True)
class _Piece:
    """The rows of one part, and where they lie."""

    split: str
    view: str
    generation: int
    pairs: Path
    rows: int
    digest: str
    negatives: bool

    @property
    def label(self) -> str:
        return part_label(self.split, self.view, self.generation)


def _pieces_of(split: str, pairs: Path) -> list[_Piece]:
    """The parts that a split's pairs go to; only the ids are read, and hard negatives where there are some."""
    rows: Counter[tuple[str, int]] = Counter()
    digests: defaultdict[tuple[str, int], Any] = defaultdict(hashlib.sha256)
    file = pq.ParquetFile(pairs)
    negatives = [NEGATIVES] if NEGATIVES in file.schema_arrow.names else []
    for batch in file.iter_batches(READ_ROWS, columns=["view", "generation", "id", *negatives], use_threads=False):
        columns = (batch[name].to_pylist() for name in ("view", "generation", "id"))
        for view, generation, id_ in zip(*columns, strict=True):
            rows[view, generation] += 1
            digests[view, generation].update(id_.encode())
        for name in negatives:  # an id says nothing of them: the same pair may be mined twice
            for view, generation, texts in zip(
                batch["view"].to_pylist(), batch["generation"].to_pylist(), batch[name].to_pylist(), strict=True
            ):
                digests[view, generation].update(json.dumps(list(map(text_hash, texts))).encode())
    return [_Piece(split, *place, pairs, rows[place], digests[place].hexdigest(), bool(negatives)) for place in sorted(rows)]


@dataclass(frozen=True)
class _Work:
    """What all parts are made with."""

    tokenizer: str  # its folder
    config: ShardConfig
    workers: Workers


def _write_parts(
    store: Store,
    plan: Sequence[_Piece],
    tokenizer: Artifact,
    config: ShardConfig,
    progress: Progress,
    processes: WorkersConfig,
) -> list[Part]:
    """The part of each piece, those that are there as they are."""
    keys = [_part_key(store, piece, tokenizer, config) for piece in plan]
    found = [store.find_part(STAGE.name, key) for key in keys]
    missing = sum(piece.rows for piece, part in zip(plan, found, strict=True) if part is None)
    total, done, parts = sum(piece.rows for piece in plan), 0, []
    if store.bucket is not None:  # rows are handed over on a disk, which the workers of another machine do not see
        processes = processes.model_copy(update={"scheduler": ""})
    with where_it_pays(processes, store, -(-missing // config.rows_per_shard), missing >= MANY_ROWS) as workers:
        work = _Work(str(tokenizer.part_folder()), config, workers)
        for piece, key, part in zip(plan, keys, found, strict=True):
            advanced = partial(_advance, progress, done, total)
            parts.append(part or _write_part(store, key, piece, work, advanced))
            done += piece.rows
            advanced(piece.rows)
    forget_tokenizer()
    return parts


def _part_key(store: Store, piece: _Piece, tokenizer: Artifact, config: ShardConfig) -> str:
    inputs = {"pairs": piece.digest, "tokenizer": tokenizer.digest}
    return store.key(STAGE.model_copy(update={"name": f"{STAGE.name}-{piece.label}"}), config, inputs)


def _advance(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, f"{before + done:,} pairs tokenized")


def _write_part(store: Store, key: str, piece: _Piece, work: _Work, advanced: Callable[[int], None]) -> Part:
    """The rows of one shard after another go to files of their own, from which `write_shard` makes the shards."""
    folder, scratch = store.scratch(STAGE.name), store.scratch(STAGE.name)
    waiting = rows_files(folder, _batches_of(piece, work.config.order, folder), work.config.rows_per_shard)
    facts: Counter[str] = Counter()
    rows: dict[str, int] = {}
    lengths: dict[Side, Counter[int]] = {"x": Counter(), "y": Counter()}

    def tasks() -> Iterator[tuple[Any, ...]]:
        for number, path in enumerate(waiting):
            yield str(path), str(scratch / shard_name(number)), work.tokenizer, work.config, piece.negatives

    def take(number: int, result: str) -> None:
        written = Written.model_validate_json(result)
        rows_file(folder, number).unlink()
        rows[shard_name(number)] = written.facts["rows"]
        facts.update(written.facts)
        for side, counts in lengths.items():
            counts.update(written.lengths[side])
        advanced(facts["rows"])

    try:
        work.workers.run_all(STAGE.name, write_shard, tasks(), take)
        in_order = {side: dict(sorted(counts.items())) for side, counts in lengths.items()}
        (scratch / LENGTHS_FILE).write_text(json.dumps(in_order, indent=1) + "\n")
        kept = {name: facts[name] for name in (*FACTS, *(NEGATIVE_FACTS if piece.negatives else ()))}
        counts = Counts(n_in=kept["rows"], n_out=kept["rows"])
        return store.commit_part(draft_part(STAGE, key, piece.label, counts=counts, rows=rows, facts=kept), scratch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed


def _batches_of(piece: _Piece, order: str, folder: Path) -> Iterator[pa.RecordBatch]:
    columns = [*COLUMNS, *([NEGATIVES] if piece.negatives else [])]
    if order == "hash":
        for batch in pq.ParquetFile(piece.pairs).iter_batches(READ_ROWS, columns=columns, use_threads=False):
            # a mask, no expression: that one loads a further engine
            rows = batch.filter(pc.and_(pc.equal(batch["view"], piece.view), pc.equal(batch["generation"], piece.generation)))
            if len(rows):
                yield rows
        return
    limits: dict[str, Any] = {"threads": 1, "memory_limit": f"{SORT_BYTES}B", "temp_directory": str(folder / "sorting")}
    with duckdb.connect(":memory:", config=limits) as connection:  # sorts on disk what memory does not hold
        yield from connection.sql(
            f"SELECT {', '.join(columns)} FROM read_parquet($pairs) "  # noqa: S608 - constants
            "WHERE view = $view AND generation = $generation ORDER BY source, path, line, position, id",
            params={"pairs": str(piece.pairs), "view": piece.view, "generation": piece.generation},
        ).to_arrow_reader(READ_ROWS)
