"""Stage "shards": token ids in Arrow files that are memory-mapped, one part for each split, view and generation of pairs.

Rows keep the order of the curated pairs, which is that of their ids: an id is a hash, so that consecutive rows are already
mixed over sources and documents, and a block of them is a fair sample. On demand it is that of their paths: then a block
holds neighbours of one file, the hardest negatives that a corpus has. One file is one record batch, uncompressed: reading
a row is address arithmetic.

A part is named after the ids of its pairs, which are hashes of what the pairs hold: where a later generation comes in, the
parts of the earlier ones are found and stay as they are. Pairs that carry hard negatives (schemas.PAIRS_WITH_NEGATIVES) are
named after those too, and their shards have two columns more. A task gets a file of rows and writes the file of their ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from data_contracts.schemas import text_hash, tokens_schema
from pipeline_lib.config.data import ShardConfig, WorkersConfig
from pipeline_lib.runtime.machine import system_memory
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.runtime.workers import HERE, Workers, where_it_pays
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import SHARD_SUFFIX, part_label
from pipeline_lib.tokens.delimiters import Side
from pipeline_lib.tokens.guide import Cleaned
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

NEGATIVES = "negatives"
FACTS = ("rows", "x_tokens", "y_tokens", "x_truncated", "y_truncated")
NEGATIVE_FACTS = ("negatives", "negative_tokens", "negative_truncated")


class Written(BaseModel):
    """The figures of one shard, as a task returns them."""

    facts: dict[str, int]
    lengths: dict[Side, dict[int, int]]  # tokens -> rows of so many


def shard_name(number: int) -> str:
    """The file name of a part's shard."""
    return f"shard-{number:05d}{SHARD_SUFFIX}"


def rows_files(folder: Path, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[Path]:
    """Write the batches to files of so many rows each, the last of what is left; each is written when it is asked for."""
    for number, numbered in groupby(_numbered(batches, rows), itemgetter(0)):
        path = rows_file(folder, number)
        _, first = next(numbered)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for _, batch in numbered:  # noqa: B031 - goes on after the first
                writer.write_batch(batch)
        yield path


def rows_file(folder: Path, number: int) -> Path:
    """The path of the rows that a part's shard is made of."""
    return folder / f"rows-{number:05d}.arrow"


def _numbered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches, cut where a shard ends, each with its shard's number."""
    done = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            head = batch.slice(start, rows - done % rows)
            yield done // rows, head
            start += len(head)
            done += len(head)


def write_shard(source: str, target: str, tokenizer: str, config: ShardConfig, negatives: bool) -> str:
    """Tokenize the rows of a file into one shard; run twice, even at once, it leaves the same bytes.

    Args:
        source: Arrow file of rows of pairs.
        target: the shard's path; its folder is there.
        tokenizer: folder of a tokenizer artifact's part.
        config: lengths.
        negatives: rows carry hard negatives.

    Returns:
        `Written`, as JSON.
    """
    tokenizing = Tokenizing(_loaded(tokenizer), config, negatives)
    with system_memory(), pa.memory_map(source) as stream:
        reader = pa.ipc.open_file(stream)
        tokenizing.tokenizer = tokenizing.tokenizer.for_task(_view_of(reader))
        tables = [tokenizing.table(reader.get_batch(number)) for number in range(reader.num_record_batches)]
        (batch,) = pa.concat_tables(tables).combine_chunks().to_batches()
        # beside the rows, not in the part's folder, which is to hold nothing but shards whoever dies
        temporary = f"{source}.{uuid.uuid4().hex}"
        with pa.OSFile(temporary, "wb") as sink, pa.ipc.new_file(sink, tokenizing.schema) as writer:
            writer.write_batch(batch)
    os.replace(temporary, target)
    return Written(facts=dict(tokenizing.facts), lengths=tokenizing.lengths).model_dump_json()


def _view_of(reader: Any) -> str:
    """The one view that a file's rows are of."""
    batches = map(reader.get_batch, range(reader.num_record_batches))
    return next((str(batch["view"][0]) for batch in batches if len(batch)), "")


@lru_cache(maxsize=1)
def _loaded(folder: str) -> PairTokenizer:
    """Kept from one shard to the next, with the words that it has learned: folders of artifacts never change."""
    return PairTokenizer.load(Path(folder))


def forget_tokenizer() -> None:
    """Give back the 20 to 40 MB that `write_shard` keeps in this process."""
    _loaded.cache_clear()


class Tokenizing:
    """Rows of pairs to rows of token ids, with their figures."""

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


STAGE = Stage(name="shards", version=3)
READ_ROWS = 1024
SORT_BYTES = 1024**3
MANY_ROWS = 250_000  # a minute or two of one core; below, starting processes takes about as long as they save
COLUMNS = ("id", "view", "generation", "x", "y", "x_hash", "y_hash", "document_id")
LENGTHS_FILE = "lengths.json"


def write_shards(
    store: Store,
    curated: Artifact | Cleaned,
    tokenizer: Artifact,
    config: ShardConfig,
    progress: Progress = silent,
    processes: WorkersConfig = HERE,
) -> Artifact:
    """Tokenize the curated pairs: stage "shards", parts "train-docstring", "train-docstring@1", ... as they have rows.

    Each part has its shards, and `lengths.json`: how many rows have so many tokens, for x and y.

    Args:
        store: where the artifact goes.
        curated: one part a split; its pairs may carry hard negatives. `Cleaned`: of the training split those that stayed.
        tokenizer: one part.
        config: lengths, and which splits.
        progress: counts pairs.
        processes: that tokenize, a shard a task; the bytes are the same with any number of them.
    """

    pairs = curated.curated if isinstance(curated, Cleaned) else curated
    inputs = {"curated": pairs, "tokenizer": tokenizer}
    inputs |= {"consistent": curated.consistent} if isinstance(curated, Cleaned) else {}

    def file_of(split: str) -> Path:
        return curated.pairs(split) if isinstance(curated, Cleaned) else curated.part_folder(split) / "pairs.parquet"

    def make(_: str) -> Outcome:
        present = {part.label for part in pairs.manifest.parts}
        plan = [piece for split in config.splits if split in present for piece in _pieces_of(split, file_of(split))]
        parts = _write_parts(store, plan, tokenizer, config, progress, processes)
        names = [*FACTS, *(name for name in NEGATIVE_FACTS if any(name in part.facts for part in parts))]
        facts = {name: sum(part.facts.get(name, 0) for part in parts) for name in names}
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=facts)

    with system_memory():
        return store.build(STAGE, config, inputs, make)


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
