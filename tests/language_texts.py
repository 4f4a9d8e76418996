"""Whole documents with their pairs, as extraction and curation leave them, and the token shards of language modelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from builders import pair_row, write_artifact, write_pairs

from data_contracts.schemas import DOCUMENTS, PAIRS, SPLITS, row_id
from pipeline_lib.config.data import TokenizerConfig
from pipeline_lib.curation.document_splits import split_whole_documents
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.text_shards import write_text_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer
from pipeline_lib.train.launch import TrainInputs


@dataclass(frozen=True)
class Document:
    """A document: its text, the pairs that were made of it, and the split of those that are left (a subset); "" for none."""

    text: str
    split: str
    pairs: tuple[tuple[str, str], ...]
    left: int | None = None  # pairs that are left, the first ones; None: all

    @property
    def id(self) -> str:
        return row_id("document", self.text)

    def rows(self) -> list[dict[str, Any]]:
        return [
            pair_row(x, y, document_id=self.id, id=row_id(self.text, str(n)), position=n) for n, (x, y) in enumerate(self.pairs)
        ]


def write_documents(store: Store, documents: list[Document]) -> tuple[Artifact, Artifact]:
    """The artifacts "extract", in two parts, and "curate"."""
    parts: Mapping[str, list[Document]] = {"a": documents[::2], "b": documents[1::2]}

    def write(folder: Path, label: str) -> None:
        texts = [_row(document) for document in parts[label]]
        pq.write_table(pa.Table.from_pylist(texts, schema=DOCUMENTS), folder / "documents.parquet")
        rows = [row for document in parts[label] for row in document.rows()]
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), folder / "pairs.parquet")

    extracted = write_artifact(store, "extract", list(parts), write)
    kept = {split: [row for one in documents if one.split == split for row in one.rows()[: one.left]] for split in SPLITS}
    return extracted, write_pairs(store, "curate", kept)


def _row(document: Document) -> dict[str, Any]:
    places = dict.fromkeys(("source", "group", "path", "language"), "p")
    return {**places, "id": document.id, "licence": None, "kind": "code", "text": document.text}


def write_language_inputs(root: Path, documents: list[Document], tokenizer: TokenizerConfig) -> tuple[Store, TrainInputs]:
    """A store with the text shards of these documents and the tokenizer that was trained on their pairs."""
    store = Store(root)
    extracted, curated = write_documents(store, documents)
    made = train_tokenizer(store, curated, tokenizer)
    splits = split_whole_documents(store, extracted, curated)
    return store, TrainInputs(write_text_shards(store, extracted, splits, made), made)
