"""Pairs of short texts, so that equal ones meet often, and the artifact that they come in."""

from __future__ import annotations

from typing import Any

from builders import RowsByPart, pair_row, write_pairs

from data_contracts.schemas import row_id
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store


def pair(number: int, group: str = "g0", x: str = "", y: str = "", **changes: Any) -> dict[str, Any]:
    """A pair whose texts are its own unless they are given."""
    x, y = x or f"x of {number}", y or f"y of {number}"
    row = pair_row(
        x,
        y,
        id=row_id(str(number)),
        document_id=row_id("document", str(number // 2), group),
        source="dump",
        group=group,
        path=f"{group}/{number // 2}.py",
        position=number % 2,
    )
    return {**row, **changes}


def validated(store: Store, parts: RowsByPart) -> Artifact:
    """An artifact as the validate stage leaves it: one `pairs.parquet` a part."""
    return write_pairs(store, "validate", parts)
