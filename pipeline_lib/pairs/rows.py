"""The three tables of one part in the making, and how they are written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import DOCUMENTS, PAIRS, QUARANTINE, row_id, text_hash
from pipeline_lib.artifact import Counts
from pipeline_lib.pairs.code_pairs import CodePair
from pipeline_lib.pairs.text_pairs import TextPair
from pipeline_lib.sources.source_file import SourceFile

Kind = Literal["code", "text"]

# Text compresses to the same within 5 % at level 3, in twice the time.
COMPRESSION = {"compression": "zstd", "compression_level": 1}
_REPEATED = {"source", "group", "path", "language", "licence", "kind", "view", "document_id", "stage", "reason"}


def document_id(file: SourceFile, kind: Kind) -> str:
    """The id of a file's document of that kind: a function of source, path and kind, not of the content."""
    return row_id(file.source, file.path, kind)


@dataclass
class Rows:
    """Documents, pairs and refused files, in the order in which they were added."""

    generation: int
    documents: list[tuple[Any, ...]] = field(default_factory=list)
    pairs: list[tuple[Any, ...]] = field(default_factory=list)
    quarantine: list[tuple[Any, ...]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)

    def add_document(self, file: SourceFile, kind: Kind, language: str, text: str) -> str:
        """Add a document and return its id."""
        key = document_id(file, kind)
        self.documents.append((key, file.source, file.group, file.path, language, file.licence, kind, text))
        self.facts["documents"] += 1
        return key

    def add_code_pair(self, file: SourceFile, document: str, language: str, position: int, pair: CodePair) -> None:
        """Add a pair of a docstring or name and its function."""
        self._add_pair(file, document, ("code", pair.view, language), position, pair)

    def add_text_pair(self, file: SourceFile, document: str, language: str, position: int, pair: TextPair) -> None:
        """Add a pair of pieces of one document."""
        self._add_pair(file, document, ("text", pair.view, language), position, pair)

    def _add_pair(
        self,
        file: SourceFile,
        document: str,
        kind_view_language: tuple[Kind, str, str],
        position: int,
        pair: CodePair | TextPair,
    ) -> None:
        kind, view, language = kind_view_language
        x_hash, y_hash = text_hash(pair.x), text_hash(pair.y)
        key = row_id(document, kind, view, f"{pair.line}:{position}", str(x_hash), str(y_hash))
        self.pairs.append(
            (
                key, kind, view, pair.x, pair.y, x_hash, y_hash, document, file.source, file.group, file.path,
                pair.line, position, pair.name, language, file.licence, self.generation,
            )
        )  # fmt: skip
        self.facts[f"{kind}_pairs"] += 1

    def refuse(self, file: SourceFile, kind: Kind, reason: str, detail: str, offset: int = -1) -> None:
        """Set a file aside that could not be read, with its reason."""
        self.quarantine.append(("extract", file.source, file.path, offset, document_id(file, kind), reason, detail))

    def counts(self) -> Counts:
        """Where every candidate went.

        A candidate is a function (once a view), two neighbouring pieces of prose, or a file that was not read; what comes
        out are the rows of pairs.parquet. A file that was read is no candidate: it is a document.
        """
        return Counts(
            n_in=len(self.pairs) + self.dropped.total() + len(self.quarantine),
            n_out=len(self.pairs),
            dropped=dict(sorted(self.dropped.items())),
            quarantined=len(self.quarantine),
        )

    def write(self, folder: Path) -> dict[str, int]:
        """Write the three tables as Parquet. Returns the rows of each file."""
        tables = {
            "documents.parquet": (self.documents, DOCUMENTS),
            "pairs.parquet": (self.pairs, PAIRS),
            "quarantine.parquet": (self.quarantine, QUARANTINE),
        }
        for name, (rows, schema) in tables.items():
            write_table(folder / name, rows, schema)
        return {name: len(rows) for name, (rows, _) in tables.items()}


def write_table(path: Path, rows: list[tuple[Any, ...]], schema: pa.Schema) -> None:
    """Write rows in the order of the schema's columns; the same rows give the same bytes."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    repeated = [name for name in schema.names if name in _REPEATED]
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema), path, use_dictionary=repeated, write_statistics=False, **COMPRESSION
    )
