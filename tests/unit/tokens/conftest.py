"""Curated pairs, as the stages of this room read them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.schemas import PAIRS, row_id, text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

VIEWS = {"code": "docstring", "text": "neighbour"}


def make_pair(kind: str, number: int, x: str, y: str) -> dict[str, object]:
    row = dict.fromkeys(PAIRS.names, "") | {"line": 1, "position": 0, "generation": 0, "licence": None}
    hashes = {"x_hash": text_hash(x), "y_hash": text_hash(y), "document_id": f"document {number // 3}"}
    return row | hashes | {"id": row_id(kind, str(number)), "kind": kind, "view": VIEWS[kind], "x": x, "y": y}


def make_curated(store: Store, rows: dict[str, list[dict[str, object]]]) -> Artifact:
    stage, config = Stage(name="curate", version=1), StageConfig()

    def make(key: str) -> Outcome:
        parts = []
        for split, of_split in rows.items():
            scratch = store.scratch("curate")
            ordered = sorted(of_split, key=lambda row: str(row["id"]))
            pq.write_table(pa.Table.from_pylist(ordered, schema=PAIRS), scratch / "pairs.parquet", row_group_size=64)
            counts = Counts(n_in=len(ordered), n_out=len(ordered))
            parts.append(store.commit_part(draft_part(stage, key + split, split, counts=counts), scratch))
        return Outcome(parts=tuple(parts))

    return store.build(stage, config, {}, make)


@pytest.fixture(scope="session")
def a_pair() -> Callable[..., dict[str, object]]:
    """(kind, number, x, y) to a row of PAIRS."""
    return make_pair


@pytest.fixture(scope="session")
def curated_of() -> Callable[..., Artifact]:
    """(store, rows of each split) to a curated artifact, its parts sorted by id."""
    return make_curated
