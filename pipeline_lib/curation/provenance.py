"""What training data is made of, for the model card: pairs by kind, and by the licence that each came with."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact

UNKNOWN = "not said"


def count_training_pairs(curated: Artifact, column: str) -> dict[str, int]:
    """Training pairs by the values of a column, the most frequent first, ties by name; "not said" where there is none.

    Args:
        curated: of stage "curate".
        column: of the pairs' schema, such as "licence" or "kind". It is read alone, a batch of rows at a time.
    """
    found: Counter[str] = Counter()
    with pq.ParquetFile(curated.part_folder("train") / "pairs.parquet") as file:
        for batch in file.iter_batches(columns=[column]):
            for value in batch.column(0).value_counts().to_pylist():
                found[value["values"] or UNKNOWN] += value["counts"]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
