"""Stage "queries": pairs of the view `queries`, from a file of queries that people or a model wrote for this dump's texts.

A row is a query and the document that answers it (JSON Lines, JSON, CSV or Parquet, by the readers of dumps):

    {"query": "how do I parse a date", "document": "..."}

`document` is one of, the first that is known: the id of a pair, whose y is meant; the hash of a y (`y_hash`, as a whole
number); `PATH::NAME` of a function or passage, its whole name or the end of it (`pkg/mod.py::Class.method` for
pkg.mod.Class.method); the id of a document; its path; `SOURCE/PATH`. A document that is named as a whole is the y itself, if
it is no longer than `max_document_bytes`.

What comes out is an artifact like extraction's, with one part more: its pairs go through the same contract, decontamination,
deduplication and split, which is that of their document. A row that gives no pair goes to quarantine (bad_queries.parquet),
with its line, what was got, what was expected and what to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.schemas import DOCUMENTS, PAIRS, QUARANTINE, row_id, text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.queries import QUERIES_VIEW, QueriesConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.pairs.filters import has_control_bytes
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.sources.readers import guess, options_of, reader_of
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import LINE_MARK, SourceFile
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store

STAGE = Stage(name="queries", version=2)
BAD_FILE = "bad_queries.parquet"
FORMS = ("json_lines", "csv", "parquet")
BATCH_ROWS = 1_000
MEMORY = "1GB"
ROWS = pa.schema([("number", pa.int64()), ("query", pa.large_string()), ("ref", pa.string())])
ADVICE = {
    "no_document": "name the document in every row, or say which column does by queries.document",
    "blank_query": "leave the row out",
    "query_too_long": "shorten it, or raise queries.max_query_words",
    "query_not_text": "take them out, or leave the row out",
    "unknown_document": "write a pair's id, a y_hash, PATH::NAME, or a document's id or path of this very dump",
    "ambiguous_document": "name it by a pair's id, a y_hash or a document's id",
    "document_too_large": "name one of its functions or passages, or raise queries.max_document_bytes",
    "repeated_row": "leave it out: a pair counts once",
    "query_is_document": "leave it out: a pair of equals teaches nothing",
    "query_holds_document": "leave it out: who searches does not have the answer yet",
}
WORDS_OF_AN_ANSWER = 5  # a shorter document, such as a title, may well stand in a query

# every text that a row can mean, by each of its names; of one hash the pair of the lowest id stands for all
_TARGETS = """
CREATE TEMP TABLE targets AS
WITH wanted AS (SELECT DISTINCT ref FROM read_parquet($rows)),
passages AS (SELECT * FROM read_parquet($pairs)),
places AS (
    SELECT ref, array_to_string(parts[1:cut], '::') AS path, array_to_string(parts[cut + 1:], '::') AS tail
    FROM (SELECT ref, string_split(ref, '::') AS parts FROM wanted), unnest(range(1, len(parts))) AS cuts(cut)
),
named AS (
    SELECT id AS ref, 1 AS rank, y_hash::VARCHAR AS what, id AS pair, NULL AS document FROM passages UNION ALL
    SELECT y_hash::VARCHAR, 2, y_hash::VARCHAR, id, NULL FROM passages UNION ALL
    SELECT path || '::' || name, 3, y_hash::VARCHAR, id, NULL FROM passages UNION ALL
    SELECT ref, 4, y_hash::VARCHAR, id, NULL FROM passages JOIN places USING (path)
    WHERE tail != '' AND ends_with(name, tail)
        AND substr(name, length(name) - length(tail), 1) IN ('.', ':', '#', '/') UNION ALL
    SELECT id, 5, id, NULL, id FROM read_parquet($documents) UNION ALL
    SELECT path, 6, id, NULL, id FROM read_parquet($documents) UNION ALL
    SELECT source || '/' || path, 7, id, NULL, id FROM read_parquet($documents)
),
found AS (SELECT * FROM named SEMI JOIN wanted USING (ref)),
best AS (SELECT ref, min(rank) AS rank FROM found GROUP BY ref)
SELECT ref, count(DISTINCT what) AS n, min(what) AS what, min(pair) AS pair, min(document) AS document
FROM found JOIN best USING (ref, rank) GROUP BY ref
"""
_RESOLVED = """
SELECT rows.number, rows.query, rows.ref, coalesce(targets.n, 0) AS n, targets.what,
    row_number() OVER (PARTITION BY rows.query, targets.what ORDER BY rows.number) AS copy,
    coalesce(pairs.kind, documents.kind) AS kind, coalesce(pairs.y, documents.text) AS y,
    targets.document IS NOT NULL AS is_whole,
    coalesce(pairs.document_id, documents.id) AS document_id, coalesce(pairs.source, documents.source) AS source,
    coalesce(pairs."group", documents."group") AS "group", coalesce(pairs.path, documents.path) AS path,
    coalesce(pairs.line, 1) AS line, coalesce(pairs.name, documents.path) AS name,
    coalesce(pairs.language, documents.language) AS language, coalesce(pairs.licence, documents.licence) AS licence
