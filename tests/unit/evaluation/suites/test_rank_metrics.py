"""Metrics of rankings against a slow oracle: ties, missing judgements, empty results, more hits than documents."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.evaluation.suites.searching import MEASURES, in_order, ranking_values

METRICS = tuple(MEASURES)
IDS = [f"d{n}" for n in range(14)]


def oracle(scored: list[tuple[str, float]], grades: dict[str, int]) -> dict[str, float]:
    """The definitions, one document at a time."""
    order = sorted(scored, key=lambda pair: (pair[1], pair[0]), reverse=True)
    gains = [max(grades.get(document, 0), 0) for document, _ in order]
    relevant = sum(grade > 0 for grade in grades.values())
    ideal = sorted((max(grade, 0) for grade in grades.values()), reverse=True)
    if not relevant:
        return dict.fromkeys(METRICS, 0.0)
    precisions = [sum(g > 0 for g in gains[: rank + 1]) / (rank + 1) for rank, gain in enumerate(gains) if gain > 0]
    return {
        "ndcg@10": dcg(gains[:10]) / dcg(ideal[:10]),
        "recall@100": sum(gain > 0 for gain in gains[:100]) / relevant,
        "map": sum(precisions) / relevant,
        "mrr@10": next((1 / (rank + 1) for rank, gain in enumerate(gains[:10]) if gain > 0), 0.0),
        "mrr": next((1 / (rank + 1) for rank, gain in enumerate(gains) if gain > 0), 0.0),
        "ndcg": dcg(gains) / dcg(ideal),
    }


def dcg(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


scores = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.500001, 1.0])  # few values: most rankings have ties
one_query = st.tuples(
    st.dictionaries(st.sampled_from(IDS), scores).map(lambda d: list(d.items())),
    st.dictionaries(st.sampled_from(IDS), st.integers(-1, 3), min_size=1),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(one_query, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_metric_is_its_definition_in_any_order(queries, random) -> None:
    names = [f"q{n}" for n in range(len(queries))]
    rankings = {name: random.sample(scored, len(scored)) for name, (scored, _) in zip(names, queries, strict=True)}
    values = ranking_values(rankings, {name: grades for name, (_, grades) in zip(names, queries, strict=True)}, METRICS)
    for at, (scored, grades) in enumerate(queries):
        expected = oracle(scored, grades)
        assert {metric: values[metric][at] for metric in METRICS} == pytest.approx(expected, abs=1e-12)


def test_what_stands_behind_the_cut_does_not_count() -> None:
    """150 results, relevant ones at 11, 100, 101 and 150: no smaller ranking tells recall@100 from recall."""
    scored = [(f"d{n:03}", -float(n)) for n in range(1, 151)]
    grades = {"d011": 2, "d100": 1, "d101": 3, "d150": 1, "absent": 1}
    values = ranking_values({"q": scored}, {"q": grades}, METRICS)
    expected = oracle(scored, grades)
    assert {metric: of_each[0] for metric, of_each in values.items()} == pytest.approx(expected, abs=1e-12)
    assert expected["recall@100"] == 0.4 and expected["mrr@10"] == 0 < expected["mrr"]


NEGATIVE_ALONE = """
from pipeline_lib.evaluation.suites.searching import MEASURES, ranking_values
ids = [f"d{n}" for n in range(14)]
for n in range(1, 2000):  # what trec_eval left in memory before decides whether it loops
    scored = [(id_, float(at)) for at, id_ in enumerate(ids[: 1 + n % 14])]
    qrels = {"a": dict.fromkeys(ids[: 1 + n % 5], -1), "b": {ids[n % 14]: 1 + n % 3, ids[n * 5 % 14]: 2}}
    values = ranking_values({"a": scored, "b": scored}, qrels, tuple(MEASURES))
    assert not any(of_each[0] for of_each in values.values()), values
"""


def test_negative_grades_alone_score_nothing_and_end() -> None:
    """In a process of its own: a loop in C hears no signal."""
    assert subprocess.run([sys.executable, "-c", NEGATIVE_ALONE], check=False, timeout=60).returncode == 0


def test_a_query_without_results_scores_nothing_and_is_counted() -> None:
    values = ranking_values({"a": [("d1", 1.0)]}, {"a": {"d1": 1}, "b": {"d1": 1}}, METRICS)
    assert {metric: list(of_each) for metric, of_each in values.items()} == {metric: [1.0, 0.0] for metric in METRICS}


def test_a_constant_score_does_not_follow_the_order_it_comes_in() -> None:
    assert in_order([("a", 0.5), ("c", 0.5), ("b", 0.5)]) == in_order([("c", 0.5), ("b", 0.5), ("a", 0.5)]) == ["c", "b", "a"]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranking_values({"a": [("d1", math.nan)]}, {"a": {"d1": 1}}, METRICS)
