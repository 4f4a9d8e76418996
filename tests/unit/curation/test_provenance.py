"""What training data is made of: counted over all rows of the training split, and of no other."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.base import StageConfig
from pipeline_lib.curation.curate import STAGE, count_training_pairs
from pipeline_lib.store.records import Counts, Outcome, draft_part
from pipeline_lib.store.store import Store

LICENCES = {"train": ["MIT", None, "ISC", "MIT", "", "Apache-2.0"], "test": ["GPL-3.0-only"]}


def test_training_pairs_are_counted_by_what_their_source_said(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(key: str) -> Outcome:
        parts = []
        for split, licences in LICENCES.items():
            scratch, counts = store.scratch(STAGE.name), Counts(n_in=len(licences), n_out=len(licences))
            table = pa.table({"licence": pa.array(licences, pa.string()), "kind": ["code"] * len(licences)})
            pq.write_table(table, scratch / "pairs.parquet", row_group_size=2)
            parts.append(store.commit_part(draft_part(STAGE, f"{key}{split}", split, counts, {"pairs.parquet": 1}), scratch))
        total = Counts(n_in=7, n_out=7)
        return Outcome(parts=tuple(parts), counts=total)

    curated = store.build(STAGE, StageConfig(), {}, make)
    assert list(count_training_pairs(curated, "licence").items()) == [
        ("MIT", 2),
        ("not said", 2),
        ("Apache-2.0", 1),
        ("ISC", 1),
    ]
    assert count_training_pairs(curated, "kind") == {"code": 6}
