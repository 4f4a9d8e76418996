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
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.schemas import text_hash, tokens_schema
from pipeline_lib.artifact import Artifact, Counts, Outcome, Part, Stage, Store, draft_part, sum_counts
from pipeline_lib.config import ShardConfig
from pipeline_lib.progress import Progress, silent
from pipeline_lib.tokens.dataset import SHARD_SUFFIX, part_label
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, Side

STAGE = Stage(name="shards", version=3)
READ_ROWS = 1024
COLUMNS = ("id", "view", "generation", "x", "y", "x_hash", "y_hash", "document_id")
LENGTHS_FILE = "lengths.json"
NEGATIVES = "negatives"
FACTS = ("rows", "x_tokens", "y_tokens", "x_truncated", "y_truncated")
NEGATIVE_FACTS = ("negatives", "negative_tokens", "negative_truncated")


def write_shards(
    store: Store,
    curated: Artifact,
    tokenizer: Artifact,
    config: ShardConfig,
    progress: Progress = silent,
) -> Artifact:
    """Tokenize the curated pairs: stage "shards", parts "train-docstring", "train-docstring@1", ... as they have rows.

    Each part has its shards, and `lengths.json`: how many rows have so many tokens, for x and y.

    Args:
        store: where the artifact goes.
        curated: one part a split; its pairs may carry hard negatives.
        tokenizer: one part.
        config: lengths, and which splits.
        progress: counts pairs.
    """

    def make(_: str) -> Outcome:
        pair_tokenizer = PairTokenizer.load(tokenizer.part_folder())
        present = {part.label for part in curated.manifest.parts}
        plan = [
            piece
            for split in config.splits
            if split in present
            for piece in _pieces_of(split, curated.part_folder(split) / "pairs.parquet")
        ]
        total, done, parts = sum(piece.rows for piece in plan), 0, []
        for piece in plan:
            inputs = {"pairs": piece.digest, "tokenizer": tokenizer.digest}
            key = store.key(STAGE.model_copy(update={"name": f"{STAGE.name}-{piece.label}"}), config, inputs)
            part = store.find_part(STAGE.name, key)
            if part is None:
                tokenizing = _Tokenizing(pair_tokenizer, config, piece.negatives)
                part = _write_part(store, key, piece, tokenizing, _Shifted(progress, done, total))
            parts.append(part)
            done += piece.rows
            progress(done, total, f"{done:,} pairs tokenized")
        names = [*FACTS, *(name for name in NEGATIVE_FACTS if any(name in part.facts for part in parts))]
        facts = {name: sum(part.facts.get(name, 0) for part in parts) for name in names}
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=facts)

    with _system_memory():
        return store.build(STAGE, config, {"curated": curated, "tokenizer": tokenizer}, make)


@dataclass(frozen=True)
class _Shifted:
    """Progress of one part, as part of the whole."""

    progress: Progress
    before: int
    total: int

    def __call__(self, done: int) -> None:
        self.progress(self.before + done, self.total, f"{self.before + done:,} pairs tokenized")


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


def _write_part(store: Store, key: str, piece: _Piece, tokenizing: _Tokenizing, advanced: _Shifted) -> Part:
    """Read, tokenize, write; one shard and one batch of rows are in memory."""
    scratch = store.scratch(STAGE.name)
    writer = _ShardWriter(scratch, tokenizing.config.rows_per_shard, tokenizing.schema)
    for batch in _batches_of(piece, tokenizing.config.order):
        writer.add(tokenizing.table(batch))
        advanced(tokenizing.facts["rows"])
    writer.finish()
    lengths = {side: dict(sorted(counts.items())) for side, counts in tokenizing.lengths.items()}
    (scratch / LENGTHS_FILE).write_text(json.dumps(lengths, indent=1) + "\n")
    facts = {name: tokenizing.facts[name] for name in (*FACTS, *(NEGATIVE_FACTS if piece.negatives else ()))}
    counts = Counts(n_in=facts["rows"], n_out=facts["rows"])
    return store.commit_part(draft_part(STAGE, key, piece.label, counts=counts, rows=writer.rows, facts=facts), scratch)


