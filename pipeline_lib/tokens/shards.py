"""Stage "shards": token ids in Arrow files that are memory-mapped, one part for each split and view of pairs.

Rows keep the order of the curated pairs, which is that of their ids: an id is a hash, so that consecutive rows are already
mixed over sources and documents, and a block of them is a fair sample. Or, where asked for, that of their paths: then a
block holds neighbours of one file, the hardest negatives that a corpus has. One file is one record batch, uncompressed: reading
a row is address arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_contracts.schemas import TOKENS, text_hash
from pipeline_lib.artifact import Artifact, Counts, Outcome, Part, Stage, Store, draft_part, sum_counts
from pipeline_lib.config import ShardConfig
from pipeline_lib.progress import Progress, silent
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

STAGE = Stage(name="shards", version=2)
READ_ROWS = 1024
COLUMNS = ("id", "view", "x", "y", "x_hash", "y_hash", "document_id")
FACTS = ("rows", "x_tokens", "y_tokens", "x_truncated", "y_truncated")


def write_shards(
    store: Store,
    curated: Artifact,
    tokenizer: Artifact,
    config: ShardConfig,
    progress: Progress = silent,
) -> Artifact:
    """Tokenize the curated pairs: stage "shards", parts "train-docstring", "train-neighbour", ... as they have rows.

    Args:
        store: where the artifact goes.
        curated: one part a split.
        tokenizer: one part.
        config: lengths, and which splits.
        progress: counts pairs.
    """

    def make(_: str) -> Outcome:
        pair_tokenizer = PairTokenizer.load(tokenizer.part_folder())
        present = {part.label for part in curated.manifest.parts}
        plan = [
            (split, view, rows)
            for split in config.splits
            if split in present
            for view, rows in _rows_by_view(_pairs_path(curated, split)).items()
        ]
        total, done, parts = sum(rows for _, _, rows in plan), 0, []
        for split, view, rows in plan:
            inputs = {"pairs": curated.part(split).digest, "tokenizer": tokenizer.digest}
            key = store.key(STAGE.model_copy(update={"name": f"{STAGE.name}-{split}-{view}"}), config, inputs)
            part = store.find_part(STAGE.name, key)
            if part is None:
                work = _PartWork(store, key, split, view, config)
                part = work.run(_pairs_path(curated, split), pair_tokenizer, _Shifted(progress, done, total))
            parts.append(part)
            done += rows
            progress(done, total, f"{done:,} pairs tokenized")
        facts = {name: sum(part.facts[name] for part in parts) for name in FACTS}
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=facts)

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
class _PartWork:
    """One split and view on its way to a part."""

    store: Store
    key: str
    split: str
    view: str
    config: ShardConfig

    def run(self, pairs: Path, tokenizer: PairTokenizer, advanced: _Shifted) -> Part:
        """Read, tokenize, write; one shard and one batch of rows are in memory."""
        scratch = self.store.scratch(STAGE.name)
        facts: Counter[str] = Counter()
        writer = _ShardWriter(scratch, self.config.rows_per_shard)
        for batch in _batches_of(pairs, self.view, self.config.order):
            writer.add(_tokenize(batch, tokenizer, self.config, facts))
            advanced(facts["rows"])
        writer.finish()
        counts = Counts(n_in=facts["rows"], n_out=facts["rows"])
        label = f"{self.split}-{self.view}"
        part_facts = {name: facts[name] for name in FACTS}
        return self.store.commit_part(
            draft_part(STAGE, self.key, label, counts=counts, rows=writer.rows, facts=part_facts), scratch
        )


class _ShardWriter:
    """Rows into files of one record batch each, all but the last of the same number of rows."""

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self.folder = folder
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
        name = f"shard-{len(self.rows):05d}.arrow"
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, TOKENS) as writer:
            writer.write_batch(batch)
        self.rows[name] = n_rows


@dataclass(frozen=True)
class TokenRows:
    """Some rows of a dataset: ids are views into the mapped files, int32, delimiters included; hashes are int64."""

    x_ids: list[NDArray[np.int32]]
    y_ids: list[NDArray[np.int32]]
    x_hash: NDArray[np.int64]
    y_hash: NDArray[np.int64]
    document_hash: NDArray[np.int64]


class TokenDataset:
    """The memory-mapped rows of one shards part; a file is mapped when one of its rows is first asked for."""

    def __init__(self, paths: list[Path], rows: list[int]) -> None:
        self._paths = paths
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def open(cls, shards: Artifact, label: str) -> TokenDataset:
        """The part of that label, e.g. "train-docstring"; reads nothing but the manifest.

        Raises:
            UserError: there is no such part.
        """
        part = shards.part(label)
        files = sorted(part.files, key=lambda file: file.name)
        return cls([shards.root / part.folder / f.name for f in files], [f.rows or 0 for f in files])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: NDArray[np.integer]) -> TokenRows:
        """The rows of these numbers, in their order.

        Raises:
            IndexError: a number is outside 0 ... len - 1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a dataset of {len(self)}")
        shard_of = np.searchsorted(self._starts, wanted, side="right") - 1
        local = wanted - self._starts[shard_of]
        shards = {number: self._shard(number) for number in np.unique(shard_of).tolist()}
        hashes = np.empty((3, len(wanted)), dtype=np.int64)
        for number, shard in shards.items():
            here = np.flatnonzero(shard_of == number)
            for row, column in zip(hashes, shard.hashes, strict=True):
                row[here] = column[local[here]]
        places = list(zip(shard_of.tolist(), local.tolist(), strict=True))
        return TokenRows(
            [shards[number].x.row(i) for number, i in places],
            [shards[number].y.row(i) for number, i in places],
            *hashes,
        )

    def _shard(self, number: int) -> _Shard:
        if number not in self._shards:
            self._shards[number] = _Shard(self._paths[number])
        return self._shards[number]


