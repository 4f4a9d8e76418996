"""The gate lets through what is surely better and nowhere much worse, and says what held the rest back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_contracts.schemas import row_id
from pipeline_lib.config.evaluation import SelectConfig, SuiteConfig
from pipeline_lib.config.run import PromoteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.gate import Check, compare
from pipeline_lib.evaluation.metrics import mean_interval, statistic_interval
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.models import ModelId
from pipeline_lib.evaluation.suites.suite import Figure, Suite, SuiteResult
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

METRICS = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
SELECT = SelectConfig(bootstrap=400)
Measure = Callable[..., list[Artifact]]


class Planted(Suite):
    """A suite whose values are given: those of every query of one kind."""

    splits = ("validation", "test")

    def __init__(self, kind: str, value_N: np.ndarray, first: int = 0) -> None:
        self.kind, self.name, self.value_N, self.first = kind, f"{kind}_task", value_N, first
        super().__init__(Path(), SuiteConfig(seed=int(row_id(str(value_N.tolist()), str(first)), 16) % 2**32, bootstrap=10))

    def paths(self, split):
        return ()

    def texts(self, split):
        return iter(())

    def run(self, model, split, progress=None):
        metric, targets_N = METRICS[self.kind], np.arange(float(len(self.value_N)))
        ids = [str(self.first + i) for i in range(len(self.value_N))]
        found = mean_interval(self.value_N, 10, 1)
        if metric == "spearman":
            found = statistic_interval(metric, self.value_N, targets_N, 10, 1)
        return SuiteResult((Figure(self.name, metric, found, ids, self.value_N, targets_N),))


@pytest.fixture
def measured(store: Store) -> Measure:
    """Evaluations of a model whose queries have the values given."""

    def write(step: int, split: str = "validation", first: int = 0, **values: np.ndarray) -> list[Artifact]:
        class Named:
            id = ModelId(f"step-{step:06d}", f"weights of {step}", step)
            encode = None

        return [evaluate_suite(store, Named(), Planted(kind, value_N, first), split) for kind, value_N in values.items()]

    return write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def noisy(mean: float, n: int = 200, spread: float = 0.2, seed: int = 1) -> np.ndarray:
    values_N = np.random.default_rng(seed).normal(0, spread, n)
    return values_N - values_N.mean() + mean


def held_back(checks: list[Check]) -> list[str]:
    return [check.reason for check in checks if check.reason]


def test_a_surely_better_one_passes_with_its_figures(measured: Measure) -> None:
    champion, better = measured(1, code_search=noisy(0.5)), measured(2, code_search=noisy(0.56))
    score, kind = compare(champion, better, SELECT, PromoteConfig())
    assert held_back([score, kind]) == [] and score.passed and kind.passed
    assert (kind.what, kind.champion, kind.candidate) == ("code search", pytest.approx(0.5), pytest.approx(0.56))
    assert kind.low is not None and kind.high is not None and kind.low <= 0.06 + 1e-9 and kind.high >= 0.06 - 1e-9
    assert score.candidate == pytest.approx(1) and score.champion == pytest.approx(0.5 / 0.56)


def test_neither_the_same_nor_a_worse_one_passes(measured: Measure) -> None:
    champion = measured(1, code_search=noisy(0.5))
    (same,) = held_back(compare(champion, measured(2, code_search=noisy(0.5)), SELECT, PromoteConfig()))
    assert "weighted score 1.000 against 1.000" in same and "not surely better" in same
    worse = held_back(compare(champion, measured(3, code_search=noisy(0.45)), SELECT, PromoteConfig()))
    assert len(worse) == 2 and "code search 0.450 against 0.500: worse by more than 0.02" in worse[1]


def test_the_confidence_decides_what_is_sure(measured: Measure) -> None:
    champion, other = measured(1, code_search=noisy(0.5)), measured(2, code_search=noisy(0.515, seed=2))
    wanted = {0.5: True, 0.999: False}
    for confidence, passed in wanted.items():
        score = compare(champion, other, SELECT, PromoteConfig(confidence=confidence))[0]
        assert score.passed is passed, score


def test_the_same_queries_are_drawn_for_both(measured: Measure) -> None:
    """A gain far smaller than the spread of the queries is sure where every query gains it."""
    champion, other = measured(1, code_search=noisy(0.5)), measured(2, code_search=noisy(0.5) + 0.001)
    assert held_back(compare(champion, other, SELECT, PromoteConfig())) == []


def test_a_kind_that_pays_for_another_holds_it_back(measured: Measure) -> None:
    champion = measured(1, code_search=noisy(0.5), classification=noisy(0.8))
    other = measured(2, code_search=noisy(0.7), classification=noisy(0.77))
    (reason,) = held_back(compare(champion, other, SELECT, PromoteConfig()))
    assert reason == "classification 0.770 against 0.800: worse by more than 0.02"
    assert held_back(compare(champion, other, SELECT, PromoteConfig(margins={"classification": 0.031}))) == []
    assert len(held_back(compare(champion, other, SELECT, PromoteConfig(margins={})))) == 1, "not named: no worse at all"


def test_similarity_is_judged_by_its_rank_correlation(measured: Measure) -> None:
    order_N, jumbled_N = np.arange(100.0), np.random.default_rng(3).permutation(np.arange(100.0))
    champion = measured(1, code_search=noisy(0.5), similarity=order_N)
    other = measured(2, code_search=noisy(0.6), similarity=jumbled_N)
    (reason,) = held_back(compare(champion, other, SELECT, PromoteConfig()))
    assert reason.startswith("similarity") and reason.endswith("against 1.000: worse by more than 0.05")


def test_other_queries_and_the_test_split_are_refused(measured: Measure) -> None:
    champion = measured(1, code_search=noisy(0.5))
    with pytest.raises(UserError, match="different queries"):
        compare(champion, measured(2, first=7, code_search=noisy(0.5)), SELECT, PromoteConfig())
    with pytest.raises(UserError, match="validation only"):
        compare(champion, measured(2, "test", code_search=noisy(0.9)), SELECT, PromoteConfig())


def test_without_a_task_nothing_passes(measured: Measure) -> None:
    (reason,) = held_back(compare([], [], SELECT, PromoteConfig()))
    assert "too little" in reason
    of_no_weight = SELECT.model_copy(update={"weights": {"similarity": 1.0}})
    pair = measured(1, code_search=noisy(0.5)), measured(2, code_search=noisy(0.9))
    assert "too little" in held_back(compare(*pair, of_no_weight, PromoteConfig()))[0]
