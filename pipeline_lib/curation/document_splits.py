"""Stage "document_splits": the split of each whole document, for language modelling, and the reason of each that has none.

A document is in the split that curation put its pairs in. Left out, each counted, are

- `no_pair_left`: documents of which no pair is left, such as duplicates, or that never gave one;
- `shared_text`: those that hold a text which another split has too, as x or as y of a pair: a held-out text is not read in
  training, and the loss on a held-out document is not that of what was read;
- `contaminated`: those that hold an evaluation text anywhere, since a pair is judged by its own two texts alone;
- `test_split`: those of the test split, which no language model is measured on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import DOCUMENT_SPLITS, SPLITS
from pipeline_lib.config.base import StageConfig
from pipeline_lib.curation.decontaminate import EvaluationTexts
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="document_splits", version=1)
LABEL, FILE = "documents", "splits.parquet"
MEMORY_BYTES = 1024**3  # of the SQL engine, which spills to disk beyond it
BATCH_DOCUMENTS = 256

_PLACES = """
CREATE TABLE held AS SELECT DISTINCT document_id, unnest([x_hash, y_hash]) AS text FROM read_parquet($pairs);
CREATE TABLE owned AS SELECT DISTINCT split, unnest([x_hash, y_hash]) AS text FROM kept;
CREATE TABLE placed AS SELECT document_id, min(split) AS split FROM kept GROUP BY document_id;
CREATE TABLE mixed AS SELECT DISTINCT document_id
FROM placed JOIN held USING (document_id) JOIN owned USING (text) WHERE owned.split <> placed.split;
CREATE TABLE documents AS
SELECT id, coalesce(placed.split, '') AS split, CASE
    WHEN placed.split IS NULL THEN 'no_pair_left'
    WHEN placed.split = 'test' THEN 'test_split'
    WHEN mixed.document_id IS NOT NULL THEN 'shared_text'
    ELSE '' END AS dropped
FROM read_parquet($documents) AS all_documents
LEFT JOIN placed ON placed.document_id = id LEFT JOIN mixed ON mixed.document_id = id;
"""
_TEXTS = """
SELECT id, text FROM read_parquet($documents) WHERE id IN (SELECT id FROM documents WHERE dropped = '')
"""


class PlacementConfig(StageConfig):
    """No choice: all that decides is in the inputs."""


def split_whole_documents(
    store: Store,
    extracted: Artifact,
    curated: Artifact,
    contamination: Artifact | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Give each extracted document its split, or the reason why it has none; one part, a row a document, sorted by id.

    Args:
        extracted: documents, and all pairs that were made of them.
        curated: the pairs that are left, by split.
        contamination: of the stage "contamination"; documents that hold one of its texts are left out.
    """
    inputs = {"extracted": extracted, "curated": curated} | ({"contamination": contamination} if contamination else {})

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key) or _write(store, key, inputs, progress)
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, PlacementConfig(), inputs, make)


def _write(store: Store, key: str, inputs: Mapping[str, Artifact], progress: Progress) -> Part:
    scratch, spill = store.scratch(STAGE.name), store.scratch(STAGE.name)
    engine: dict[str, Any] = {"memory_limit": f"{MEMORY_BYTES}B", "threads": 2, "temp_directory": str(spill)}
    try:
        with duckdb.connect(":memory:", config=engine) as connection:
            table = _placed(connection, inputs, progress)
        pq.write_table(table, scratch / FILE, compression="zstd")
        counts = Counts(n_in=len(table), n_out=_count(table, "dropped").get("", 0), dropped=_count(table, "dropped", but=""))
        kept = table.filter(pa.compute.equal(table["dropped"], ""))
        draft = draft_part(STAGE, key, LABEL, counts, {FILE: len(table)}, {"documents": _count(kept, "split")})
        return store.commit_part(draft, scratch)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed


def _placed(connection: duckdb.DuckDBPyConnection, inputs: Mapping[str, Artifact], progress: Progress) -> pa.Table:
    """A row a document: its split and why it is left out."""
    extracted, contamination = inputs["extracted"], inputs.get("contamination")
    documents, pairs = ([str(path) for path in sorted(extracted.paths(f"{name}.parquet"))] for name in ("documents", "pairs"))
    connection.execute("CREATE TABLE kept (document_id VARCHAR, x_hash BIGINT, y_hash BIGINT, split VARCHAR)")
    for split in SPLITS:
        rows = "INSERT INTO kept SELECT document_id, x_hash, y_hash, $split FROM read_parquet($path)"
        connection.execute(rows, {"split": split, "path": str(inputs["curated"].part_folder(split) / "pairs.parquet")})
    for statement in filter(str.strip, _PLACES.split(";")):
        values = {name: paths for name, paths in (("pairs", pairs), ("documents", documents)) if f"${name}" in statement}
        connection.execute(statement, values)
    if contamination is not None:
        _drop_contaminated(connection, documents, EvaluationTexts(contamination), progress)
    table = connection.sql(
        "SELECT id, CASE dropped WHEN '' THEN split ELSE '' END AS split, dropped FROM documents ORDER BY id"
    )
    return table.to_arrow_table().cast(DOCUMENT_SPLITS)


def _drop_contaminated(
    connection: duckdb.DuckDBPyConnection, documents: list[str], texts: EvaluationTexts, progress: Progress
) -> None:
    gone: list[str] = []
    done = 0
    for batch in connection.cursor().sql(_TEXTS, params={"documents": documents}).to_arrow_reader(BATCH_DOCUMENTS):
        rows_H, _ = texts.found_in(batch["text"].to_pylist(), [""] * len(batch))
        gone += batch["id"].take(pa.array(np.unique(rows_H))).to_pylist()
        done += len(batch)
        progress(done, done, f"{done:,} documents looked through for evaluation texts")
    connection.register("gone", pa.table({"id": pa.array(gone, pa.string())}))
    connection.execute("UPDATE documents SET dropped = 'contaminated' FROM gone WHERE documents.id = gone.id")


def _count(table: pa.Table, column: str, but: str | None = None) -> dict[str, int]:
    """Rows by the values of a column, all values but one."""
    found = {row["values"]: row["counts"] for row in table[column].value_counts().to_pylist()}
    return {value: found[value] for value in sorted(found) if value != but}
