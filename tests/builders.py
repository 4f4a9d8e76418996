"""Rows of pairs, and artifacts with such rows in them, as earlier stages leave them: the one place that names every column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import PAIRS, row_id, text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store

VIEWS = {"code": "docstring", "text": "neighbour"}
LANGUAGES = {"code": "python", "text": "en"}

Row = dict[str, Any]
RowsByPart = Mapping[str, Sequence[Mapping[str, Any]]]


class Content(StageConfig):
    """Tells apart artifacts that are made of nothing but what a test gives."""

    content: str = ""


def pair_row(x: str, y: str, kind: str = "code", **changes: Any) -> Row:
    """A row of schemas.PAIRS that keeps every contract; hashes, view and language follow the texts and their kind."""
    row = {
        "id": row_id(kind, x, y),
        "kind": kind,
        "view": VIEWS[kind],
        "x": x,
        "y": y,
        "x_hash": text_hash(x),
        "y_hash": text_hash(y),
        "document_id": row_id("document"),
        "source": "package 1.0",
        "group": "package",
        "path": "package/module.py",
        "line": 1,
        "position": 0,
        "name": "f",
        "language": LANGUAGES[kind],
        "licence": None,
        "generation": 0,
    }
    assert not set(changes) - {*row, "negatives"}, f"no column of pairs: {set(changes) - set(row)}"
    return row | changes


def write_pairs(store: Store, stage: str, parts: RowsByPart, schema: pa.Schema = PAIRS, row_group_rows: int = 1024) -> Artifact:
    """An artifact as `validate` or `curate` leaves it: a part a label, its rows in pairs.parquet in the given order."""
    made = Stage(name=stage, version=1)

    def make(_: str) -> Outcome:
        found = []
        for label, rows in parts.items():
            scratch = store.scratch(stage)
            table = pa.Table.from_pylist(list(rows), schema=schema)
            pq.write_table(table, scratch / "pairs.parquet", row_group_size=row_group_rows)
            counts = Counts(n_in=len(rows), n_out=len(rows))
            draft = draft_part(made, row_id(label, str(rows)), label, counts, {"pairs.parquet": len(rows)})
            found.append(store.commit_part(draft, scratch))
        return Outcome(parts=tuple(found), counts=sum_counts(found))

    return store.build(made, Content(content=row_id(str(parts))), {}, make)


def write_artifact(
    store: Store, stage: str, labels: Sequence[str], write: Callable[[Path, str], object], config: StageConfig | None = None
) -> Artifact:
    """An artifact of one part a label, each filled by `write(folder, label)`."""
    made = Stage(name=stage, version=1)

    def make(key: str) -> Outcome:
        parts = []
        for label in labels:
            scratch = store.scratch(stage)
            write(scratch, label)
            parts.append(store.commit_part(draft_part(made, f"{key[:20]}{len(parts)}", label), scratch))
        return Outcome(parts=tuple(parts))

    return store.build(made, config or Content(), {}, make)
