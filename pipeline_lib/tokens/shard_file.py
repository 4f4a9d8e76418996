"""One shard: what a task of the stage "shards" does. It gets a file of rows and writes the file of their token ids."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from data_contracts.schemas import text_hash, tokens_schema
from pipeline_lib.arrow_memory import system_memory
from pipeline_lib.config import ShardConfig
from pipeline_lib.tokens.dataset import SHARD_SUFFIX
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, Side

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
        tables = [tokenizing.table(reader.get_batch(number)) for number in range(reader.num_record_batches)]
        (batch,) = pa.concat_tables(tables).combine_chunks().to_batches()
        # beside the rows, not in the part's folder, which is to hold nothing but shards whoever dies
        temporary = f"{source}.{uuid.uuid4().hex}"
        with pa.OSFile(temporary, "wb") as sink, pa.ipc.new_file(sink, tokenizing.schema) as writer:
            writer.write_batch(batch)
    os.replace(temporary, target)
    return Written(facts=dict(tokenizing.facts), lengths=tokenizing.lengths).model_dump_json()


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
