"""Nearest neighbours of anything: of a row of the index, of a place in a file, of a text; and how far all other rows are.

N sampled rows, D width, K neighbours, H bins of the histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.index.fusion import evenly
from pipeline_lib.index.rows import Ranked
from pipeline_lib.search.explain import row_of_file, vector_of
from pipeline_lib.search.hits import hit_facts

if TYPE_CHECKING:
    from pipeline_lib.search.query import Searcher

SAMPLE_ROWS = 4096  # whose cosines the histogram counts
BINS = 40
TOLERANCE = 1e-6  # of a cosine: whether a text is among the nearest of its neighbour does not hang on rounding

Side = Literal["document", "query"]


class Asked(NamedTuple):
    """Whose neighbours are wanted: of a row, else of FILE:LINE, else of a text.

    Attributes:
        at: FILE:LINE.
        side: as which a text is embedded.
        k: neighbours at most.
        kind: of the neighbours; None: both.
    """

    row: int | None
    at: str
    text: str
    side: Side
    k: int
    kind: str | None


def neighbours(searcher: Searcher, asked: Asked) -> dict[str, Any]:
    """The neighbours as JSON: see `looking.NeighboursAnswer`.

    A neighbour is mutual where the text would be among the k nearest of it, too.

    Raises:
        UserError: there is no such row or file, or the index keeps neither its vector nor its text.
    """
    row = _row(searcher, asked)
    vector_1D = _vector(searcher, asked, row)
    allowed_N = searcher.allowed(asked.kind, None)
    ranked = [found for found in searcher.ranked_by_vector(vector_1D, asked.k + 1, allowed_N) if found.row != row][: asked.k]
    hits = searcher.hits(ranked, asked.text)
    mutual = _mutual(searcher, ranked, asked.k)
    near = [
        {**hit_facts(hit), "row": found.row, "mutual": is_mutual}
        for hit, found, is_mutual in zip(hits, ranked, mutual, strict=True)
    ]
    of = texts_of(searcher, [row])[0] if row is not None else None
    return {
        "index": searcher.current.index_digest,
        "of": of,
        "neighbours": near,
        "histogram": _histogram(searcher, vector_1D, row),
    }


def texts_of(searcher: Searcher, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What rows hold, as JSON: see `looking.RowAnswer`.

    Raises:
        UserError: there is no such row.
    """
    _check_rows(searcher, rows)
    hits = searcher.hits([Ranked(row, 0.0) for row in rows])
    left_out = ("rank", "score", "marks", "explain")
    return [
        {"row": row, **{name: value for name, value in hit_facts(hit).items() if name not in left_out}}
        for row, hit in zip(rows, hits, strict=True)
    ]


def _check_rows(searcher: Searcher, rows: Sequence[int]) -> None:
    last = searcher.rows.num_rows - 1
    if wrong := [row for row in rows if not 0 <= row <= last]:
        raise UserError(f"row {wrong[0]}: this index has rows 0 to {last:,}")


def _row(searcher: Searcher, asked: Asked) -> int | None:
    if asked.row is not None:
        _check_rows(searcher, [asked.row])
        return asked.row
    if not asked.at:
        return None
    file, _, line = asked.at.rpartition(":")
    return row_of_file(searcher, file, int(line))


def _vector(searcher: Searcher, asked: Asked, row: int | None) -> np.ndarray:
    """The vector (1, D) that the others are compared with."""
    if row is None and asked.side == "query":
        return searcher.encoder.embed([asked.text], "query")
    if row is None:
        return searcher.embed_documents([asked.text])
    vector_1D = vector_of(searcher, row)
    if vector_1D is None:
        raise UserError("this index keeps neither vectors nor texts; give the text itself")
    return vector_1D


def _mutual(searcher: Searcher, ranked: Sequence[Ranked], k: int) -> list[bool | None]:
    """Whether each neighbour's own k-th neighbour is no nearer to it; None where the index does not say."""
    vectors = [vector_of(searcher, found.row) for found in ranked]
    known = [(found, vector_1D) for found, vector_1D in zip(ranked, vectors, strict=True) if vector_1D is not None]
    if not known:
        return [None] * len(ranked)
    around = searcher.ranked_by_vectors(np.concatenate([vector_1D for _, vector_1D in known]), k + 1)
    is_mutual = {}
    for (found, _), near in zip(known, around, strict=True):
        others = [one.score for one in near if one.row != found.row][:k]
        is_mutual[found.row] = len(others) < k or found.score >= others[-1] - TOLERANCE
    return [is_mutual.get(found.row) for found in ranked]


def _histogram(searcher: Searcher, vector_1D: np.ndarray, row: int | None) -> dict[str, Any] | None:
    """How many of some rows, evenly spread, have which cosine; None where the index holds no vectors."""
    rows_N = evenly(searcher.rows.num_rows, SAMPLE_ROWS)
    rows_N = rows_N[rows_N != row] if row is not None else rows_N
    vectors_ND = searcher.index.vectors(rows_N) if len(rows_N) else None
    if vectors_ND is None and searcher.hybrid is not None:  # which keeps some vectors of its own
        vectors_ND = np.asarray(searcher.hybrid.sample_SD, np.float32)
    if vectors_ND is None:
        return None
    scores_N = np.clip(vectors_ND @ vector_1D[0].astype(np.float32), -1.0, 1.0)
    low, high = float(scores_N.min()), float(scores_N.max())
    counts_H, edges = np.histogram(scores_N, BINS, (low, high) if high - low > TOLERANCE else (low - 0.01, low + 0.01))
    return {
        "edges": [round(float(edge), 4) for edge in edges],
        "counts": counts_H.tolist(),
        "rows": len(scores_N),
        "mean": round(float(scores_N.mean()), 4),
        "deviation": round(float(scores_N.std()), 4),
    }
