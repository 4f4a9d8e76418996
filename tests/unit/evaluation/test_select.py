"""The declared rule, its sentence, and that the test split stays shut."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data_contracts.schemas import row_id
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.evaluation import EvaluateConfig, SelectConfig, SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import mean_interval
from pipeline_lib.evaluation.select import Standing, kind_difference, read_selection, score_difference, select
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, ModelId
from pipeline_lib.evaluation.suites.registry import open_model, open_suite
from pipeline_lib.evaluation.suites.suite import Figure, Suite, SuiteResult
from pipeline_lib.model.checkpoint import Checkpoint

METRICS = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
CONFIG = EvaluateConfig(candidates=50, bootstrap=20, min_class_texts=12, similarity_pairs=20)


class Planted(Suite):
    """A suite whose values are given: those of every query of one kind."""

    splits = ("validation", "test")

    def __init__(self, task, value_N):
        self.kind = next(kind for kind in METRICS if task.startswith(kind))
        self.name = f"{task}_task"
        seed = int(row_id(str(value_N.tolist())), 16) % 2**32
        super().__init__(Path(), SuiteConfig(seed=seed, bootstrap=10))
        self.value_N = value_N

    def paths(self, split):
        return ()

    def texts(self, split):
        return iter(())

    def run(self, model, split, progress=None):
        n, metric = len(self.value_N), METRICS[self.kind]
        if not n:
            return SuiteResult((), {"skipped": {self.kind: "too little"}})
        ids = [str(i) for i in range(n)]
        return SuiteResult(
            (Figure(self.name, metric, mean_interval(self.value_N, 10, 1), ids, self.value_N, np.arange(float(n))),)
        )


@pytest.fixture
def evaluation(store):
    """Writes the evaluations of a checkpoint whose every query of a kind has the value given, or the values given."""

    def write(step, split="validation", n=40, **values):
        class Named:
            id = ModelId(f"step-{step:06d}", f"weights of {step}", step)
            encode = None  # an encoder, though none that is asked

        return [
            evaluate_suite(
                store,
                Named(),
                Planted(task, value if isinstance(value, np.ndarray) else value + np.linspace(-0.01, 0.01, n)),
                split,
            )
            for task, value in (values or {"code_search": np.zeros(0)}).items()
        ]

    return write


def measured(store, models, curated, split):
    """Models on the held-out suites that fit them."""
    suites = held_out_suites(curated, CONFIG)
    return [
        evaluate_suite(store, model, suite, split)
        for model in models
        for suite in suites
        if suite.kind in getattr(model, "kinds", METRICS)
    ]


def chosen(store, evaluations, **options):
    flat = [one for found in evaluations for one in found]
    return read_selection(select(store, flat, SelectConfig(bootstrap=50, **options)))


def test_the_weighted_score_by_hand(store, evaluation):
    found = chosen(
        store,
        [
            evaluation(100, code_search=0.40, text_search=0.30, classification=0.50, similarity=0.40),
            evaluation(200, code_search=0.50, text_search=0.30, classification=0.60, similarity=0.20),
        ],
    )
    assert found["chosen"] == "step-000200"
    scores = {row["label"]: row["score"] for row in found["checkpoints"]}
    assert scores["step-000200"] == pytest.approx((0.4 + 0.4 + 0.4 + 0.04 * 0.5) / 1.24)
    assert scores["step-000100"] == pytest.approx((0.4 * 0.8 + 0.4 + 0.4 * 5 / 6 + 0.04) / 1.24)


def test_the_sentence_carries_the_numbers(store, evaluation):
    sentence = chosen(
        store,
        [
            evaluation(100, code_search=0.40, similarity=0.40),
            evaluation(200, code_search=0.50, similarity=0.38),
        ],
    )["sentence"]
    assert "step-000200 was chosen: weighted score 0.99" in sentence and "ahead of step-000100 with 0.8" in sentence
    assert "Code search peaked there." in sentence
    assert "Similarity alone peaked at step-000100 with 0.400" in sentence


def test_no_kind_rules_by_its_scale(store, evaluation):
    """A kind with values ten times as large moves the choice by its weight only."""
    first = evaluation(100, code_search=0.05, classification=0.90)
    second = evaluation(200, code_search=0.06, classification=0.80)
    assert chosen(store, [first, second])["chosen"] == "step-000200"


def noisy(mean, seed, spread=0.4):
    drawn = np.random.default_rng(seed).uniform(-spread, spread, 40)
    return mean + drawn - drawn.mean()


def test_within_the_noise_the_later_is_taken_and_it_says_so(store, evaluation):
    found = chosen(
        store,
        [
            evaluation(100, code_search=noisy(0.30, 1)),  # surely behind
            evaluation(200, code_search=noisy(0.62, 2)),  # the highest
            evaluation(300, code_search=noisy(0.60, 3)),
            evaluation(400, code_search=noisy(0.25, 4)),  # surely behind, and later
        ],
    )
    assert found["chosen"] == "step-000300"
    assert "the latest of 2 whose score is within the noise of the highest (step-000200 with 1.000, +0.0" in found["sentence"]
    by_label = {row["label"]: row for row in found["checkpoints"]}
    assert by_label["step-000400"]["behind_low"] > 0 > by_label["step-000300"]["behind_low"]


def test_a_small_validation_split_is_named_as_what_decides(store, evaluation):
    found = chosen(store, [evaluation(step, code_search=0.4, similarity=0.4) for step in (100, 200)])
    assert "The validation split is small (code search 40; fewer than 200 queries)" in found["sentence"]
    assert "small" not in chosen(store, [evaluation(100, code_search=0.4)])["sentence"], "one checkpoint is no choice"
    assert "small" not in chosen(store, [evaluation(step, n=200, code_search=0.4) for step in (100, 200)])["sentence"]


def test_a_difference_beyond_the_noise_is_not_given_away(store, evaluation):
    """The same queries go up and down together: paired, half a per cent is a difference."""
    shape = noisy(0.0, 5)
    found = chosen(store, [evaluation(100, code_search=0.600 + shape), evaluation(200, code_search=0.597 + shape)])
    assert found["chosen"] == "step-000100"


def test_a_kind_of_many_tasks_weighs_no_more(store, evaluation):
    """Three text search tasks share 0.4; a task of ten times the values counts by how near it is to its own best."""
    first = evaluation(100, text_search_a=0.05, text_search_b=0.9, text_search_c=0.9, classification=0.8)
    second = evaluation(200, text_search_a=0.06, text_search_b=0.9, text_search_c=0.9, classification=0.7)
    found = chosen(store, [first, second])
    assert found["weights"] == pytest.approx({"text_search": 0.5, "classification": 0.5})
    assert found["task_weights"]["text_search_a_task"] == pytest.approx(0.5 / 3)
    scores = {row["label"]: row["score"] for row in found["checkpoints"]}
    assert scores["step-000100"] == pytest.approx(0.5 / 3 * (5 / 6 + 2) + 0.5)
    assert found["chosen"] == "step-000100"


def test_a_tasks_own_weight_counts_among_those_of_its_kind(store, evaluation):
    rows = [evaluation(100, text_search_a=0.5, text_search_b=0.4), evaluation(200, text_search_a=0.4, text_search_b=0.5)]
    assert chosen(store, rows, task_weights={"text_search_a_task": 3.0})["chosen"] == "step-000100"
    found = chosen(store, rows, task_weights={"text_search_a_task": 0.0})
    assert found["chosen"] == "step-000200" and found["task_weights"] == {"text_search_b_task": 1.0}


def test_similarity_stays_below_a_tenth(store, evaluation):
    for others in ({"code_search": 0.5}, {"classification": 0.5, "text_search": 0.5}):
        assert chosen(store, [evaluation(100, similarity=0.5, **others)])["weights"]["similarity"] < 0.1


def test_equal_scores_go_to_the_later_whatever_the_order(store, evaluation):
    rows = [evaluation(step, code_search=0.5) for step in (300, 100, 200)]
    assert chosen(store, rows)["chosen"] == "step-000300"


def test_kinds_that_could_not_be_measured_leave_their_weight_to_the_others(store, evaluation):
    found = chosen(store, [evaluation(100, code_search=0.5, text_search=0.5), evaluation(200, code_search=0.6)])
    assert found["weights"] == {"code_search": 1.0}
    assert found["chosen"] == "step-000200"


def test_without_any_task_the_last_is_taken_and_it_says_so(store, evaluation):
    found = chosen(store, [evaluation(100), evaluation(200)])
    assert found["chosen"] == "step-000200"
    assert "because it is the last" in found["sentence"]


def test_a_negative_correlation_neither_helps_nor_breaks(store, evaluation):
    found = chosen(
        store, [evaluation(100, code_search=0.5, similarity=-0.1), evaluation(200, code_search=0.5, similarity=-0.2)]
    )
    assert found["chosen"] == "step-000200"
    assert all(0 <= row["score"] <= 1 for row in found["checkpoints"])


def test_the_best_on_test_is_not_what_is_chosen(store, evaluation):
    validation = [evaluation(100, code_search=0.6), evaluation(200, code_search=0.5)]
    test = [evaluation(100, "test", code_search=0.5), evaluation(200, "test", code_search=0.7)]
    assert chosen(store, validation)["chosen"] == "step-000100"
    for wrong in (test, validation + test):
        with pytest.raises(UserError, match="validation only"):
            select(store, [one for found in wrong for one in found], SelectConfig())


def test_checkpoints_of_different_queries_are_not_compared(store, evaluation):
    rows = [evaluation(100, code_search=0.6), evaluation(200, code_search=0.5)]
    standings = [Standing(f"step-{step:06d}", row) for step, row in zip((100, 200), rows, strict=True)]
    task = standings[1].tasks["code_search_task"]
    others = dataclasses.replace(task.queries, ids=tuple(f"other-{id_}" for id_ in task.queries.ids))
    standings[1].tasks["code_search_task"] = dataclasses.replace(task, queries=others)
    with pytest.raises(UserError, match="measured on different queries of code_search_task"):
        score_difference(*standings, {"code_search_task": 1.0}, {"code_search_task": 0.6}, SelectConfig(bootstrap=20))


def test_a_kinds_interval_draws_its_tasks_together(store, evaluation):
    """The mean of the tasks' own bounds would be wider: their noises rarely add up."""
    drawn = {f"text_search_{n}": (noisy(0.5, 2 * n), noisy(0.4, 2 * n + 1)) for n in range(4)}
    rows = [evaluation(step, **{name: pair[at] for name, pair in drawn.items()}) for at, step in enumerate((100, 200))]
    standings = [Standing(f"step-{step:06d}", row) for step, row in zip((100, 200), rows, strict=True)]
    weights = dict.fromkeys(standings[0].tasks, 0.25)
    found = kind_difference(*standings, "text_search", weights, SelectConfig(bootstrap=300, seed=5))
    resamples = [np.random.default_rng(5 + n).integers(0, 40, (300, 40)) for n in range(4)]
    loop = np.mean([(a - b)[rows_RN].mean(1) for rows_RN, (a, b) in zip(resamples, drawn.values(), strict=True)], axis=0)
    assert found.value == pytest.approx(0.1)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), atol=1e-12, rtol=0)


