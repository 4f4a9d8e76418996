"""Rows that broke a contract, as rows of schemas.QUARANTINE."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.facts import repair_unicode
from data_contracts.runner import Verdict
from data_contracts.schemas import QUARANTINE


def quarantine_rows(verdict: Verdict, stage: str, table: pa.Table, id_column: str, offset: int = 0) -> pa.Table:
    """What the verdict flagged: one row a bad row, its reasons joined by commas.

    Args:
        verdict: on `table`.
        stage: said in the first column, e.g. "validate:pairs".
        table: the rows themselves; `source` and `path` are taken where it has them.
        id_column: what names a row.
        offset: of the table's first row in its file or part.
    """
    rows = list(verdict.flagged)
    names = [name for name in ("source", "path", id_column) if name in table.column_names]
    picked, _ = repair_unicode(table.select(names).take(pa.array(rows, pa.int64())))
    blank = [""] * len(rows)
    columns = {
        "stage": [stage] * len(rows),
        "source": picked["source"].to_pylist() if "source" in names else blank,
        "path": picked["path"].to_pylist() if "path" in names else blank,
        "offset": [row + offset for row in rows],
        "record_id": picked[id_column].to_pylist(),
        "reason": [",".join(verdict.flagged[row]) for row in rows],
        "detail": [verdict.details[row] for row in rows],
    }
    return pa.table(columns, schema=QUARANTINE)


def write_quarantine(folder: Path, rows: list[pa.Table]) -> int:
    """Write `quarantine.parquet` into the folder; returns its rows."""
    table = pa.concat_tables([QUARANTINE.empty_table(), *rows]).combine_chunks()
    pq.write_table(table, folder / "quarantine.parquet", compression="zstd")
    return table.num_rows
