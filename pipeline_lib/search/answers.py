"""Answers of opened indexes compared: overlap of two models' top k, and recall of an index against exact search.

Q queries, K results, D width, N rows of a slice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import NoReturn

import numpy as np

from pipeline_lib.index.factories import exact_nearest, recall_of
from pipeline_lib.index.pieces import choose_pieces, read_pieces
from pipeline_lib.search.query import Searcher
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import VectorCache, text_hashes

TOP = 10


def overlap(one: Searcher, other: Searcher, queries: Sequence[str], k: int = TOP) -> float:
    """Share of the first k answers that both give, on average over the queries; 1 where there is no query."""
    shares = []
    for query in queries:
        mine, theirs = ({hit.place for hit in searcher.search(query, k=k)} for searcher in (one, other))
        shares.append(len(mine & theirs) / max(1, min(k, max(len(mine), len(theirs)))))
    return float(np.mean(shares)) if shares else 1.0


def recall(searcher: Searcher, slices: Iterable[np.ndarray], queries: Sequence[str], k: int = TOP) -> float:
    """Share of the k nearest by exact search that the index finds, over the queries; 1 where there is no query.

    Args:
        slices: the vectors of the index's rows (N, D), in its order, a slice at a time.
    """
    if not queries:
        return 1.0
    vectors_QD = np.concatenate([searcher.encoder.embed([query], "query") for query in queries]).astype(np.float32)
    found = [[found.row for found in of_query] for of_query in searcher.ranked_by_vectors(vectors_QD, k)]
    right_QK = exact_nearest(slices, vectors_QD, k)
    return recall_of(found, right_QK.tolist())


def indexed_vectors(store: Store, curated: Artifact, fingerprint: str, rows: int) -> Generator[np.ndarray, None, None]:
    """The vectors (N, D) that an index was made of, in its order, a slice of so many rows at a time.

    Args:
        curated: the pairs that were indexed.
        fingerprint: of the model that embedded them.
    """

    def embed(texts: Sequence[str], _: object) -> NoReturn:
        raise AssertionError(f"{len(texts)} texts of an index have no vector")

    paths = curated.paths("pairs.parquet")
    cache = VectorCache(store, fingerprint, "y", embed)
    pieces = read_pieces(paths, choose_pieces(paths))
    while slice_ := list(islice(pieces, rows)):
        yield cache.read(text_hashes([piece.text for piece in slice_]))