def test_nothing_to_choose_from(store):
    with pytest.raises(UserError, match="no evaluated checkpoint"):
        select(store, [], SelectConfig())


_opened: list[str] = []
_watching = False


def _watch(event, args):
    if _watching and event == "open" and isinstance(args[0], str | bytes):
        _opened.append(str(args[0]))


def test_selection_never_opens_the_test_part(store, curated, monkeypatch, embed_words):
    global _watching
    monkeypatch.setattr(CheckpointEncoder, "encode", lambda self, texts, side, progress: embed_words(texts))
    monkeypatch.setattr(CheckpointEncoder, "for_task", lambda self, *names: self)  # its tokenizer is none
    trained = curated.only("train")  # stands for a checkpoint that this store made
    checkpoint = Checkpoint(trained=trained, label="train", tokenizer=trained, shards=ShardConfig())
    test_folder, validation_folder = (str(curated.part_folder(split)) for split in ("test", "validation"))
    sys.addaudithook(_watch)
    _watching = True
    try:
        models = [open_model("bm25"), open_model("tfidf"), CheckpointEncoder(checkpoint)]
        select(store, measured(store, models, curated, "validation"), SelectConfig(bootstrap=20))
        reads = [path for path in _opened if path.startswith(test_folder)]
        assert reads == []
        assert any(path.startswith(validation_folder) for path in _opened), "the hook sees no reads at all"
        measured(store, models[:2], curated, "test")
        assert any(path.startswith(test_folder) for path in _opened), "the hook would not have seen the test's reads"
    finally:
        _watching = False