class _Lists:
    """A column of lists, as its values and the places where each begins."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values = column.values.to_numpy(zero_copy_only=True)
        self.offsets = column.offsets.to_numpy(zero_copy_only=True)

    def row(self, index: int) -> NDArray[np.int32]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class _Shard:
    """One mapped file."""

    def __init__(self, path: Path) -> None:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.x, self.y = _Lists(batch["x_ids"]), _Lists(batch["y_ids"])
        self.hashes = [batch[name].to_numpy() for name in ("x_hash", "y_hash", "document_hash")]


def _pairs_path(curated: Artifact, split: str) -> Path:
    return curated.part_folder(split) / "pairs.parquet"


def _rows_by_view(pairs: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for batch in pq.ParquetFile(pairs).iter_batches(columns=["view"]):
        counts.update({entry["values"]: entry["counts"] for entry in batch["view"].value_counts().to_pylist()})
    return dict(sorted(counts.items()))


def _batches_of(pairs: Path, view: str, order: str) -> Iterator[pa.RecordBatch]:
    if order == "hash":
        for batch in pq.ParquetFile(pairs).iter_batches(READ_ROWS, columns=list(COLUMNS)):
            chosen = batch.filter(pc.equal(batch["view"], view))
            if len(chosen):
                yield chosen
        return
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:  # sorts on disk what memory does not hold
        yield from connection.sql(
            f"SELECT {', '.join(COLUMNS)} FROM read_parquet($pairs) WHERE view = $view "  # noqa: S608 - constants
            "ORDER BY source, path, line, position, id",
            params={"pairs": str(pairs), "view": view},
        ).to_arrow_reader(READ_ROWS)


def _tokenize(batch: pa.RecordBatch, tokenizer: PairTokenizer, config: ShardConfig, facts: Counter[str]) -> pa.Table:
    x_rows, x_cut = tokenizer.encode_counting(batch["x"].to_pylist(), "x", config.max_x_tokens)
    y_rows, y_cut = tokenizer.encode_counting(batch["y"].to_pylist(), "y", config.max_y_tokens)
    facts.update(
        rows=len(batch),
        x_tokens=sum(map(len, x_rows)),
        y_tokens=sum(map(len, y_rows)),
        x_truncated=x_cut,
        y_truncated=y_cut,
    )
    documents = [text_hash(document) for document in batch["document_id"].to_pylist()]
    columns = [batch["id"], x_rows, y_rows, batch["x_hash"], batch["y_hash"], documents]
    return pa.table(
        [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, TOKENS, strict=True)
        ],
        schema=TOKENS,
    )
