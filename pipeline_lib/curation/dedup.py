"""Exact deduplication, and splits kept apart, in SQL over Parquet, free of the order of files and rows.

Only keys are held by the engine (ids, hashes, kinds: some 150 bytes a row, spilled to disk beyond the memory limit); texts
are read again when the survivors are written.

Four passes, each over the survivors of the one before, each keeping the lowest (generation, id) of what is equal:

1. `duplicate_pair`: the same x and y, of the same kind and view;
2. `duplicate_x`: the same x, of the same kind and view;
3. `duplicate_y`: the same y, of the same kind and view, that of `queries` aside;
4. `held_out_twin`: a text that another split has too, as x or as y, in any kind and view. It belongs to the row of the lowest
   generation, and within that to test before validation before train; every row of another split that holds it is dropped.

Rows that hold texts of evaluation suites go before the first pass (decontaminate.py), near-duplicates between the third and
the fourth (near_duplicates.py), both where the config asks for it.

Rows of the view `short` are for training only. Beside rows of `docstring`, whose view they then get, they are the later ones in
every pass; those of a held-out split, or with a text of one, go as `for_training`. Held-out rows are the same without them.

A row that pass 3 drops may have dropped others in pass 2: the passes are few and plain rather than the largest possible
set. A later generation never removes a row of an earlier one, since in each pass the lower generation wins, and what earlier
generations keep does not depend on later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline_lib.config.data import SHORT, CurateConfig
from pipeline_lib.config.queries import QUERIES_VIEW
from pipeline_lib.errors import ContractViolation

DROP_REASONS = (
    "contaminated",
    "duplicate_pair",
    "duplicate_x",
    "duplicate_y",
    "near_duplicate_document",
    "near_duplicate_x",
    "near_duplicate_y",
    "held_out_twin",
    "for_training",
)

_KEYS = """
CREATE TABLE keys AS
SELECT id, generation, kind, view, x_hash, y_hash, "group", document_id, ''::VARCHAR AS dropped, ''::VARCHAR AS split
FROM read_parquet(?)
"""

_DROP_REPEATED = """
UPDATE keys SET dropped = '{reason}' FROM (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY kind, {view}, {same} ORDER BY view = '{short}', generation, id) AS rank
        FROM keys WHERE dropped = '' AND {which}
    ) WHERE rank > 1
) AS repeated WHERE keys.id = repeated.id
"""

_DROP_TWINS = """
UPDATE keys SET dropped = 'held_out_twin' FROM (
    WITH ranked AS (
        SELECT id, x_hash, y_hash, split,
            generation * 3 + CASE split WHEN 'test' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END AS rank
        FROM keys WHERE dropped = ''
    ),
    texts AS (
        SELECT id, x_hash AS text, split, rank FROM ranked UNION ALL SELECT id, y_hash, split, rank FROM ranked {known}
    ),
    owners AS (SELECT text, arg_min(split, rank) AS owner FROM texts GROUP BY text HAVING count(DISTINCT split) > 1)
    SELECT DISTINCT texts.id FROM texts JOIN owners USING (text) WHERE texts.split <> owners.owner AND texts.id IS NOT NULL
) AS twins WHERE keys.id = twins.id
"""
_KNOWN_TEXTS = "UNION ALL SELECT NULL, text, split, -1 FROM known_texts"  # they were there first

# Rows for training alone: none is held out, and none costs a held-out row, whose texts they may hold
_DROP_SHORT = """
UPDATE keys SET dropped = 'for_training' WHERE dropped = '' AND view = $short AND (
    split <> 'train' OR x_hash IN (FROM held_out) OR y_hash IN (FROM held_out)
)
"""
_HELD_OUT = """
CREATE TEMP TABLE held_out AS SELECT x_hash AS text FROM keys WHERE dropped = '' AND split <> 'train'
UNION SELECT y_hash FROM keys WHERE dropped = '' AND split <> 'train'
"""


_COUNT_SHORT = f"SELECT count(*) FROM keys WHERE dropped = '' AND view = '{SHORT}'"  # noqa: S608
ONE_A_TEXT = f"view <> '{QUERIES_VIEW}'"
_AS_OTHERS = f"CASE view WHEN '{SHORT}' THEN 'docstring' ELSE view END"


class Curation:
    """A temporary SQL table with a row a pair: its keys, its split, and why it was dropped, if it was.

    Args:
        paths: Parquet files of schemas.PAIRS, in any order.
        config: memory and threads of the engine.
        scratch: folder for what does not fit into memory.
    """

    def __init__(self, paths: Sequence[Path], config: CurateConfig, scratch: Path) -> None:
        self.scratch = scratch
        self.knows = False  # the splits of an earlier growth: see known_splits.py
        self.paths = [str(path) for path in sorted(paths)]
        self.connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{config.memory_bytes}B",
                "threads": config.threads,
                "temp_directory": str(scratch),
            },
        )
        self.connection.execute(_KEYS, [self.paths])

    def __enter__(self) -> Curation:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def check_ids(self) -> None:
        """Assert that no id occurs twice in the whole set, which no part alone can see.

        Raises:
            ContractViolation: with how many do, and one of them.
        """
        repeated, example = self._row("SELECT count(*), min(id) FROM (SELECT id FROM keys GROUP BY id HAVING count(*) > 1)")
        if repeated:
            raise ContractViolation(
                f"curate: {repeated:,} pair ids occur more than once over the parts, e.g. {example}; an id is a function of "
                "source, path and place, so that the same source was listed twice or two places share an id"
            )

    def drop_ids(self, ids: pa.ChunkedArray, reason: str) -> None:
        """Drop the rows of these ids for a reason of `DROP_REASONS`."""
        assert reason in DROP_REASONS, f"curate: {reason!r} is no drop reason"
        self.connection.register("gone", pa.table({"id": ids}))
        self.connection.execute("UPDATE keys SET dropped = $reason FROM gone WHERE keys.id = gone.id", {"reason": reason})
        self.connection.unregister("gone")

    def drop_repeated(self) -> None:
        """Passes 1 to 3: of equal pairs, x and y of one kind and view, keep the lowest (generation, id)."""
        for reason, same in (("duplicate_pair", "x_hash, y_hash"), ("duplicate_x", "x_hash"), ("duplicate_y", "y_hash")):
            # a document may have any number of queries
            which = ONE_A_TEXT if reason == "duplicate_y" else "true"
            self.connection.execute(_DROP_REPEATED.format(reason=reason, same=same, view=_AS_OTHERS, short=SHORT, which=which))

    def survivors_by(self, unit: str, short: bool = False) -> dict[str, frozenset[str]]:
        """The units ("group" or "document_id") that rows survive in, each with the kinds of its rows.

        Args:
            short: of rows that are for training alone, in place of all others.
        """
        which = f"dropped = '' AND (view = '{SHORT}') = {short}"
        query = f'SELECT "{unit}", list(DISTINCT kind) FROM keys WHERE {which} GROUP BY 1'  # noqa: S608
        return {name: frozenset(kinds) for name, kinds in self.connection.execute(query).fetchall()}

    def sources_by(self, unit: str) -> dict[str, frozenset[str]]:
        """The units that rows survive in, each with the sources of its rows."""
        query = f"""
            SELECT keys."{unit}", list(DISTINCT pairs.source) FROM keys JOIN read_parquet(?) AS pairs ON pairs.id = keys.id
            WHERE dropped = '' GROUP BY 1
        """  # noqa: S608
        return {name: frozenset(sources) for name, sources in self.connection.execute(query, [self.paths]).fetchall()}

    def groups_of_documents(self) -> dict[str, str]:
        """The group of each document that rows survive in."""
        query = "SELECT DISTINCT document_id, \"group\" FROM keys WHERE dropped = ''"
        return dict(self.connection.execute(query).fetchall())

    def splits_by(self, column: str) -> dict[str, frozenset[str]]:
        """The values of a column of the pairs in surviving rows, each with the splits that it is in, sorted."""
        query = f"""
            SELECT pairs."{column}", list(DISTINCT split) FROM keys JOIN read_parquet(?) AS pairs ON pairs.id = keys.id
            WHERE dropped = '' GROUP BY 1 ORDER BY 1
        """  # noqa: S608
        return {name: frozenset(splits) for name, splits in self.connection.execute(query, [self.paths]).fetchall()}

    def assign(self, unit: str, splits: Mapping[str, str]) -> None:
        """Give every surviving row the split of its unit."""
        table = pa.table({"unit": pa.array(list(splits), pa.string()), "name": pa.array(splits.values(), pa.string())})
        self.connection.register("assigned", table)
        self.connection.execute(
            f'UPDATE keys SET split = assigned.name FROM assigned WHERE keys."{unit}" = assigned.unit'  # noqa: S608
        )
        self.connection.unregister("assigned")

    def drop_twins(self) -> None:
        """Pass 4: leave every text to one split, the one that had it first."""
        if self._row(_COUNT_SHORT)[0]:
            self.connection.execute(_HELD_OUT)
            self.connection.execute(_DROP_SHORT, {"short": SHORT})
        self.connection.execute(_DROP_TWINS.format(known=_KNOWN_TEXTS if self.knows else ""))

    def rows(self) -> int:
        """Rows in all, dropped ones included."""
        return int(self._row("SELECT count(*) FROM keys")[0])

    def dropped(self) -> dict[str, int]:
        """Dropped rows by reason."""
        query = "SELECT dropped, count(*) FROM keys WHERE dropped <> '' GROUP BY dropped"
        counts = dict(self.connection.execute(query).fetchall())
        return {reason: counts[reason] for reason in DROP_REASONS if reason in counts}

    def sizes(self) -> dict[str, dict[str, dict[str, int]]]:
        """Rows, groups and documents that survive: split -> kind -> figure -> count."""
        query = """
            SELECT split, kind, count(*), count(DISTINCT "group"), count(DISTINCT document_id)
            FROM keys WHERE dropped = '' GROUP BY split, kind ORDER BY split, kind
        """
        sizes: dict[str, dict[str, dict[str, int]]] = {}
        for split, kind, rows, groups, documents in self.connection.execute(query).fetchall():
            sizes.setdefault(split, {})[kind] = {"rows": rows, "groups": groups, "documents": documents}
        return sizes

    def leaks(self, unit: str) -> dict[str, int]:
        """How many units, and how many texts (as x or y, of any kind and view), more than one split holds: 0 and 0."""
        units = f"SELECT \"{unit}\" AS what, split FROM keys WHERE dropped = ''"  # noqa: S608
        texts = (
            "SELECT x_hash AS what, split FROM keys WHERE dropped = '' "
            "UNION ALL SELECT y_hash, split FROM keys WHERE dropped = ''"
        )
        count = "SELECT count(*) FROM (SELECT what FROM ({}) GROUP BY what HAVING count(DISTINCT split) > 1)"
        return {"units": int(self._row(count.format(units))[0]), "texts": int(self._row(count.format(texts))[0])}

    def pairs(self, split: str, batch_rows: int) -> Any:
        """The surviving rows of a split with all their columns, sorted by id, as an Arrow record batch reader."""
        return self.connection.sql(
            """
            SELECT pairs.* REPLACE (CASE pairs.view WHEN $short THEN 'docstring' ELSE pairs.view END AS view)
            FROM read_parquet($paths) AS pairs JOIN keys ON pairs.id = keys.id
            WHERE keys.dropped = '' AND keys.split = $split ORDER BY pairs.id
            """,
            params={"paths": self.paths, "split": split, "short": SHORT},
        ).to_arrow_reader(batch_rows)

    def _row(self, query: str) -> tuple[Any, ...]:
        # fetchone would leave the result unfinished, and the connection busy for the next statement
        (row,) = self.connection.execute(query).fetchall()
        return row
