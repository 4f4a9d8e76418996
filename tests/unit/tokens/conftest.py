"""Curated pairs, as the stages of this room read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from builders import pair_row, write_pairs

from data_contracts.schemas import row_id
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store


def make_pair(kind: str, number: int, x: str, y: str) -> dict[str, object]:
    names = dict.fromkeys(("source", "group", "path", "name", "language"), "")
    return pair_row(x, y, kind, id=row_id(kind, str(number)), document_id=f"document {number // 3}", **names)


def make_curated(store: Store, rows: dict[str, list[dict[str, object]]]) -> Artifact:
    ordered = {split: sorted(of_split, key=lambda row: str(row["id"])) for split, of_split in rows.items()}
    return write_pairs(store, "curate", ordered, row_group_rows=64)


@pytest.fixture(scope="session")
def a_pair() -> Callable[..., dict[str, object]]:
    """(kind, number, x, y) to a row of PAIRS."""
    return make_pair


@pytest.fixture(scope="session")
def curated_of() -> Callable[..., Artifact]:
    """(store, rows of each split) to a curated artifact, its parts sorted by id."""
    return make_curated
