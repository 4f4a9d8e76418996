"""Spool of items on their way to pairs: a table on disk a kind, joined by DuckDB. Memory does not grow with the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import QUARANTINE
from pipeline_lib.training_sets.records import SCHEMAS, Bad, CorpusText, Dropped, Example, Item, Judgement, Statement

WAITING_ROWS = 1024
MEMORY = "1GB"

STATEMENTS = """
SELECT s.premise AS x, s.hypothesis AS y, coalesce(c.negatives, []) AS negatives, s.file, s.line
FROM statement s LEFT JOIN (
  SELECT premise, list(hypothesis ORDER BY file, line) AS negatives FROM statement
  WHERE label = 'contradiction' GROUP BY premise
) c USING (premise)
WHERE s.label = 'entailment' ORDER BY s.file, s.line
"""
# a place is the file's number and the line in one integer, so that the least of them is the first
JUDGEMENTS = """
WITH texts AS (SELECT side, id, arg_min(text, (file::BIGINT << 40) + line) AS text FROM text GROUP BY side, id),
relevant AS (
  SELECT query, passage, min((file::BIGINT << 40) + line) AS place FROM judgement WHERE relevant GROUP BY query, passage
),
judged AS (
  SELECT j.query, t.text, min((j.file::BIGINT << 40) + j.line) AS place
  FROM judgement j JOIN texts t ON t.side = 'passage' AND t.id = j.passage WHERE NOT j.relevant GROUP BY j.query, t.text
),
irrelevant AS (SELECT *, row_number() OVER (PARTITION BY query ORDER BY place, text) AS number FROM judged),
negatives AS (
  SELECT query, list(text ORDER BY place, text) AS negatives FROM irrelevant WHERE number <= {most} GROUP BY query
)
SELECT q.text AS x, p.text AS y, coalesce(n.negatives, []) AS negatives,
  (r.place >> 40)::INTEGER AS file, r.place & 1099511627775 AS line
FROM relevant r JOIN texts q ON q.side = 'query' AND q.id = r.query JOIN texts p ON p.side = 'passage' AND p.id = r.passage
LEFT JOIN negatives n ON n.query = r.query
ORDER BY r.place, r.passage
"""
TABLES: dict[type, str] = {Example: "example", Statement: "statement", CorpusText: "text", Judgement: "judgement"}


class TableWriter:
    """Rows as they come to a Parquet file; few of them wait in memory."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        """Take one row."""
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) == WAITING_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the file's end."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = [[row[i] for row in self._waiting] for i in range(len(self.schema))]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self._waiting = []


class Quarantine:
    """What could not be read of one part, as rows of schemas.QUARANTINE."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.stage = stage
        self.table = TableWriter(folder / "quarantine.parquet", QUARANTINE)
        self.reasons: Counter[str] = Counter()
        self.first = ""  # for a message

    def add(self, file: str, line: int, bad: Bad) -> None:
        """A line that is no item; line 0 is the whole file."""
        self.reasons[bad.reason] += 1
        self.first = self.first or f"{file}, line {line}: {bad.reason}, {bad.detail}"
        self.table.add((self.stage, file, file, line or -1, "", bad.reason, bad.detail))


class Spool:
    """Every item of a set by its kind, and what they come to as pairs.

    Args:
        folder: empty; for tables in the making.
        max_negatives: judged ones of a query that are kept.
    """

    def __init__(self, folder: Path, max_negatives: int) -> None:
        self.folder = folder
        self.max_negatives = max_negatives
        self.writers = {kind: TableWriter(folder / f"{name}.parquet", SCHEMAS[kind]) for kind, name in TABLES.items()}
        self.dropped: Counter[str] = Counter()
        self.connection = duckdb.connect(config={"threads": 1, "memory_limit": MEMORY, "temp_directory": str(folder / "spill")})

    def add(self, file: int, line: int, item: Item) -> None:
        """Take an item, or count why it is left out."""
        assert not isinstance(item, Bad), item
        if isinstance(item, Dropped):
            self.dropped[item.reason] += 1
            return
        self.writers[type(item)].add((*item, file, line))
        if isinstance(item, Statement) and item.label != "entailment":
            self.dropped["neutral" if item.label == "neutral" else "negative"] += 1
        if isinstance(item, Judgement) and not item.relevant:
            self.dropped["negative"] += 1

    def close(self) -> None:
        """All items are there; they can be asked for now."""
        for kind, writer in self.writers.items():
            writer.close()
            path = str(self.folder / f"{TABLES[kind]}.parquet")
            self.connection.read_parquet(path).create_view(TABLES[kind])

    def pairs(self) -> Iterator[dict[str, Any]]:
        """x, y, negatives, file and line of every pair, in the order of the files."""
        queries = {
            Example: "SELECT * FROM example",
            Statement: STATEMENTS,
            Judgement: JUDGEMENTS.format(most=self.max_negatives),
        }
        for kind, query in queries.items():
            if self.writers[kind].rows:
                for batch in self.connection.sql(query).to_arrow_reader(WAITING_ROWS):
                    yield from batch.to_pylist()

    def passages(self) -> Iterator[dict[str, Any]]:
        """id and text of every passage, in the order of the files; of equal ids, the first."""
        query = (
            "SELECT id, arg_min(text, (file::BIGINT << 40) + line) AS text FROM text WHERE side = 'passage'"
            " GROUP BY id ORDER BY min((file::BIGINT << 40) + line)"
        )
        for batch in self.connection.sql(query).to_arrow_reader(WAITING_ROWS):
            yield from batch.to_pylist()
