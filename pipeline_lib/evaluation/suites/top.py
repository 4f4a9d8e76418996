"""The best k of many scores.

Q queries, C candidates, K hits.
"""

from __future__ import annotations

import numpy as np

from pipeline_lib.evaluation.suites.models import Hits

NO_ROW = -1


def best_of(scores_QC: np.ndarray, depth: int, first_row: int = 0, floor: float = -np.inf) -> Hits:
    """The best `depth` columns of each row, best first; of equal scores the lower column.

    Args:
        first_row: what the first column is called.
        floor: candidates that do not score above it are no hits; their row is -1.
    """
    depth = min(depth, scores_QC.shape[1])
    if depth < scores_QC.shape[1]:
        rows_QK = np.argpartition(-scores_QC, depth - 1, axis=1)[:, :depth]
    else:
        rows_QK = np.broadcast_to(np.arange(depth), (len(scores_QC), depth))
    rows_QK = np.sort(rows_QK, axis=1)
    scores_QK = np.take_along_axis(scores_QC, rows_QK, axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")
    scores_QK = np.take_along_axis(scores_QK, order_QK, axis=1).astype(np.float64)
    rows_QK = np.take_along_axis(rows_QK, order_QK, axis=1).astype(np.int64) + first_row
    rows_QK[scores_QK <= floor] = NO_ROW
    return Hits(rows_QK, scores_QK)


def merged(a: Hits, b: Hits, depth: int) -> Hits:
    """The best of both; of equal scores those of `a` first."""
    rows_QK = np.concatenate([a.rows_QK, b.rows_QK], axis=1)
    scores_QK = np.concatenate([a.scores_QK, b.scores_QK], axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")[:, :depth]
    return Hits(np.take_along_axis(rows_QK, order_QK, axis=1), np.take_along_axis(scores_QK, order_QK, axis=1))
