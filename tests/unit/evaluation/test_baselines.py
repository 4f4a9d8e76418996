"""BM25 and TF-IDF find what shares words, split identifiers, and survive texts without any."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.evaluation.baselines import Bm25, Tfidf, words
from pipeline_lib.evaluation.measure import measure
from pipeline_lib.evaluation.tasks import build_tasks

CONFIG = EvaluateConfig(candidates=50, bootstrap=20, min_class_texts=12, similarity_pairs=20)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("parseHTTPHeader_v2", ["parse", "http", "header", "v2"]),
        ("snake_case-Kebab", ["snake", "case", "kebab"]),
        ("Größe über 10 µm", ["größe", "über", "10", "µm"]),
        ("", []),
        ("__ () {}", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_both_find_planted_answers(curated):
    tasks = build_tasks(curated, "validation", CONFIG)
    for scorer in (Bm25(), Tfidf()):
        found = {m.kind: m for m in measure(scorer, tasks, CONFIG, lambda name: None)}
        assert set(found) == set(scorer.kinds)
        assert found["code_search"].figures["mrr"].value > 0.9
        assert found["code_search"].figures["mrr"].n == 100
    assert found["classification"].figures["accuracy"].value == 1.0
    assert found["similarity"].figures["spearman"].value > 0.5


def test_bm25_is_the_formula(curated):
    """Lucene's: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b length / mean))."""
    task = build_tasks(curated, "validation", CONFIG).tasks[0]
    rows = slice(0, 50)
    corpus = [words(text) for text in task.candidates[rows]]
    mean = np.mean([len(d) for d in corpus])
    query = words(task.queries[0])
    expected = np.zeros(50)
    for word in query:
        n = sum(word in d for d in corpus)
        idf = np.log(1 + (50 - n + 0.5) / (n + 0.5))
        for i, d in enumerate(corpus):
            tf = d.count(word)
            expected[i] += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(d) / mean))
    found = Bm25().search(task, slice(0, 1), rows)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scorer", [Bm25(), Tfidf()])
def test_texts_without_words_tie(curated, scorer):
    task = build_tasks(curated, "validation", CONFIG).tasks[0]
    blank = dataclasses.replace(task, candidates=("{}",) * len(task.candidates))
    assert not scorer.search(blank, slice(0, 50), slice(0, 50)).any()
    asked_nothing = dataclasses.replace(task, queries=("()",) * len(task.queries))
    assert not scorer.search(asked_nothing, slice(0, 50), slice(0, 50)).any()
