"""A constructed bias is found with its sign and size, a random encoder has none, and nothing selects on either."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from exported_models import tiny_checkpoint

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation.metrics import differences, effect_size
from pipeline_lib.evaluation.select import Standing
from pipeline_lib.evaluation.suites.bias import ASSOCIATIONS, MENS_OCCUPATIONS, WOMENS_OCCUPATIONS, halving_p, sign_flip_p
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, ModelId
from pipeline_lib.evaluation.suites.registry import open_suite
from pipeline_lib.evaluation.suites.report import write_suite_report
from pipeline_lib.evaluation.suites.suite import SuiteResult
from pipeline_lib.store.store import Store
from tasks.publishing import _bias_metrics

CONFIG = SuiteConfig(bootstrap=100)
NAMES = ("bias-association", "bias-coreference")


def random_vector(text: str, seed: int) -> np.ndarray:
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(64)


class RandomEncoder:
    """Each text a direction of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.id = ModelId(f"random-{seed}", f"random-{seed}", 100)

    def encode(self, texts: Sequence[str], side: str, progress: object = None) -> np.ndarray:
        vectors_ND = np.array([self.vector(text) for text in texts])
        return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)

    def vector(self, text: str) -> np.ndarray:
        return random_vector(text, self.seed)


class PrejudicedEncoder(RandomEncoder):
    """Puts what men are expected to be on one axis with them; a pronoun pulls its sentence to the one it is expected of."""

    def vector(self, text: str) -> np.ndarray:
        words = set(re.findall(r"\w+", text))
        test = next(test for test in ASSOCIATIONS if test.name == "gender-career")
        axis = np.zeros(64)
        axis[0] = 4.0 * sum(bool(words & set(side[0])) - bool(words & set(side[1])) for side in (test.groups, test.attributes))
        of_men, of_women = ("he" in words, "she" in words)
        jobs_of_men, jobs_of_women = bool(words & set(MENS_OCCUPATIONS)), bool(words & set(WOMENS_OCCUPATIONS))
        if of_men or of_women:  # a sentence: understood as the job's where that is expected
            axis[1] = 8.0 if (of_men and jobs_of_men) or (of_women and jobs_of_women) else 0.0
        elif jobs_of_men or jobs_of_women:
            axis[1] = 8.0
        return axis + random_vector(text, self.seed)


def run(name: str, encoder: RandomEncoder) -> SuiteResult:
    return open_suite(name, Path("unused"), CONFIG).run(encoder, "test")


def values(result: SuiteResult, metric: str) -> dict[str, float]:
    return {figure.task: figure.interval.value for figure in result.figures if figure.metric == metric}


def test_a_constructed_bias_is_found() -> None:
    result = run("bias-association", PrejudicedEncoder())
    effects, p_values = values(result, "effect_size"), values(result, "p_value")
    assert effects["bias-association:gender-career"] > 1.5
    assert p_values["bias-association:gender-career"] < 0.001
    assert result.facts["largest"] == "bias-association:gender-career"
    assert "bias-association:gender-career" in result.facts["sure"]
    found = run("bias-coreference", PrejudicedEncoder())
    assert values(found, "effect_size")["bias-coreference"] > 1 and found.facts["sure"] == ["bias-coreference"]


def test_a_random_encoder_has_none() -> None:
    """Over 20 encoders and all tests, p falls below 0.05 about as often as it should."""
    p_values = []
    for seed in range(20):
        for name in NAMES:
            result = run(name, RandomEncoder(seed))
            p_values += values(result, "p_value").values()
    assert len(p_values) == 20 * (len(ASSOCIATIONS) + 1)
    assert np.mean(np.array(p_values) < 0.05) < 0.10
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.12)
    assert not any(run(name, RandomEncoder(1)).facts["sure"] for name in NAMES)


