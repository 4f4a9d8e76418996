"""Fusion of two rankings of the same rows: that of vectors and that of BM25.

Two methods, and a share of the vectors between 0 (BM25 alone) and 1:

    scores   share * z(cosine) + (1 - share) * z(BM25); z: standard deviations above the mean of all rows' scores for the
             query. A row that one list lacks counts there as that list's last
    ranks    reciprocal rank fusion (Cormack et al. 2009): share / (60 + rank) + (1 - share) / (60 + rank), over that of the
             first rank; a row that one list lacks adds nothing there

Which method, which share for each kind of text, and whether fusing beats the better of both at all, `choose` reads off
validation queries.
M rows of either list, N rows of all, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Method = Literal["scores", "ranks"]
METHODS: tuple[Method, ...] = ("scores", "ranks")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEPTH = 200
RANK_CONSTANT = 60  # of the paper: how little the first ranks count more than the next
LEAST_DEVIATION = 1e-6
LEAST_QUERIES = 10  # with fewer nothing is chosen


class Listed(NamedTuple):
    """One query's best rows of one ranking, best first, and what the scores of all rows are like."""

    rows: np.ndarray
    scores: np.ndarray
    mean: float
    deviation: float
    rest: float  # the score that a row which is not listed is taken to have


@dataclass(frozen=True)
class Fusion:
    """How to fuse.

    Attributes:
        shares: of the vectors, by kind.
        depth: rows of each list.
    """

    method: Method = "scores"
    shares: Mapping[str, float] = field(default_factory=lambda: {"code": 0.8, "text": 0.3})  # the demo's validation has them
    depth: int = DEPTH

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Fusion:
        """The fusion that a record of `choose` says; this project's own where it says nothing of a kind."""
        shares = {**cls().shares, **{kind: row["share"] for kind, row in (record or {}).get("kinds", {}).items()}}
        return cls(record["method"], shares, int(record["depth"])) if record else cls(shares=shares)


def listed(scores_N: np.ndarray, depth: int, of: np.ndarray | None = None, words: bool = False) -> Listed:
    """The best `depth` rows by the scores of all, equal ones in the order of their rows.

    Args:
        of: rows that may be listed, ascending; None: all.
        words: scores of BM25, where a row that shares no word is not listed.
    """
    rows = np.arange(len(scores_N)) if of is None else of
    if words:
        rows = rows[scores_N[rows] > 0]
    scores = scores_N[rows]
    if len(rows) > depth:
        last = np.partition(scores, len(rows) - depth)[len(rows) - depth]
        above, ties = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
        kept = np.sort(np.concatenate([above, ties[: depth - len(above)]]))
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")
    is_cut = len(rows) == depth
    rest = float(scores.min()) if len(rows) and (is_cut or not words) else 0.0
    mean, deviation = spread(scores_N)
    return Listed(rows[order], scores[order], mean, deviation, rest)