class _Tokenizing:
    """Rows of pairs to rows of token ids, with the figures of one part."""

    def __init__(self, tokenizer: PairTokenizer, config: ShardConfig, negatives: bool) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.negatives = negatives
        self.schema = tokens_schema(tokenizer.vocab_size, negatives)
        self.facts: Counter[str] = Counter()
        self.lengths: dict[Side, Counter[int]] = {"x": Counter(), "y": Counter()}

    def table(self, batch: pa.RecordBatch) -> pa.Table:
        """The rows of a batch, in its order."""
        x_rows = self._ids(batch, "x", self.config.max_x_tokens)
        y_rows = self._ids(batch, "y", self.config.max_y_tokens)
        self.facts["rows"] += len(batch)
        documents = [text_hash(document) for document in batch["document_id"].to_pylist()]
        columns = [batch["id"], x_rows, y_rows, batch["x_hash"], batch["y_hash"], documents]
        if self.negatives:
            columns += self._negatives(batch[NEGATIVES].to_pylist())
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self.schema, strict=True)
        ]
        return pa.table(arrays, schema=self.schema)

    def _negatives(self, texts: list[list[str]]) -> list[list[Any]]:
        """Ids and hashes of each row's hard negatives, which are read as y."""
        flat = [text for row in texts for text in row]
        ids, n_cut = self.tokenizer.encode_counting(flat, "y", self.config.max_y_tokens)
        self.facts.update(dict(zip(NEGATIVE_FACTS, (len(flat), sum(map(len, ids)), n_cut), strict=True)))
        following = iter(ids)
        return [[[next(following) for _ in row] for row in texts], [[text_hash(text) for text in row] for row in texts]]

    def _ids(self, batch: pa.RecordBatch, side: Side, max_tokens: int) -> list[list[int]]:
        rows, n_cut = self.tokenizer.encode_counting(batch[side].to_pylist(), side, max_tokens)
        lengths = list(map(len, rows))
        self.lengths[side].update(lengths)
        self.facts.update({f"{side}_tokens": sum(lengths), f"{side}_truncated": n_cut})
        return rows


class _ShardWriter:
    """Rows into files of one record batch each, all but the last of the same number of rows."""

    def __init__(self, folder: Path, rows_per_shard: int, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self.rows_per_shard = rows_per_shard
        self.rows: dict[str, int] = {}
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def add(self, table: pa.Table) -> None:
        """Take more rows, and write what fills a shard."""
        self._waiting.append(table)
        self._n_waiting += len(table)
        while self._n_waiting >= self.rows_per_shard:
            self._write(self.rows_per_shard)

    def finish(self) -> None:
        """Write the rows that are left."""
        if self._n_waiting:
            self._write(self._n_waiting)

    def _write(self, n_rows: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        (batch,) = waiting.slice(0, n_rows).combine_chunks().to_batches()
        self._waiting = [waiting.slice(n_rows)]
        self._n_waiting -= n_rows
        name = f"shard-{len(self.rows):05d}{SHARD_SUFFIX}"
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            writer.write_batch(batch)
        self.rows[name] = n_rows


def _batches_of(piece: _Piece, order: str) -> Iterator[pa.RecordBatch]:
    columns = [*COLUMNS, *([NEGATIVES] if piece.negatives else [])]
    if order == "hash":
        for batch in pq.ParquetFile(piece.pairs).iter_batches(READ_ROWS, columns=columns, use_threads=False):
            # a mask, no expression: that one loads a further engine
            rows = batch.filter(pc.and_(pc.equal(batch["view"], piece.view), pc.equal(batch["generation"], piece.generation)))
            if len(rows):
                yield rows
        return
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:  # sorts on disk what memory does not hold
        yield from connection.sql(
            f"SELECT {', '.join(columns)} FROM read_parquet($pairs) "  # noqa: S608 - constants
            "WHERE view = $view AND generation = $generation ORDER BY source, path, line, position, id",
            params={"pairs": str(piece.pairs), "view": piece.view, "generation": piece.generation},
        ).to_arrow_reader(READ_ROWS)


@contextmanager
def _system_memory() -> Iterator[None]:
    """Arrow's memory from the system's allocator: mimalloc, its default, keeps 10 MB at least, and what was freed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
