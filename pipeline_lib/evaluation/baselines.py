"""What a model has to beat: BM25 and TF-IDF over words, on the same queries and candidates, in full length.

Q queries, C candidates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from pipeline_lib.evaluation.task_records import ProbeTask, SearchTask, SimilarityTask

_BM25_K1 = 1.5
_BM25_B = 0.75
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case words, camelCase and snake_case split: "parseHTTPHeader_v2" gives parse, http, header, v2."""
    return _WORD.findall(_CAMEL.sub(" ", text).lower())


class Bm25:
    """BM25 as Lucene computes it, k1 = 1.5, b = 0.75, its statistics from the candidates of the batch."""

    name = "bm25"
    step = -1
    kinds = ("code_search", "text_search")
    probe_c = 1.0

    def search(self, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
        """Scores of every candidate for every query, shape (Q, C)."""
        corpus = [words(text) for text in task.candidates[candidates]]
        queries_words = [words(text) for text in task.queries[queries]]
        scores_QC = np.zeros((len(queries_words), len(corpus)))
        if not any(corpus):
            return scores_QC
        index = bm25s.BM25(k1=_BM25_K1, b=_BM25_B, method="lucene")
        index.index(corpus, show_progress=False)
        for row_C, query in zip(scores_QC, queries_words, strict=True):
            if query:
                row_C[:] = index.get_scores(query)
        return scores_QC

    def features(self, task: ProbeTask, fold: int) -> tuple[Any, Any]:
        raise NotImplementedError(f"{self.name} has no features for {task.name}")

    def similarity(self, task: SimilarityTask) -> np.ndarray:
        raise NotImplementedError(f"{self.name} has no symmetric similarity for {task.name}")


class Tfidf:
    """Cosine of TF-IDF vectors, 1 + log(tf), their statistics from the candidates of the batch."""

    name = "tfidf"
    step = -1
    kinds = ("code_search", "text_search", "classification", "similarity")
    probe_c = 100.0  # unit-length sparse rows: accuracy 0.74 at 1, 0.84 at 100, 0.85 at 1,000

    def search(self, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
        corpus_CV, queries_QV = tfidf_vectors(task.candidates[candidates], task.queries[queries])
        return (queries_QV @ corpus_CV.T).toarray()

    def features(self, task: ProbeTask, fold: int) -> tuple[Any, Any]:
        train = [text for text, its_fold in zip(task.texts, task.folds, strict=True) if its_fold != fold]
        test = [text for text, its_fold in zip(task.texts, task.folds, strict=True) if its_fold == fold]
        return tfidf_vectors(train, test)

    def similarity(self, task: SimilarityTask) -> np.ndarray:
        both, _ = tfidf_vectors((*task.left, *task.right), ())
        n = len(task.left)
        return np.asarray(both[:n].multiply(both[n:]).sum(1)).ravel()


def tfidf_vectors(fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
    """Sparse rows of length 1, 1 + log(tf) times idf, vocabulary and idf from `fitted` alone."""
    if not any(words(text) for text in fitted):  # scikit-learn refuses an empty vocabulary
        from scipy.sparse import csr_matrix

        return csr_matrix((len(fitted), 1)), csr_matrix((len(others), 1))
    vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
    fitted_NV = vectorizer.fit_transform(fitted)
    return fitted_NV, vectorizer.transform(others) if others else fitted_NV[:0]
