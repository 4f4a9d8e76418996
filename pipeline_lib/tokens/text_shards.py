"""Stage "text_shards": whole documents as token ids in memory-mapped Arrow files, one part a split, for language modelling.

A row is a document: its ids without delimiters, an end-of-text id behind them, and how many bytes and words the text has, by
which losses under different tokenizers compare. Rows are in the order of their ids, which are hashes: any run of them is a
fair sample. A language model reads the ids of a file as one stream, cut into sequences of equal length.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_contracts.schemas import text_tokens_schema
from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import SHARD_SUFFIX
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.tokenizer_files import without_surrogates

STAGE = Stage(name="text_shards", version=1)
SPLITS = ("train", "validation")
FACTS = ("documents", "tokens", "text_bytes", "text_words")
SORT_BYTES = 1024**3
READ_ROWS = 256
UNCUT = 1 << 40  # tokens of a text: no file has as many bytes
BATCH_CHARACTERS = 1 << 20  # tokenized at once: an encoding takes some 100 bytes a token until its ids are read
FILE_TOKENS = 1 << 24  # of one file, which is one record batch: 32 MB where ids are of 16 bits

_DOCUMENTS = """
SELECT id, text FROM read_parquet($documents) AS documents JOIN read_parquet($splits) AS splits USING (id)
WHERE splits.split = $split ORDER BY id
"""


class TextShardConfig(StageConfig):
    """No choice: all that decides is in the inputs."""


@dataclass(frozen=True)
class Documents:
    """Whole documents: the files that hold their texts, and the table of their splits."""

    texts: list[str]
    splits: str
    rows: dict[str, int]  # documents by split


def write_text_shards(
    store: Store, extracted: Artifact, splits: Artifact, tokenizer: Artifact, progress: Progress = silent
) -> Artifact:
    """Tokenize the whole documents of the training and validation splits, a part each where there are some.

    Args:
        extracted: with the documents' texts.
        splits: of the stage "document_splits".
        tokenizer: one part.

    Raises:
        UserError: no document is for training.
    """
    inputs = {"extracted": extracted, "splits": splits, "tokenizer": tokenizer}

    def make(_: str) -> Outcome:
        texts = [str(path) for path in sorted(extracted.paths("documents.parquet"))]
        documents = Documents(texts, str(splits.paths("splits.parquet")[0]), splits.manifest.facts["documents"])
        if not documents.rows.get("train"):
            raise UserError(f"no whole document is for training: {splits.manifest.counts}; give a larger source")
        parts = tuple(_part(store, inputs, documents, split, progress) for split in SPLITS if documents.rows.get(split))
        facts = {name: sum(part.facts[name] for part in parts) for name in FACTS}
        return Outcome(parts=parts, counts=sum_counts(parts), facts=facts)

    return store.build(STAGE, TextShardConfig(), inputs, make)


def _part(store: Store, inputs: dict[str, Artifact], documents: Documents, split: str, progress: Progress) -> Part:
    key = store.key(STAGE, TextShardConfig(), {**{name: one.digest for name, one in inputs.items()}, "split": split})
    if (found := store.find_part(STAGE.name, key)) is not None:
        return found
    scratch, spill = store.scratch(STAGE.name), store.scratch(STAGE.name)
    writer = _Writer(scratch, PairTokenizer.load(inputs["tokenizer"].part_folder()))
    try:
        for ids, texts in _batches(documents, split, spill):
            writer.add(ids, texts)
            done = writer.facts["documents"]
            progress(done, documents.rows[split], f"{split}: {done:,} documents, {writer.facts['tokens']:,} tokens")
        writer.finish()
        facts = {name: writer.facts[name] for name in FACTS}
        counts = Counts(n_in=documents.rows[split], n_out=facts["documents"])
        return store.commit_part(draft_part(STAGE, key, split, counts, writer.rows, facts), scratch)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed


def _batches(documents: Documents, split: str, spill: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of a split's documents in the order of ids, about a megabyte at a time."""
    ids: list[str] = []
    texts: list[str] = []
    n_characters = 0
    limits: dict[str, Any] = {"threads": 1, "memory_limit": f"{SORT_BYTES}B", "temp_directory": str(spill)}
    with duckdb.connect(":memory:", config=limits) as connection:  # sorts on disk what memory does not hold
        values = {"documents": documents.texts, "splits": documents.splits, "split": split}
        for batch in connection.sql(_DOCUMENTS, params=values).to_arrow_reader(READ_ROWS):
            for id_, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                ids.append(id_)
                texts.append(text)
                n_characters += len(text)
                if n_characters >= BATCH_CHARACTERS:
                    yield ids, texts
                    ids, texts, n_characters = [], [], 0
    if ids:
        yield ids, texts


