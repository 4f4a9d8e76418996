"""Tables of one part in the making (documents, pairs, quarantine), written as they grow, a row group at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import DOCUMENTS, LOSSES, PAIRS, QUARANTINE, row_id, text_hash
from pipeline_lib.pairs.code_pairs import CodePair
from pipeline_lib.pairs.text_pairs import TextPair
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.store.records import Counts

Kind = Literal["code", "text"]

# Text compresses to the same within 5 % at level 3, in twice the time.
LOSSES_FILE = "losses.parquet"  # of parts that lost nothing there is none
COMPRESSION = {"compression": "zstd", "compression_level": 1}
# A bundle of files of usual size stays below this: its tables have one row group. Of one file without bounds (a WARC, a dump
# in JSON Lines) the rest goes to disk as it comes.
ROW_GROUP_CHARACTERS = 16 * 1024**2
_SCHEMAS = {"documents.parquet": DOCUMENTS, "pairs.parquet": PAIRS, "quarantine.parquet": QUARANTINE}
_REPEATED = {"source", "group", "path", "language", "licence", "kind", "view", "document_id", "stage", "reason"}


def document_id(file: SourceFile, kind: Kind) -> str:
    """The id of a file's document of that kind: a function of source, path and kind, not of the content."""
    return row_id(file.source, file.path, kind)


