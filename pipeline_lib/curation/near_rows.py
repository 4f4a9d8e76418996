"""The near-duplicate passes of curation: which rows the near-duplicates among documents, x and y take with them.

Each pass goes over the survivors of the one before. Of x and of y only those of one kind and view are compared, as in exact
deduplication. A document is what its pairs hold, of one generation, dropped as duplicates or not; it is compared while any
of its rows survives, and where it goes all of its rows go.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from pipeline_lib.curate_config import NearDuplicatesConfig
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.curation.near_duplicates import Text, find_near_duplicates

BATCH_ROWS = 1_000  # texts that the engine hands over at a time

_RANKED_ROWS = """
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT id, row_number() OVER (ORDER BY generation, id) - 1 AS rank, dense_rank() OVER (ORDER BY kind, view) AS scope
FROM keys WHERE dropped = ''
"""

_ROW_TEXTS = "SELECT rank, scope, {side} FROM read_parquet($paths) AS pairs JOIN ranked USING (id)"

_RANKED_DOCUMENTS = """
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT document_id, generation, row_number() OVER (ORDER BY generation, document_id) - 1 AS rank
FROM keys WHERE dropped = '' GROUP BY document_id, generation
"""

# in the order of rank, so that the rows of one document follow each other
_DOCUMENT_TEXTS = """
SELECT rank, 0 AS scope, x || chr(10) || y AS text
FROM read_parquet($paths) AS pairs
JOIN (SELECT id, document_id, generation FROM keys WHERE dropped <> 'contaminated') AS clean USING (id)
JOIN ranked ON ranked.document_id = clean.document_id AND ranked.generation = clean.generation
ORDER BY rank, pairs.position, pairs.id
"""

_DROP_ROWS = """
UPDATE keys SET dropped = $reason FROM ranked JOIN gone USING (rank) WHERE keys.id = ranked.id
"""

_DROP_DOCUMENTS = """
UPDATE keys SET dropped = $reason FROM ranked JOIN gone USING (rank)
WHERE keys.document_id = ranked.document_id AND keys.generation = ranked.generation AND keys.dropped = ''
"""


def drop_near_duplicates(curation: Curation, config: NearDuplicatesConfig) -> None:
    """Mark the rows to drop as `near_duplicate_document`, `near_duplicate_x` and `near_duplicate_y`.

    Args:
        curation: the table of keys, exact duplicates dropped.

    Raises:
        UserError: `rensa` is not installed.
    """
    for side in config.sides:
        with tempfile.TemporaryDirectory(dir=curation.scratch) as folder:
            _drop_side(curation, side, config, Path(folder))


def _drop_side(curation: Curation, side: str, config: NearDuplicatesConfig, scratch: Path) -> None:
    connection = curation.connection
    of_documents = side == "document"
    connection.execute(_RANKED_DOCUMENTS if of_documents else _RANKED_ROWS)
    (n,) = connection.execute("SELECT count(*) FROM ranked").fetchall()[0]
    query = _DOCUMENT_TEXTS if of_documents else _ROW_TEXTS.format(side=side)
    gone = find_near_duplicates(_texts(curation, query), n, config, connection, scratch)
    connection.register("gone", pa.table({"rank": gone}))
    connection.execute(_DROP_DOCUMENTS if of_documents else _DROP_ROWS, {"reason": f"near_duplicate_{side}"})
    connection.unregister("gone")
    connection.execute("DROP TABLE ranked")


def _texts(curation: Curation, query: str) -> Iterator[Text]:
    """One text a rank: rows that follow each other and have the same rank are one."""
    reader = curation.connection.sql(query, params={"paths": curation.paths}).to_arrow_reader(BATCH_ROWS)
    rows = (row for batch in reader for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    for (rank, scope), found in groupby(rows, key=lambda row: row[:2]):
        yield Text(rank, scope, "\n".join(row[2] for row in found))