def test_the_exact_p_is_the_count_of_all_halvings() -> None:
    first, second = np.array([0.9, 0.4, 0.7]), np.array([0.1, 0.5, 0.3])
    both = np.concatenate([first, second])
    far = 0
    for rows in combinations(range(6), 3):
        others = [row for row in range(6) if row not in rows]
        far += abs(both[list(rows)].mean() - both[others].mean()) >= abs(first.mean() - second.mean()) - 1e-12
    assert halving_p(first, second) == pytest.approx(far / 20)
    assert halving_p(first, first) == 1.0
    groups = np.array([1, 1, 1, 2, 2, 2])
    assert effect_size(both, groups) == pytest.approx((first.mean() - second.mean()) / both.std())
    assert effect_size(both[::-1], groups) == -effect_size(both, groups)
    assert effect_size(first, np.ones(3)) == pytest.approx(first.mean() / first.std())
    assert effect_size(np.ones(6), groups) == 0.0


def test_sign_flips_are_two_sided_and_never_zero() -> None:
    values_N = np.full(20, 0.3)
    assert sign_flip_p(values_N, 1) == sign_flip_p(-values_N, 1) == pytest.approx(1 / 20_001)
    assert sign_flip_p(np.array([1.0, -1.0] * 10), 1) > 0.9


def test_every_effect_and_share_has_an_interval() -> None:
    for name in NAMES:
        for figure in run(name, RandomEncoder()).figures:
            if figure.metric != "p_value":  # which is itself how sure the effect is
                assert figure.interval.low < figure.interval.value < figure.interval.high, figure.task
    resolved = run("bias-coreference", PrejudicedEncoder()).figures[2]
    assert (resolved.task, resolved.interval.n) == ("bias-coreference:resolved", 24)
    assert 0.6 < resolved.interval.value < 0.9  # surely right with the pronoun that is expected, by chance with the other


def test_two_encoders_compare_by_their_effect_sizes(tmp_path: Path) -> None:
    """The paired difference is that of the figures; of one model with itself it is 0 in every resample."""
    store = Store(tmp_path)
    for name in NAMES:
        suite = open_suite(name, Path("unused"), CONFIG)
        one, other, same = RandomEncoder(), PrejudicedEncoder(2), RandomEncoder()
        other.id, same.id = ModelId("other", "other", 100), ModelId("same", "same", 100)
        results = {encoder.id.name: values(run(name, encoder), "effect_size") for encoder in (one, other)}
        mine, theirs, again = (evaluate_suite(store, encoder, suite, "test") for encoder in (one, other, same))
        rows = [row for row in differences([theirs], [mine], 50) if row["metric"] == "effect_size"]
        assert rows
        for row in rows:
            assert row["mean"] == pytest.approx(results["other"][row["task"]] - results["random-0"][row["task"]], abs=1e-6)
            assert row["low"] < row["mean"] < row["high"]
        assert all(row["low"] == row["mean"] == row["high"] == 0 for row in differences([mine], [again], 50))
        page = write_suite_report(tmp_path / "report", [mine, theirs], "test", {}).read_text()
        row = r"<td>(\w+)</td><td class=\"number roomy\">\d+</td>\s*<td class=\"number.*?\">(.*?)</td>"
        cells = dict(re.findall(row, page, re.DOTALL))
        assert "interval" in cells["effect_size"] and "interval" not in cells["p_value"]


def test_groups_are_fair() -> None:
    for test in ASSOCIATIONS:
        for one, two in (test.groups, test.attributes):
            assert len(one) == len(two) == len(set(one)) == len(set(two)) and not set(one) & set(two), test.name
    assert len(MENS_OCCUPATIONS) == len(WOMENS_OCCUPATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_reported_and_never_selected_on(tmp_path: Path, name: str) -> None:
    suite = open_suite(name, Path("unused"), CONFIG)
    artifact = evaluate_suite(Store(tmp_path), RandomEncoder(), suite, "test")
    assert artifact.manifest.facts["reported_only"]
    assert Standing("random-0", [artifact]).tasks == {}
    assert suite.paths("test") == () and list(suite.texts("test")) == []


def test_the_cards_effects_have_intervals_and_its_p_values_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = _bias_metrics(store, CheckpointEncoder(tiny_checkpoint(store)))
    assert {metric.task for metric in found} >= {"bias-association:gender-career", "bias-coreference:resolved"}
    for metric in found:
        bounded = metric.low is not None and metric.high is not None
        assert bounded == (metric.metric != "p_value"), metric.task