FROM read_parquet($rows) AS rows LEFT JOIN targets USING (ref)
LEFT JOIN read_parquet($pairs) AS pairs ON pairs.id = targets.pair
LEFT JOIN read_parquet($documents) AS documents ON documents.id = targets.document
ORDER BY rows.number
"""


class QueriesWork(StageConfig):
    """Names the artifact beside the dump's: the rules, the file by its content, and the growth that the pairs belong to."""

    rules: QueriesConfig
    sha256: str
    generation: int


def add_queries(
    store: Store, extracted: Artifact, config: QueriesConfig, generation: int = 0, progress: Progress = silent
) -> Artifact:
    """The dump's parts, and behind them the part "queries" of a file's pairs.

    Facts: those of the dump, and `queries`: rows, pairs, and bad rows by reason.

    Args:
        store: where the part goes.
        extracted: of the stage "extract": the texts that rows name.
        config: the file, and its rules.
        generation: growth of the data set that the pairs belong to.
        progress: counts rows.

    Raises:
        UserError: there is no such file, nothing reads it, or not one row gives a pair.
    """
    assert config.file is not None, "no file of queries is named"
    file = source_file(config)
    work = QueriesWork(rules=config, sha256=file.sha256, generation=generation)

    def make(key: str) -> Outcome:
        scratch, rows = store.scratch(STAGE.name), store.scratch(STAGE.name)
        try:
            made = _Made(scratch, file, config, generation)
            n_in = made.read(rows / "rows.parquet", progress)
            made.resolve(rows, extracted)
            made.close(extracted)
            if not made.pairs:
                why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(made.reasons.items())) or "it holds no row"
                raise UserError(f"{file.place}: not one of {n_in:,} rows gives a pair: {why}; {made.first}")
            counts = Counts(n_in=n_in, n_out=made.pairs, quarantined=n_in - made.pairs)
            told = {"rows": n_in, "pairs": made.pairs, "bad": dict(sorted(made.reasons.items()))}
            draft = draft_part(STAGE, key, STAGE.name, counts, made.files, {"queries": told})
            part = store.commit_part(draft, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(rows, ignore_errors=True)
        parts = (*extracted.manifest.parts, part)
        return Outcome(parts=parts, counts=sum_counts(parts), facts={**extracted.manifest.facts, "queries": told})

    return store.build(STAGE, work, {"extracted": extracted}, make)


def source_file(config: QueriesConfig) -> SourceFile:
    """The file of queries as the readers of dumps take it.

    Raises:
        UserError: there is none, or its first bytes and its name say that it is no table and no JSON.
    """
    path = Path(str(config.file)).expanduser().resolve()
    if not path.is_file():
        raise UserError(
            f"queries.file {config.file}: no such file; expected JSON Lines, CSV or Parquet of queries and documents"
        )
    form = guess(str(path))
    if form not in FORMS:
        raise UserError(f"{path}: {form or 'no table'}, expected JSON Lines, CSV or Parquet; the file's ending may say so")
    # the query is its own title: a column of that name is about something else
    options = {"text": config.query, "title": config.query, "name": config.document, "layout": "plain"}
    return SourceFile(
        place=str(path), path=path.name, source=QUERIES_VIEW, group="", licence=None, form=form, bytes=path.stat().st_size,
        sha256=sha256_file(path), options=options_of(form, options),
    )  # fmt: skip


class _Made:
    """The tables of the part in the making."""

    def __init__(self, folder: Path, file: SourceFile, config: QueriesConfig, generation: int) -> None:
        self.folder, self.file, self.config, self.generation = folder, file, config, generation
        self.writers = {
            name: pq.ParquetWriter(folder / name, schema, compression="zstd")
            for name, schema in (("pairs.parquet", PAIRS), (BAD_FILE, QUARANTINE))
        }
        self.pairs, self.reasons, self.first, self.files = 0, dict[str, int](), "", dict[str, int]()
        self.documents: set[str] = set()  # ids, 90 bytes each

    def read(self, path: Path, progress: Progress) -> int:
        """Write the rows that have a query and a document to a file, all others to quarantine; returns how many there are."""
        n, waiting = 0, list[tuple[int, str, str]]()
        reader = reader_of(self.file.form)
        assert reader is not None, "one of FORMS"
        with pq.ParquetWriter(path, ROWS) as writer:
            for n, record in enumerate(reader.read(self.file, ReadLimits()), 1):
                row = self._row(n, record)
                waiting += [row] if row else []
                if len(waiting) == BATCH_ROWS:
                    writer.write_batch(_batch(waiting, ROWS))
                    waiting.clear()
                    progress(n, n + 1, f"{n:,} rows of queries")
            writer.write_batch(_batch(waiting, ROWS))
        return n

    def _row(self, number: int, record: SourceRecord) -> tuple[int, str, str] | None:
        if isinstance(record.content, Refusal):
            offset, reason, detail = record.content.offset, record.content.reason, record.content.detail
            if reason == "no_text_column":  # the reader names an option of its own
                detail = detail.partition(": name one")[0]
                self.refuse(offset, "", reason, f"{detail}; say which one holds the query by queries.query")
            else:
                self.refuse(offset, "", reason, f"{detail}; mend the row, or leave it out")
            return None
        assert isinstance(record.content, SourceText), "rows of a file, which skip none"
        at = int(record.file.path.rpartition(LINE_MARK)[2] or number)
        query, ref = " ".join(record.content.text.split()), record.file.group
        words = len(query.split())
        if not words:
            self.bad(at, ref, "blank_query", f"got {record.content.text[:20]!r}, expected at least 1 word")
        elif words > self.config.max_query_words:
            self.bad(at, ref, "query_too_long", f"got {words} words, expected at most {self.config.max_query_words}")
        elif has_control_bytes(query):
            self.bad(at, ref, "query_not_text", f"got {ascii(query)[:80]}, expected a text without control characters")
        elif ref == f"{self.file.path}{LINE_MARK}{at}":  # what a record without a name is called
            field = self.config.document
            self.bad(at, "", "no_document", f"got no text and no whole number in the field {field!r}, expected a document")
        else:
            return at, query, ref
        return None

    def resolve(self, rows: Path, extracted: Artifact) -> None:
        """Find the text that each row means, and write its pair."""
        given = {name: [str(path) for path in extracted.paths(f"{name}.parquet")] for name in ("pairs", "documents")}
        given["rows"] = [str(rows / "rows.parquet")]
        limits: dict[str, Any] = {"threads": 2, "memory_limit": MEMORY, "temp_directory": str(rows / "spilled")}
        with duckdb.connect(":memory:", config=limits) as connection:
            connection.execute(_TARGETS, given)
            found = connection.sql(_RESOLVED, params=given).to_arrow_reader(BATCH_ROWS)
            for batch in found:
                pairs = [pair for row in batch.to_pylist() if (pair := self._pair(row)) is not None]
                self.pairs += len(pairs)
                self.writers["pairs.parquet"].write_table(pa.Table.from_pylist(pairs, schema=PAIRS))

    def _pair(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The pair of a row; None where it is none, which is set aside."""
        number, ref, y = row["number"], row["ref"], row["y"]
        size = len(y.encode("utf-8", "replace")) if y else 0
        asked, answer = row["query"].casefold(), " ".join((y or "").split()).casefold()
        if not row["n"]:
            self.bad(number, ref, "unknown_document", f"got {ascii(ref)[:120]}, expected one of this dump's texts")
        elif row["n"] > 1:
            self.bad(
                number, ref, "ambiguous_document", f"got {ascii(ref)[:120]}, which {row['n']} texts are called; expected 1"
            )
        elif row["copy"] > 1:
            self.bad(
                number, ref, "repeated_row", f"got the query {ascii(row['query'])[:80]} for it once more, expected it once"
            )
        elif row["is_whole"] and size > self.config.max_document_bytes:
            most = self.config.max_document_bytes
            self.bad(number, ref, "document_too_large", f"got a whole document of {size:,} bytes, expected at most {most:,}")
        elif answer == asked:
            self.bad(number, ref, "query_is_document", f"got {ascii(y)[:80]} as query and document, expected two texts")
        elif answer in asked and len(answer.split()) >= WORDS_OF_AN_ANSWER:
            self.bad(number, ref, "query_holds_document", f"got {ascii(row['query'])[:80]}, expected one without the document")
        else:
            self.documents.add(row["document_id"])
            x_hash, y_hash = text_hash(row["query"]), text_hash(y)
            place = f"{row['line']}:{number}"
            key = row_id(row["document_id"], row["kind"], QUERIES_VIEW, place, str(x_hash), str(y_hash))
            kept = {name: row[name] for name in PAIRS.names if name in row}
            own = {"id": key, "view": QUERIES_VIEW, "x": row["query"], "y": y, "x_hash": x_hash, "y_hash": y_hash}
            return {**kept, **own, "position": number, "generation": self.generation}
        return None

    def bad(self, number: int, ref: str, reason: str, detail: str) -> None:
        """Set a row aside for a reason of ours."""
        self.refuse(number, ref, reason, f"{detail}; {ADVICE[reason]}")

    def refuse(self, number: int, ref: str, reason: str, detail: str) -> None:
        """Set a row aside."""
        self.first = self.first or f"the first, line {number}: {reason}: {detail}"
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        row = (STAGE.name, QUERIES_VIEW, self.file.path, number, ref, reason, detail)
        self.writers[BAD_FILE].write_batch(_batch([row], QUARANTINE))

    def close(self, extracted: Artifact) -> None:
        """Complete the tables: the documents that pairs belong to stand beside them, for a contract looks at both."""
        for writer in self.writers.values():
            writer.close()
        n_documents = 0
        with pq.ParquetWriter(self.folder / "documents.parquet", DOCUMENTS, compression="zstd") as writer:
            for batch in self._own_documents(extracted):
                writer.write_table(pa.Table.from_batches([batch]).cast(DOCUMENTS))
                n_documents += len(batch)
        pq.write_table(QUARANTINE.empty_table(), self.folder / "quarantine.parquet")  # of files that were not read
        bad = sum(self.reasons.values())
        self.files = {"pairs.parquet": self.pairs, BAD_FILE: bad, "documents.parquet": n_documents, "quarantine.parquet": 0}

    def _own_documents(self, extracted: Artifact) -> Iterator[pa.RecordBatch]:
        wanted = pa.array(sorted(self.documents), pa.string())
        for path in extracted.paths("documents.parquet"):
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, use_threads=False):
                kept = batch.filter(pc.is_in(batch["id"], value_set=wanted))
                if len(kept):
                    yield kept


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)