def spread(scores: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of scores; of none 0 and 0."""
    return (float(scores.mean(dtype=np.float64)), float(scores.std(dtype=np.float64))) if len(scores) else (0.0, 0.0)


def evenly(n: int, most: int) -> np.ndarray:
    """At most so many of n rows, evenly spread."""
    kept = min(n, most)
    return np.arange(kept) * n // max(1, kept)


def union(vectors: Listed, words: Listed) -> np.ndarray:
    """The rows of either list: those of the vectors in their order, then the others in theirs."""
    return np.concatenate([vectors.rows, words.rows[~np.isin(words.rows, vectors.rows)]]).astype(np.int64)


def values_of(ranking: Listed, rows: np.ndarray, method: Method) -> np.ndarray:
    """What a ranking says of rows (M,), comparable with what another says of them."""
    place = places(ranking, rows)
    there = place < len(ranking.rows)
    if method == "ranks":
        return np.where(there, (RANK_CONSTANT + 1) / (RANK_CONSTANT + 1 + place), 0.0)
    scores = np.append(ranking.scores.astype(np.float64), ranking.rest)[place]
    return (scores - ranking.mean) / max(ranking.deviation, LEAST_DEVIATION)


def places(ranking: Listed, rows: np.ndarray) -> np.ndarray:
    """The place of each row in a list, from 0; of one that it lacks, how many it has."""
    order = np.argsort(ranking.rows)
    found = np.searchsorted(ranking.rows, rows, sorter=order)
    near = np.append(order, len(order))[found]
    return np.where(np.append(ranking.rows, -1)[near] == rows, near, len(ranking.rows))


def fused(
    vectors: Listed, words: Listed, share: float | np.ndarray, method: Method = "scores"
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) of both lists, best first; of equal scores what the vectors place first.

    Args:
        share: of the vectors, for all rows or for each of `union`.
    """
    rows = union(vectors, words)
    scores = share * values_of(vectors, rows, method) + (1 - share) * values_of(words, rows, method)
    order = np.argsort(-scores, kind="stable")
    return rows[order], scores[order]


def fused_scores(cosines_N: np.ndarray, bm25_N: np.ndarray, kind: str, fusion: Fusion) -> np.ndarray:
    """Fused scores of all rows (N,) by both scores of each; those that neither list holds come last, and tie."""
    lists = (listed(cosines_N, fusion.depth), listed(bm25_N, fusion.depth, words=True))
    rows, scores = fused(*lists, fusion.shares[kind], fusion.method)
    fused_N = np.full(len(cosines_N), scores.min() - 1 if len(scores) else 0.0)
    fused_N[rows] = scores
    return fused_N


class Tried(NamedTuple):
    """Reciprocal ranks (Q,) of the right row by each ranking, and by each method and share of fusing them."""

    vectors: np.ndarray
    bm25: np.ndarray
    fused: Mapping[tuple[Method, float], np.ndarray]


def tried(lists: Sequence[tuple[Listed, Listed]], right: Sequence[int]) -> Tried:
    """Every way of ranking, for queries whose right row is known; 0 where a list lacks it."""
    ranks = {method: np.zeros((len(SHARES), len(lists))) for method in METHODS}
    for at, ((vectors, words), wanted) in enumerate(zip(lists, right, strict=True)):
        rows = union(vectors, words)
        place = np.flatnonzero(rows == wanted)
        if len(place):
            for method in METHODS:
                values = (values_of(vectors, rows, method), values_of(words, rows, method))
                ranks[method][:, at] = _reciprocals(*values, int(place[0]))
    alone = [np.array([_reciprocal(pair[side].rows, row) for pair, row in zip(lists, right, strict=True)]) for side in (0, 1)]
    ways = {(method, share): ranks[method][at] for method in METHODS for at, share in enumerate(SHARES)}
    return Tried(alone[0], alone[1], ways)


def _reciprocals(vectors_M: np.ndarray, words_M: np.ndarray, place: int) -> np.ndarray:
    """1 / rank of the row at a place, for each of SHARES, as `fused` orders rows."""
    share_S1 = np.array(SHARES)[:, None]
    scores_SM = share_S1 * vectors_M + (1 - share_S1) * words_M
    wanted_S1 = scores_SM[:, place, None]
    before_S = (scores_SM > wanted_S1).sum(1) + (scores_SM[:, :place] == wanted_S1).sum(1)
    return 1.0 / (1 + before_S)


def choose(found: Mapping[str, Tried], depth: int) -> dict[str, Any]:
    """What ranks each kind best on validation, with the figures that say so, as JSON.

    One method for all kinds: the one whose best figures add up to more; for each kind the share that is best with its
    neighbours. `auto` is the fusion where that is above both, else the better of both, and the vectors where too few queries
    can tell.

    Args:
        found: by kind.
        depth: of the lists.
    """
    enough = {kind: of_kind for kind, of_kind in found.items() if len(of_kind.vectors) >= LEAST_QUERIES}
    best = {method: sum(max(_figures(of_kind, method).values()) for of_kind in enough.values()) for method in METHODS}
    method = max(METHODS, key=lambda name: best[name])  # the first of equals
    kinds = {kind: _row(of_kind, method) for kind, of_kind in enough.items()}
    few = {
        kind: {"auto": "vectors", "queries": len(of_kind.vectors), "share": Fusion().shares[kind]}
        for kind, of_kind in found.items()
        if kind not in enough
    }
    return {"method": method, "depth": depth, "rank_constant": RANK_CONSTANT, "metric": "mrr", "kinds": kinds | few}


def _row(of_kind: Tried, method: Method) -> dict[str, Any]:
    share = _share(of_kind, method)
    figures = {"vectors": of_kind.vectors, "bm25": of_kind.bm25, "hybrid": of_kind.fused[method, share]}
    means = {name: round(float(values.mean()), 6) for name, values in figures.items()}
    auto = max(("vectors", "bm25", "hybrid"), key=lambda name: means[name])  # the first of equals
    shown = {name: {f"{share:g}": round(value, 6) for share, value in _figures(of_kind, name).items()} for name in METHODS}
    return {"auto": auto, "share": share, "queries": len(of_kind.vectors), **means, "tried": shown}


def _share(of_kind: Tried, method: Method) -> float:
    """The share whose figure, with those of its neighbours, is the highest: one share alone may be lucky."""
    figures = np.array(list(_figures(of_kind, method).values()))
    smooth = [figures[max(0, at - 1) : at + 2].mean() for at in range(len(SHARES))]
    return SHARES[int(np.argmax(smooth))]


def _figures(of_kind: Tried, method: Method) -> dict[float, float]:
    return {share: float(of_kind.fused[method, share].mean()) for share in SHARES}


def _reciprocal(rows: np.ndarray, wanted: int) -> float:
    found = np.flatnonzero(rows == wanted)
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0