class _Table:
    """One table: the rows that are held, and the file that those before were written to."""

    def __init__(self, schema: pa.Schema, path: Path | None) -> None:
        self.schema = schema
        self.path = path
        self.rows: list[tuple[Any, ...]] = []
        self.count = 0  # rows in all
        self.characters = 0  # of the rows that are held
        self.writer: pq.ParquetWriter | None = None

    def add(self, row: tuple[Any, ...], characters: int) -> None:
        self.rows.append(row)
        self.count += 1
        self.characters += characters
        if self.characters >= ROW_GROUP_CHARACTERS and self.path is not None:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are held as one row group; the same rows give the same bytes."""
        if self.writer is None:
            assert self.path is not None, "rows that are to be written need a folder"
            repeated = [name for name in self.schema.names if name in _REPEATED]
            options = {"use_dictionary": repeated, "write_statistics": False, **COMPRESSION}
            self.writer = pq.ParquetWriter(self.path, self.schema, **options)
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.schema)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.rows.clear()
        self.characters = 0

    def close(self) -> None:
        """Write what is left; a table without rows is a file too."""
        if self.rows or self.writer is None:
            self.flush()
        assert self.writer is not None
        self.writer.close()


class Rows:
    """Documents, pairs and refused files, in the order in which they are added.

    Args:
        generation: the growth of the data set that they belong to.
        folder: where the tables are written as they grow; None: all rows are held.
    """

    def __init__(self, generation: int, folder: Path | None = None) -> None:
        self.generation = generation
        self.folder = folder
        self.dropped: Counter[str] = Counter()
        self.facts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # texts by reason: those of the quarantine
        self.left_out: Counter[str] = Counter()  # whole texts by reason: those of `dropped` that gave no document
        self.omitted: Counter[str] = Counter()  # parts of texts that readers leave out on purpose, by kind
        self.losses: dict[tuple[str, str, str], dict[str, Any]] = {}  # rows of LOSSES, by source, path and reason
        self._lost_of: Counter[tuple[str, str]] = Counter()  # bytes of a container, by source and path
        self.skips = Skips()
        self._documents, self._pairs, self._quarantine = (
            _Table(schema, folder / name if folder else None) for name, schema in _SCHEMAS.items()
        )

    @property
    def documents(self) -> list[tuple[Any, ...]]:
        """The rows of documents that are held."""
        return self._documents.rows

    @property
    def pairs(self) -> list[tuple[Any, ...]]:
        """The rows of pairs that are held."""
        return self._pairs.rows

    @property
    def quarantine(self) -> list[tuple[Any, ...]]:
        """The rows of refused files that are held."""
        return self._quarantine.rows

    def add_document(self, file: SourceFile, kind: Kind, language: str, text: str) -> str:
        """Add a document and return its id."""
        key = document_id(file, kind)
        row = (key, file.source, file.group, file.path, language, file.licence, kind, text)
        self._documents.add(row, len(text))
        self.facts["documents"] += 1
        return key

    def add_code_pair(self, file: SourceFile, document: str, language: str, position: int, pair: CodePair) -> None:
        """Add a pair of a docstring or name and its function."""
        self._add_pair(file, document, ("code", pair.view, language), position, pair)

    def add_text_pair(self, file: SourceFile, document: str, language: str, position: int, pair: TextPair) -> None:
        """Add a pair of segments of one document."""
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
        row = (
            key, kind, view, pair.x, pair.y, x_hash, y_hash, document, file.source, file.group, file.path,
            pair.line, position, pair.name, language, file.licence, self.generation,
        )  # fmt: skip
        self._pairs.add(row, len(pair.x) + len(pair.y))
        self.facts[f"{kind}_pairs"] += 1

    def refuse(self, file: SourceFile, kind: Kind, reason: str, detail: str, offset: int = -1) -> None:
        """Set a file aside that could not be read, with its reason."""
        row = ("extract", file.source, file.path, offset, document_id(file, kind), reason, detail)
        self._quarantine.add(row, len(file.path) + len(detail))
        self.refused[reason] += 1

    def lose(self, file: SourceFile, refusal: Refusal, texts: int) -> None:
        """Note a part of a container that was not read; those of one reason in one file are one row.

        Args:
            texts: that were read of it before.
        """
        row = self.losses.setdefault(
            (file.source, file.path, refusal.reason),
            {"source": file.source, "path": file.path, "reason": refusal.reason, "count": 0, "offset": refusal.offset,
             "texts": texts, "lost_bytes": 0, "file_bytes": file.bytes, "detail": refusal.detail},
        )  # fmt: skip
        row["count"] += 1
        key = (file.source, file.path)
        lost = min(file.bytes - self._lost_of[key], refusal.lost_bytes or 0)  # what two gaps have in common is lost once
        self._lost_of[key] += lost
        row["lost_bytes"] += lost
        self.facts["lost_bytes"] += lost

    def lost_reasons(self) -> Counter[str]:
        """Containers that lost a part, by reason."""
        return Counter(reason for _, _, reason in self.losses)

    def skip(self, skips: Skips) -> None:
        """Count what a container holds besides texts."""
        self.skips.update(skips)
        self.dropped.update(skips.by_reason())

    def counts(self) -> Counts:
        """Counts of every candidate by where it went.

        A candidate is a function (once a view), two neighbouring segments of prose, or a file that was not read (of those that
        an archive or a repository holds, any); what comes
        out are the rows of pairs.parquet. A file that was read is no candidate: it is a document.
        """
        return Counts(
            n_in=self._pairs.count + self.dropped.total() + self._quarantine.count,
            n_out=self._pairs.count,
            dropped=dict(sorted(self.dropped.items())),
            quarantined=self._quarantine.count,
        )

    def write(self) -> dict[str, int]:
        """Complete the tables as Parquet in the folder, that of losses where there are any. Returns the rows of each file."""
        tables = dict(zip(_SCHEMAS, (self._documents, self._pairs, self._quarantine), strict=True))
        for table in tables.values():
            table.close()
        written = {name: table.count for name, table in tables.items()}
        if self.losses:
            assert self.folder is not None, "rows that are to be written need a folder"
            losses = [self.losses[key] for key in sorted(self.losses)]
            pq.write_table(pa.Table.from_pylist(losses, schema=LOSSES), self.folder / LOSSES_FILE, **COMPRESSION)
            written[LOSSES_FILE] = len(losses)
        return written


def sum_facts(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several parts together, those by reason reason by reason."""
    total: dict[str, Any] = {}
    for part in facts:
        for name, value in part.items():
            if isinstance(value, dict):
                total[name] = dict(sorted((Counter(total.get(name, {})) + Counter(value)).items()))
            else:
                total[name] = total.get(name, 0) + value
    return dict(sorted(total.items()))
