"""The declared rule, its sentence, and that the test split stays shut."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from data_contracts.schemas import row_id
from pipeline_lib.artifact import Outcome, draft_part
from pipeline_lib.config import EvaluateConfig, SelectConfig, ShardConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import evaluate as evaluate_module
from pipeline_lib.evaluation.evaluate import (
    STAGE,
    EvaluationRun,
    evaluate_baselines,
    evaluate_checkpoint,
)
from pipeline_lib.evaluation.measure import Measurement, write_measurements
from pipeline_lib.evaluation.metrics import mean_interval
from pipeline_lib.evaluation.select import read_selection, select
from pipeline_lib.model.checkpoint import Checkpoint

METRICS = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
CONFIG = EvaluateConfig(candidates=50, bootstrap=20, min_class_texts=12, similarity_pairs=20)


class Named:
    def __init__(self, name, step):
        self.name, self.step = name, step


@pytest.fixture
def evaluation(store):
    """Writes the evaluation of a checkpoint whose every query of a kind has the value given."""

    def write(step, split="validation", **values):
        name = f"step-{step:06d}"
        measurements = []
        for kind, value in values.items():
            spread = np.linspace(-0.01, 0.01, 40)
            figures = {METRICS[kind]: mean_interval(np.full(40, value), 10, 1)}
            ids = [str(i) for i in range(40)]
            measurements.append(Measurement(f"{kind}_task", kind, figures, ids, ["g"] * 40, value + spread, np.arange(40.0)))

        def make(key):
            scratch = store.scratch("evaluate")
            write_measurements(scratch, Named(name, step), split, measurements)
            return Outcome(parts=(store.commit_part(draft_part(STAGE, key, f"{name}-{split}"), scratch),))

        seed = int(row_id(str(values)), 16) % 2**32
        run = EvaluationRun(model=name, split=split, evaluate=CONFIG.model_copy(update={"seed": seed}))
        return store.build(STAGE, run, {}, make)

    return write


def chosen(store, evaluations, **options):
    return read_selection(select(store, evaluations, SelectConfig(bootstrap=50, **options)))


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
    assert scores["step-000200"] == pytest.approx(0.4 + 0.3 + 0.2 + 0.1 * 0.5)
    assert scores["step-000100"] == pytest.approx(0.4 * 0.8 + 0.3 + 0.2 * 5 / 6 + 0.1)


def test_the_sentence_carries_the_numbers(store, evaluation):
    sentence = chosen(
        store,
        [
            evaluation(100, code_search=0.40, similarity=0.40),
            evaluation(200, code_search=0.50, similarity=0.38),
        ],
    )["sentence"]
    assert "step-000200 was chosen: weighted score 0.99" in sentence
    assert "Code search peaked there." in sentence
    assert "Similarity alone peaked at step-000100 with 0.400" in sentence


def test_no_kind_rules_by_its_scale(store, evaluation):
    """A kind with values ten times as large moves the choice by its weight only."""
    first = evaluation(100, code_search=0.05, classification=0.90)
    second = evaluation(200, code_search=0.06, classification=0.80)
    assert chosen(store, [first, second])["chosen"] == "step-000200"


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
            select(store, wrong, SelectConfig())


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
    monkeypatch.setattr(evaluate_module, "load_embedder", lambda checkpoint, batch_tokens: embed_words)
    trained = evaluate_module.only_part(curated, "train")  # stands for a checkpoint that this store made
    checkpoint = Checkpoint(trained=trained, label="train", tokenizer=trained, shards=ShardConfig())
    test_folder, validation_folder = (str(curated.part_folder(split)) for split in ("test", "validation"))
    sys.addaudithook(_watch)
    _watching = True
    try:
        baselines = evaluate_baselines(store, curated, "validation", CONFIG)
        evaluation = evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG)
        select(store, [evaluation, baselines], SelectConfig(bootstrap=20))
        reads = [path for path in _opened if path.startswith(test_folder)]
        assert reads == []
        assert any(path.startswith(validation_folder) for path in _opened), "the hook sees no reads at all"
        evaluate_baselines(store, curated, "test", CONFIG)
        assert any(path.startswith(test_folder) for path in _opened), "the hook would not have seen the test's reads"
    finally:
        _watching = False


def test_selection_does_without_the_test_parts_files(store, curated, monkeypatch, embed_words):
    monkeypatch.setattr(evaluate_module, "load_embedder", lambda checkpoint, batch_tokens: embed_words)
    trained = evaluate_module.only_part(curated, "train")
    checkpoint = Checkpoint(trained=trained, label="train", tokenizer=trained, shards=ShardConfig())
    shutil.rmtree(curated.part_folder("test"))  # reads past Python's audit events would fail here
    evaluation = evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG)
    assert read_selection(select(store, [evaluation], SelectConfig(bootstrap=20)))["chosen"] == "train"
