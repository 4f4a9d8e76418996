"""Stage "known_splits": the split of each document and text that a growing dataset has held so far, for the next growth.

A hash of names keeps what is named alike where it is, but a small set is split by rank, files are renamed, and a text that
goes may come back elsewhere. What is known decides before all of that:

- a known document, and a group that has one, stays in its split; a new one that holds known texts goes where most of them are;
- a text belongs to the split that had it first: rows of other splits that hold it are dropped, as `held_out_twin`, those of
  known documents before they could be what others are duplicates of;
- rows of known documents that hold known texts come before all others in deduplication, so that no new row removes them.

    documents.parquet  document_id, split
    texts.parquet      text (the hash of an x or y), split
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import duckdb

from data_contracts.schemas import SPLITS
from pipeline_lib.config.base import StageConfig
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.curation.split import Split
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="known_splits", version=1)
DOCUMENTS, TEXTS = "documents.parquet", "texts.parquet"
MEMORY_BYTES = 1024**3  # of the SQL engine, which spills to disk beyond it

_GATHER = {
    DOCUMENTS: ("document_id", "SELECT DISTINCT document_id, {split} AS split FROM read_parquet({path})"),
    TEXTS: ("text", "SELECT DISTINCT unnest([x_hash, y_hash]) AS text, {split} AS split FROM read_parquet({path})"),
}
# The split that was there first stays; of one generation each document and text is in one split alone.
_WRITE = """
COPY (
    SELECT {what}, arg_min(split, night) AS split FROM (SELECT *, 1 AS night FROM ({now}) {before}) GROUP BY 1 ORDER BY 1
) TO {to} (FORMAT parquet, COMPRESSION zstd)
"""
_BEFORE = "UNION ALL SELECT *, 0 FROM read_parquet({path})"

_KNOW = """
CREATE TEMP TABLE known_texts AS SELECT text, split FROM read_parquet($texts);
CREATE TEMP TABLE known_documents AS SELECT document_id, split FROM read_parquet($documents);
CREATE TEMP TABLE own AS
SELECT id, bool_and(known_texts.split IS NOT DISTINCT FROM known_documents.split) AS known,
    bool_or(known_texts.split <> known_documents.split) AS strange
FROM (SELECT id, document_id, unnest([x_hash, y_hash]) AS text FROM keys)
JOIN known_documents USING (document_id) LEFT JOIN known_texts USING (text) GROUP BY id;
UPDATE keys SET generation = generation + 1 WHERE id NOT IN (SELECT id FROM own WHERE known);
UPDATE keys SET dropped = 'held_out_twin' WHERE id IN (SELECT id FROM own WHERE strange);
DROP TABLE own;
"""
_OF_DOCUMENTS = """
SELECT "{unit}", min(known_documents.split) FROM keys JOIN known_documents USING (document_id) WHERE dropped = '' GROUP BY 1
"""
# of equally many texts the held-out split comes first, in the order of their names: test, then train, then validation
_OF_TEXTS = """
SELECT unit, arg_min(split, (-n, split)) FROM (
    SELECT unit, split, count(*) AS n FROM (
        SELECT "{unit}" AS unit, unnest([x_hash, y_hash]) AS text FROM keys WHERE dropped = ''
    ) JOIN known_texts USING (text) GROUP BY ALL
) GROUP BY 1
"""


class LedgerConfig(StageConfig):
    """No choice: all that decides is in the inputs."""


def note_splits(store: Store, curated: Artifact, before: Artifact | None = None) -> Artifact:
    """The ledger of a dataset's splits, with those of the ledger before it.

    Args:
        curated: of the stage "curate".
        before: the ledger that `curated` was split by; None: it was split for the first time.
    """
    inputs = {"curated": curated} | ({"before": before} if before else {})

    def make(key: str) -> Outcome:
        scratch, spill = store.scratch(STAGE.name), store.scratch(STAGE.name)
        engine: dict[str, Any] = {"memory_limit": f"{MEMORY_BYTES}B", "threads": 2, "temp_directory": str(spill)}
        try:
            with duckdb.connect(":memory:", config=engine) as connection:
                rows = {name: _write(connection, scratch / name, curated, before) for name in _GATHER}
            counts = Counts(n_in=rows[TEXTS], n_out=rows[TEXTS])
            facts = {"unit": curated.manifest.facts["split_unit"], "documents": rows[DOCUMENTS], "texts": rows[TEXTS]}
            part = store.commit_part(draft_part(STAGE, key, "ledger", counts, rows, facts), scratch)
        finally:
            shutil.rmtree(spill, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, LedgerConfig(), inputs, make)


def know(curation: Curation, ledger: Artifact) -> None:
    """Let a curation know the splits so far: known rows become the earlier generation of all that comes."""
    values = {name.removesuffix(".parquet"): str(ledger.part_folder() / name) for name in (DOCUMENTS, TEXTS)}
    for statement in filter(str.strip, _KNOW.split(";")):
        curation.connection.execute(statement, {name: path for name, path in values.items() if f"${name}" in statement})
    curation.knows = True


def known_units(curation: Curation, unit: str) -> dict[str, Split]:
    """The split of each unit ("group" or "document_id") that has a known document or, where none is, known texts."""
    found: dict[str, str] = {}
    for query in (_OF_TEXTS, _OF_DOCUMENTS):  # documents win
        found |= dict(curation.connection.execute(query.format(unit=unit)).fetchall())
    return cast(dict[str, Split], found)


def new_share(curated: Artifact, before: Artifact | None) -> float:
    """The share of training pairs whose texts were no pair of an earlier dataset's training split.

    Args:
        before: of the stage "curate"; None: there was none.
    """
    if before is None:
        return 1.0
    now, then = (str(artifact.part_folder("train") / "pairs.parquet") for artifact in (curated, before))
    query = """
        SELECT count(*), count(*) FILTER (old.x_hash IS NULL) FROM read_parquet($now) AS now
        LEFT JOIN (SELECT DISTINCT x_hash, y_hash FROM read_parquet($then)) AS old USING (x_hash, y_hash)
    """
    with duckdb.connect(":memory:", config={"memory_limit": f"{MEMORY_BYTES}B", "threads": 2}) as connection:
        ((n, new),) = connection.execute(query, {"now": now, "then": then}).fetchall()
    return new / n if n else 0.0


def _write(connection: duckdb.DuckDBPyConnection, to: Path, curated: Artifact, before: Artifact | None) -> int:
    """One table of the ledger; returns its rows."""
    what, gather = _GATHER[to.name]
    paths = {split: curated.part_folder(split) / "pairs.parquet" for split in SPLITS}
    now = " UNION ALL ".join(gather.format(split=_text(split), path=_text(str(path))) for split, path in paths.items())
    earlier = _BEFORE.format(path=_text(str(before.part_folder() / to.name))) if before else ""
    ((rows,),) = connection.execute(_WRITE.format(what=what, now=now, before=earlier, to=_text(str(to)))).fetchall()
    return int(rows)


def _text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
