"""Metrics against brute force: ties, single candidates, k beyond the candidates, order invariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score

from pipeline_lib.evaluation import metrics


def mean_rank_by_hand(scores, right, masked):
    """The mean place of the right one over all orders that respect the scores."""
    row = [(score, column) for column, score in enumerate(scores) if column == right or not masked[column]]
    better = sum(score > scores[right] for score, _ in row)
    tied = sum(score == scores[right] for score, _ in row)
    places = range(better + 1, better + tied + 1)
    return sum(places) / tied


@st.composite
def rankings(draw):
    n_queries, n_candidates = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    cells = n_queries * n_candidates
    scores = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), min_size=cells, max_size=cells))
    masked = draw(st.lists(st.booleans(), min_size=cells, max_size=cells))
    right = draw(st.lists(st.integers(0, n_candidates - 1), min_size=n_queries, max_size=n_queries))
    shape = (n_queries, n_candidates)
    return np.array(scores).reshape(shape), np.array(right), np.array(masked).reshape(shape)


@given(rankings())
@settings(deadline=None, max_examples=150)
def test_ranks_equal_brute_force(case):
    scores, right, masked = case
    expected = [mean_rank_by_hand(scores[q], right[q], masked[q]) for q in range(len(scores))]
    np.testing.assert_allclose(metrics.ranks(scores, right, masked), expected, atol=1e-12, rtol=0)


@given(rankings(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_ranks_do_not_depend_on_the_order_of_candidates(case, random):
    scores, right, masked = case
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    moved_right = np.array([order.index(column) for column in right])
    moved = metrics.ranks(scores[:, order], moved_right, masked[:, order])
    np.testing.assert_array_equal(moved, metrics.ranks(scores, right, masked))


def test_constant_scores_earn_nothing():
    ranks = metrics.ranks(np.zeros((5, 1000)), np.arange(5))
    assert ranks.tolist() == [500.5] * 5
    assert metrics.hits_at(ranks, 10).sum() == 0


def test_nan_scores_are_refused_rather_than_ranked_first():
    with pytest.raises(ValueError, match="1 of 4 scores are not finite"):
        metrics.ranks(np.array([[np.nan, 0.0], [0.0, 1.0]]), np.arange(2))


def test_single_candidate_and_k_beyond_the_candidates():
    ranks = metrics.ranks(np.array([[0.3]]), np.array([0]))
    assert metrics.reciprocal_ranks(ranks).tolist() == [1.0]
    assert metrics.hits_at(metrics.ranks(np.array([[0.1, 0.9]]), np.array([0])), 10).tolist() == [1.0]


def test_the_interval_is_that_of_the_plain_loop():
    values = np.random.default_rng(3).random(40)
    random = np.random.default_rng(7)
    loop = [values[rows].mean() for rows in random.integers(0, 40, (500, 40))]
    found = metrics.mean_interval(values, 500, 7)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), atol=1e-12, rtol=0)
    assert found == metrics.mean_interval(values, 500, 7)


def test_resampling_in_chunks_gives_the_numbers_of_one_draw(monkeypatch):
    values = np.random.default_rng(3).random(40)
    whole = metrics.mean_interval(values, 100, 7)
    monkeypatch.setattr(metrics, "_CHUNK_NUMBERS", 130)
    assert metrics.mean_interval(values, 100, 7) == whole


def test_paired_difference_is_narrower_than_its_sides():
    shared = np.random.default_rng(0).random(300)
    better, worse = shared + 0.05, shared
    found = metrics.paired_difference(better, worse, 300, 1)
    assert found.low > 0
    assert found.value == pytest.approx(0.05)
    alone = metrics.mean_interval(worse, 300, 1)
    assert found.high - found.low < (alone.high - alone.low) / 100


def test_unpaired_samples_are_refused():
    with pytest.raises(ValueError, match="as many"):
        metrics.paired_difference(np.ones(3), np.ones(4), 10, 1)


def test_spearman_with_ties_and_with_a_constant_side():
    random = np.random.default_rng(5)
    values, grades = random.integers(0, 5, 60).astype(float), random.integers(0, 4, 60).astype(float)
    assert metrics.spearman(values, grades) == pytest.approx(spearmanr(values, grades).statistic, abs=1e-12)
    assert metrics.spearman(np.ones(60), grades) == 0.0


@pytest.mark.parametrize(("metric", "oracle"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_a_resampled_correlation_is_scipy_on_each_resample(metric, oracle):
    random = np.random.default_rng(6)
    values, grades = random.random(50), random.integers(0, 4, 50).astype(float)
    rows = np.random.default_rng(9).integers(0, 50, (80, 50))
    loop = [oracle(values[r], grades[r]).statistic for r in rows]
    found = metrics.statistic_interval(metric, values, grades, 80, 9)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), atol=1e-12, rtol=0)
    same = metrics.statistic_difference(metric, values, values, grades, 80, 9)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_resampled_effect_sizes_draw_each_group_from_itself():
    values, groups = np.random.default_rng(6).random(16), np.repeat([1.0, 2.0], 8)
    random = np.random.default_rng(9)
    halves = (values[:8][random.integers(0, 8, (80, 8))], values[8:][random.integers(0, 8, (80, 8))])
    loop = [(a.mean() - b.mean()) / np.concatenate([a, b]).std() for a, b in zip(*halves, strict=True)]
    found = metrics.statistic_interval("effect_size", values, groups, 80, 9)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), atol=1e-12, rtol=0)


def test_macro_f1_and_its_interval_are_those_of_scikit_learn():
    """Few samples of a rare class: it is in some resamples only, and what is not there does not count."""
    random = np.random.default_rng(2)
    true = random.choice(["a", "b", "c"], 40, p=[0.55, 0.4, 0.05])
    predicted = np.where(random.random(40) < 0.7, true, random.choice(["a", "b", "c", "d"], 40))

    def oracle(rows):
        labels = sorted(set(true[rows]))
        return f1_score(true[rows], predicted[rows], labels=labels, average="macro", zero_division=0)

    found = metrics.macro_f1_interval(predicted, true, 200, 1)
    loop = [oracle(rows) for rows in np.random.default_rng(1).integers(0, 40, (200, 40))]
    assert found.value == pytest.approx(oracle(np.arange(40)), abs=1e-12)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), atol=1e-12, rtol=0)
