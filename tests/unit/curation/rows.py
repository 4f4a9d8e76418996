"""Pairs of short texts, so that equal ones meet often, and the artifact that they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import PAIRS, row_id, text_hash
from pipeline_lib.config.run import ContractConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

VALIDATE = Stage(name="validate", version=1)


def pair(number: int, group: str = "g0", x: str = "", y: str = "", **changes: Any) -> dict[str, Any]:
    """A pair whose texts are its own unless they are given."""
    x, y = x or f"x of {number}", y or f"y of {number}"
    row = {
        "id": row_id(str(number)),
        "kind": "code",
        "view": "docstring",
        "x": x,
        "y": y,
        "x_hash": text_hash(x),
        "y_hash": text_hash(y),
        "document_id": row_id("document", str(number // 2), group),
        "source": "dump",
        "group": group,
        "path": f"{group}/{number // 2}.py",
        "line": 1,
        "position": number % 2,
        "name": "f",
        "language": "python",
        "licence": None,
        "generation": 0,
    }
    return {**row, **changes}


def validated(store: Store, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Artifact:
    """An artifact as the validate stage leaves it: one `pairs.parquet` a part."""

    def make(_: str) -> Outcome:
        made = []
        for label, rows in parts.items():
            scratch = store.scratch(VALIDATE.name)
            pq.write_table(pa.Table.from_pylist(list(rows), schema=PAIRS), scratch / "pairs.parquet")
            counts = Counts(n_in=len(rows), n_out=len(rows))
            made.append(store.commit_part(draft_part(VALIDATE, row_id(label, str(rows)), label, counts), scratch))
        return Outcome(parts=tuple(made))

    config = ContractConfig(max_x_words=1 + int(row_id(str(parts))[:6], 16))
    return store.build(VALIDATE, config, {}, make)
