"""BM25 and TF-IDF over words: what a model has to beat, on the same texts in full length.

Their statistics are those of the texts at hand. Q queries, C documents, V words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline_lib.evaluation.suites.models import ModelId
from pipeline_lib.index.lexical import BM25_B, BM25_K1, terms, words

MAX_SCORES = 32_000_000  # held at once: 256 MB of float64


class Bm25Model:
    """BM25 as Lucene computes it: k1 = 1.5, b = 0.75."""

    id = ModelId("bm25", "bm25-lucene-1.5-0.75-v2")
    kinds = ("text_search", "code_search")

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[np.ndarray]:
        """Scores of every document, (Q, C) for a block of queries; 0 where no word is shared."""
        import bm25s

        corpus = [terms(text) for text in documents]
        index = bm25s.BM25(k1=BM25_K1, b=BM25_B, method="lucene")
        if any(corpus):
            index.index(corpus, show_progress=False)
        for rows in _blocks(len(queries), len(documents)):
            block = [terms(text) for text in queries[rows]]
            scores_QC = np.zeros((len(block), len(corpus)), np.float32)
            for row_C, query in zip(scores_QC, block, strict=True):
                if query and any(corpus):
                    row_C[:] = index.get_scores(query)
            yield scores_QC

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

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[np.ndarray]:
        """Cosine of every document, (Q, C) for a block of queries; 0 where no word is shared."""
        corpus_CV, queries_QV = self.features(documents, queries)
        for rows in _blocks(len(queries), len(documents)):
            yield (queries_QV[rows] @ corpus_CV.T).toarray()

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """Cosine of each pair, the statistics from both sides."""
        both, _ = self.features((*left, *right), ())
        n = len(left)
        return np.asarray(both[:n].multiply(both[n:]).sum(1)).ravel()

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """Sparse rows of length 1, 1 + log(tf) times idf, vocabulary and idf from `fitted` alone."""
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not any(words(text) for text in fitted):  # scikit-learn refuses an empty vocabulary
            return csr_matrix((len(fitted), 1)), csr_matrix((len(others), 1))
        vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        fitted_NV = vectorizer.fit_transform(fitted)
        return fitted_NV, vectorizer.transform(others) if others else fitted_NV[:0]


def _blocks(queries: int, documents: int) -> Iterator[slice]:
    step = max(1, MAX_SCORES // max(1, documents))
    return (slice(at, at + step) for at in range(0, queries, step))