def test_suites_count_by_their_validation_split_alone(store, evaluation, tmp_path, embed_words):
    """Row C08, for public suites: the test file lies beside the one that is read, and is never opened."""
    global _watching
    folder = tmp_path / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    pairs = [("red cat", "red cat", 5.0), ("red cat", "blue dog", 0.0), ("a b c", "a b d", 3.0), ("one two", "one", 2.0)]
    for name in ("sts-dev.csv", "sts-test.csv"):
        rows = [f"g\tf\t2012\t{i}\t{grade}\t{x}\t{y}\n" for i, (x, y, grade) in enumerate(pairs)]
        (folder / name).write_text("".join(rows))
    suite = open_suite("sts-b", tmp_path, SuiteConfig(bootstrap=20))

    class Words:
        id = ModelId("step-000100", "words", 100)
        encode = staticmethod(embed_words)

    sys.addaudithook(_watch)
    _watching = True
    try:
        rows = [evaluation(100, code_search=0.5), [evaluate_suite(store, Words(), suite, "validation")]]
        found = chosen(store, rows)
        assert found["task_weights"].keys() == {"code_search_task", "sts-b"}
        assert found["checkpoints"][0]["tasks"]["sts-b"] > 0.5
        assert any(path.endswith("sts-dev.csv") for path in _opened), "the hook sees no reads at all"
        assert not any(path.endswith("sts-test.csv") for path in _opened)
    finally:
        _watching = False
    with pytest.raises(UserError, match="validation only"):
        select(store, [*rows[0], *rows[1], evaluate_suite(store, Words(), suite, "test")], SelectConfig())


