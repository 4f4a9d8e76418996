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
    rows_QK = _columns_kept(scores_QC, depth)
    scores_QK = np.take_along_axis(scores_QC, rows_QK, axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")
    scores_QK = np.take_along_axis(scores_QK, order_QK, axis=1).astype(np.float64)
    rows_QK = np.take_along_axis(rows_QK, order_QK, axis=1).astype(np.int64) + first_row
    rows_QK[scores_QK <= floor] = NO_ROW
    return Hits(rows_QK, scores_QK)


def _columns_kept(scores_QC: np.ndarray, depth: int) -> np.ndarray:
    """The columns of the best `depth` of each row in rising order; of those that tie with the last one the lowest."""
    Q, C = scores_QC.shape
    if depth == C:
        return np.broadcast_to(np.arange(C), (Q, C))
    last_Q1 = np.partition(scores_QC, C - depth, axis=1)[:, C - depth, None]
    above_QC, ties_QC = scores_QC > last_Q1, scores_QC == last_Q1
    wanted_Q1 = depth - above_QC.sum(1, keepdims=True)
    kept_QC = above_QC | (ties_QC & (np.cumsum(ties_QC, axis=1, dtype=np.int32) <= wanted_Q1))
    return np.nonzero(kept_QC)[1].reshape(Q, depth)


def merged(a: Hits, b: Hits, depth: int) -> Hits:
    """The best of both; of equal scores those of `a` first."""
    rows_QK = np.concatenate([a.rows_QK, b.rows_QK], axis=1)
    scores_QK = np.concatenate([a.scores_QK, b.scores_QK], axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")[:, :depth]
    return Hits(np.take_along_axis(rows_QK, order_QK, axis=1), np.take_along_axis(scores_QK, order_QK, axis=1))
