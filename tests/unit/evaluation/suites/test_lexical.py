"""BM25 and TF-IDF find what shares words, split identifiers, and survive texts without any."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.evaluation.suites.lexical import Bm25Model, TfidfModel
from pipeline_lib.index.lexical import terms, words

VERBS, NOUNS = ("read", "write", "merge"), ("matrix", "socket", "cookie")
CORPUS = [f"def {verb}_{noun}(n): return {noun}" for verb in VERBS for noun in NOUNS]
QUERIES = ["read the matrix", "merge a cookie, then merge another cookie", "parse nothing"]


def all_scores(model, queries, documents):
    return np.concatenate(list(model.scores(queries, documents)))


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


@pytest.mark.parametrize(
    "text, expected",
    [
        ("parseHTTPHeader_v2 über 10", ["parse", "http", "header", "v2", "über", "10"]),
        ("東京都の天気API", ["東", "京", "都", "の", "天", "気", "東京", "京都", "都の", "の天", "天気", "api"]),
        ("猫", ["猫"]),
        ("한국어 검색", ["한국어", "검색"]),
        ("ภาษา", ["ภ", "า", "ษ", "า", "ภา", "าษ", "ษา"]),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize("model", [Bm25Model(), TfidfModel()])
def test_both_find_what_shares_words(model):
    found = all_scores(model, QUERIES, CORPUS)
    assert found.shape == (3, 9)
    assert [CORPUS[row] for row in found[:2].argmax(1)] == [CORPUS[0], CORPUS[8]]
    assert not found[2].any(), "no word shared"


def test_bm25_is_the_formula():
    """Lucene's: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b length / mean))."""
    corpus = [words(text) for text in CORPUS]
    mean, N = np.mean([len(d) for d in corpus]), len(corpus)
    expected = np.zeros(N)
    for word in words(QUERIES[1]):
        n = sum(word in d for d in corpus)
        idf = np.log(1 + (N - n + 0.5) / (n + 0.5))
        for i, d in enumerate(corpus):
            tf = d.count(word)
            expected[i] += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(d) / mean))
    np.testing.assert_allclose(all_scores(Bm25Model(), QUERIES, CORPUS)[1], expected, rtol=1e-5)


@pytest.mark.parametrize("model", [Bm25Model(), TfidfModel()])
def test_texts_without_words_tie(model):
    assert not all_scores(model, QUERIES, ["{}"] * 5).any()
    assert not all_scores(model, ["()"] * 5, CORPUS).any()


@pytest.mark.parametrize("model", [Bm25Model(), TfidfModel()])
def test_blocks_of_queries_change_nothing(model, monkeypatch):
    whole = all_scores(model, QUERIES, CORPUS)
    monkeypatch.setattr("pipeline_lib.evaluation.suites.lexical.MAX_SCORES", len(CORPUS))
    blocks = list(model.scores(QUERIES, CORPUS))
    assert [len(block) for block in blocks] == [1, 1, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("query", ["東京の天気", "天気予報", "京"])
def test_bm25_finds_words_where_no_spaces_are_written(query):
    """A query is a part of a sentence, and was a word of its own beside the whole sentence's."""
    documents = ["大阪で電車が遅れています", "今日の東京は天気が良い", "parse a date"]
    assert all_scores(Bm25Model(), [query], documents).argmax() == 1