def test_selection_does_without_the_test_parts_files(store, curated, monkeypatch, embed_words):
    monkeypatch.setattr(CheckpointEncoder, "encode", lambda self, texts, side, progress: embed_words(texts))
    monkeypatch.setattr(CheckpointEncoder, "for_task", lambda self, *names: self)  # its tokenizer is none
    trained = curated.only("train")
    checkpoint = Checkpoint(trained=trained, label="train", tokenizer=trained, shards=ShardConfig())
    shutil.rmtree(curated.part_folder("test"))  # reads past Python's audit events would fail here
    found = measured(store, [CheckpointEncoder(checkpoint)], curated, "validation")
    assert read_selection(select(store, found, SelectConfig(bootstrap=20)))["chosen"] == "train"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_figure_that_is_not_finite_is_never_selected_on(store, evaluation, monkeypatch, value):
    good = evaluation(100, code_search=0.40)
    values = np.full(40, 0.5)
    values[3] = value
    with pytest.raises(UserError, match=r"^step-000200 on code_search_task: mrr's value of row 3, '3', .* not finite"):
        evaluation(200, code_search=values)
    # one that was written before figures were looked at
    monkeypatch.setattr("pipeline_lib.evaluation.suites.evaluate.require_finite", lambda *_: None)
    spoilt = evaluation(200, code_search=values)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^step-000200 on code_search_task: the value of row 3, '3', and 0 more of 40"):
        chosen(store, [good, spoilt])
