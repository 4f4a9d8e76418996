"""BM25 and TF-IDF as models of a suite, in full length, their statistics from the suite's own texts.

Q queries, C documents, K hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline_lib.evaluation import baselines
from pipeline_lib.evaluation.baselines import words
from pipeline_lib.evaluation.suites.models import Hits, ModelId
from pipeline_lib.evaluation.suites.searching import NO_ROW, best_of

_BLOCK_QUERIES = 256  # 256 queries x 1,000,000 documents of float32: 1 GB


class Bm25Model:
    """BM25 as Lucene computes it: k1 = 1.5, b = 0.75."""

    id = ModelId("bm25", "bm25-lucene-1.5-0.75-v1")
    kinds = ("text_search", "code_search")

    def search(self, queries: Sequence[str], documents: Sequence[str], depth: int) -> Hits:
        """The best documents; those that share no word with the query are no hits."""
        import bm25s

        index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        corpus = [words(text) for text in documents]
        depth = min(depth, len(documents))
        rows_QK = np.full((len(queries), depth), NO_ROW, np.int64)
        scores_QK = np.full((len(queries), depth), -np.inf)
        if any(corpus):
            index.index(corpus, show_progress=False)
            for number, query in enumerate(map(words, queries)):
                if query:
                    rows_QK[number], scores_QK[number] = best_of(index.get_scores(query)[None], depth, floor=0.0)
        return Hits(rows_QK, scores_QK)

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """BM25 is not symmetric."""
        raise NotImplementedError("bm25 has no symmetric similarity")

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """BM25 has no features."""
        raise NotImplementedError("bm25 has no features")


class TfidfModel:
    """Cosine of TF-IDF vectors, 1 + log(tf)."""

    id = ModelId("tfidf", "tfidf-sublinear-v1")
    kinds = ("text_search", "code_search", "classification", "similarity")

    def search(self, queries: Sequence[str], documents: Sequence[str], depth: int) -> Hits:
        """The best documents; those that share no word with the query are no hits."""
        corpus_CV, queries_QV = baselines.tfidf_vectors(documents, queries)
        found = [
            best_of((queries_QV[at : at + _BLOCK_QUERIES] @ corpus_CV.T).toarray(), depth, floor=0.0)
            for at in range(0, len(queries), _BLOCK_QUERIES)
        ]
        return Hits(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """Cosine of each pair, the statistics from both sides."""
        both, _ = baselines.tfidf_vectors((*left, *right), ())
        n = len(left)
        return np.asarray(both[:n].multiply(both[n:]).sum(1)).ravel()

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """Sparse rows of length 1."""
        return baselines.tfidf_vectors(fitted, others)