def end_of_text(tokenizer: PairTokenizer) -> int:
    """Id that ends a whole document: that of padding, which no text can produce.

    A given model pads with its own end of text, unless it names a padding apart; both stand where no text does.
    """
    return tokenizer.pad


def encode_documents(tokenizer: PairTokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of whole texts without delimiters, none cut, each with `end_of_text` behind it."""
    before, behind = tokenizer.delimiters.around["x"]
    rows = tokenizer.encode(texts, "x", max_tokens=UNCUT)
    return [[*row[before : len(row) - behind], end_of_text(tokenizer)] for row in rows]


class _Writer:
    """Rows of whole documents, a file of so many tokens after another."""

    def __init__(self, folder: Path, tokenizer: PairTokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.schema = text_tokens_schema(tokenizer.vocab_size)
        self.facts: Counter[str] = Counter()
        self.rows: dict[str, int] = {}
        self._waiting: list[pa.Table] = []
        self._tokens = 0

    def add(self, ids: list[str], texts: list[str]) -> None:
        """Tokenize some documents; write a file when there is enough for one."""
        tokens = encode_documents(self.tokenizer, texts)
        sizes = [len(without_surrogates(text).encode()) for text in texts]
        words = [len(text.split()) for text in texts]
        columns = zip((ids, tokens, sizes, words), self.schema, strict=True)
        self._waiting.append(pa.table([pa.array(column, field.type) for column, field in columns], schema=self.schema))
        new = sum(map(len, tokens))
        self._tokens += new
        self.facts.update({"documents": len(ids), "tokens": new, "text_bytes": sum(sizes), "text_words": sum(words)})
        if self._tokens >= FILE_TOKENS:
            self.finish()

    def finish(self) -> None:
        """Write what waits, if anything, as one record batch."""
        if not self._waiting:
            return
        (batch,) = pa.concat_tables(self._waiting).combine_chunks().to_batches()
        name = f"text-{len(self.rows):05d}{SHARD_SUFFIX}"
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            writer.write_batch(batch)
        self.rows[name] = len(batch)
        self._waiting, self._tokens = [], 0


class TextStream:
    """The memory-mapped documents of one split."""

    def __init__(self, paths: list[Path]) -> None:
        batches = [pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0) for path in paths]
        self.batches = batches
        self.files: list[NDArray[np.unsignedinteger]] = [batch["ids"].values.to_numpy(zero_copy_only=True) for batch in batches]

    @classmethod
    def open(cls, shards: Artifact, split: str) -> TextStream | None:
        """The documents of a split; None where it has none."""
        if split not in [part.label for part in shards.manifest.parts]:
            return None
        folder = shards.part_folder(split)
        return cls([folder / file.name for file in shards.part(split).files if file.name.endswith(SHARD_SUFFIX)])

    def documents(self, tokens: int) -> tuple[list[NDArray[np.int64]], int, int]:
        """The first documents that have so many tokens together, at least one, with the bytes and words of their texts."""
        found: list[NDArray[np.int64]] = []
        n_tokens = n_bytes = n_words = 0
        for batch in self.batches:
            for row in range(len(batch)):
                ids = batch["ids"][row].values.to_numpy(zero_copy_only=True).astype(np.int64)
                n_tokens += len(ids)
                if found and n_tokens > tokens:
                    return found, n_bytes, n_words
                found.append(ids)
                n_bytes += batch["text_bytes"][row].as_py()
                n_words += batch["text_words"][row].as_py()
        return found, n_bytes, n_words

    def counts(self, vocabulary: int) -> NDArray[np.int64]:
        """How often each id comes, (vocabulary,)."""
        counts = np.zeros(vocabulary, dtype=np.int64)
        for ids in self.files:
            for start in range(0, len(ids), FILE_TOKENS // 16):
                counts += np.bincount(ids[start : start + FILE_TOKENS // 16], minlength=vocabulary)
        return counts


class Sequences:
    """Sequences of equal length that a split's stream is cut into, by their numbers; less than one is left of a file."""

    def __init__(self, stream: TextStream, length: int) -> None:
        self.stream, self.length = stream, length
        self._starts = np.concatenate([[0], np.cumsum([len(ids) // length for ids in stream.files])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """The ids of these sequences, (numbers, length)."""
        files = np.searchsorted(self._starts, numbers, side="right") - 1
        places = (np.asarray(numbers) - self._starts[files]) * self.length
        cut = [
            self.stream.files[file][place : place + self.length]
            for file, place in zip(files.tolist(), places.tolist(), strict=True)
        ]
        return np.stack(cut).astype(np.int64)
