"""The stage: what it writes, that it is found again, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_contracts.schemas import EVALUATIONS
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import evaluate as evaluate_module
from pipeline_lib.evaluation.compare import differences, read_evaluations
from pipeline_lib.evaluation.evaluate import EmbeddingScorer, evaluate_baselines, evaluate_checkpoint
from pipeline_lib.evaluation.measure import PER_QUERY, measure
from pipeline_lib.evaluation.tasks import build_tasks
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.records import Outcome, Stage, draft_part

CONFIG = EvaluateConfig(candidates=50, bootstrap=20, min_class_texts=12, similarity_pairs=20)


@pytest.fixture
def trained(store):
    stage = Stage(name="train", version=1)

    def make(key):
        parts = []
        for label in ("step-000010", "step-000020"):
            scratch = store.scratch("train")
            (scratch / "config.json").write_text(label)
            parts.append(store.commit_part(draft_part(stage, f"{key}{label}", label), scratch))
        return Outcome(parts=tuple(parts))

    return store.build(stage, TrainConfig(), {}, make)


@pytest.fixture
def checkpoint(trained, monkeypatch, embed_words):
    monkeypatch.setattr(evaluate_module, "load_embedder", lambda checkpoint, batch_tokens: embed_words)
    return Checkpoint(trained=trained, label="step-000010", tokenizer=trained, shards=ShardConfig())


def test_parts_follow_their_schemas(store, curated, checkpoint):
    found = evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG)
    assert [part.label for part in found.manifest.parts] == ["step-000010-validation"]
    assert pq.read_schema(found.paths("evaluations.parquet")[0]).equals(EVALUATIONS)
    assert pq.read_schema(found.paths("per_query.parquet")[0]).equals(PER_QUERY)
    rows = read_evaluations([found])
    assert {row["kind"] for row in rows} == {"code_search", "text_search", "classification", "similarity"}
    assert {(row["model"], row["step"], row["split"]) for row in rows} == {("step-000010", 10, "validation")}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_a_second_run_embeds_nothing(store, curated, checkpoint, monkeypatch):
    first = evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG)
    monkeypatch.setattr(evaluate_module, "load_embedder", lambda *_: pytest.fail("embedded again"))
    assert evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG).digest == first.digest


def test_two_stores_write_the_same_bytes(store, curated, checkpoint):
    digests = []
    for _ in range(2):
        found = evaluate_checkpoint(store, curated, checkpoint, "validation", CONFIG)
        digests.append(hashlib.sha256(b"".join(p.read_bytes() for p in found.paths("per_query.parquet"))).hexdigest())
        (found.folder / "manifest.json").unlink()
        for record in (store.root / "evaluate" / "parts").glob("*.json"):
            record.unlink()
    assert digests[0] == digests[1]


def test_each_text_is_embedded_once_a_side(curated, embed_words):
    tasks = build_tasks(curated, "validation", CONFIG)
    seen = {"x": [], "y": []}

    def embed(texts, side, progress):
        seen[side].extend(texts)
        return embed_words(texts)

    scorer = EmbeddingScorer("m", 1, embed, tasks)
    measure(scorer, tasks, CONFIG, lambda name: None)
    for texts in seen.values():
        assert len(texts) == len(set(texts))
    assert scorer.texts_embedded == len(seen["x"]) + len(seen["y"])


def test_a_constant_model_scores_chance(curated):
    tasks = build_tasks(curated, "validation", CONFIG)
    constant = EmbeddingScorer("m", 1, lambda texts, side, progress: np.full((len(texts), 4), 0.5, np.float32), tasks)
    found = {m.kind: m.figures for m in measure(constant, tasks, CONFIG, lambda name: None)}
    assert found["code_search"]["mrr"].value == pytest.approx(1 / 25.5)
    assert found["similarity"]["spearman"].value == 0.0
    assert found["classification"]["accuracy"].value < 0.5


def test_a_diverged_model_is_refused(curated):
    tasks = build_tasks(curated, "validation", CONFIG)
    with pytest.raises(UserError, match="not finite: the training diverged"):
        EmbeddingScorer("step-000010", 1, lambda texts, *_: np.full((len(texts), 4), np.nan, np.float32), tasks)


def test_an_unknown_checkpoint_and_an_unknown_split_are_named(store, curated, checkpoint):
    unknown = Checkpoint(checkpoint.trained, "step-000099", checkpoint.tokenizer, checkpoint.shards)
    with pytest.raises(UserError, match="no part 'step-000099'; there are: step-000010, step-000020"):
        evaluate_checkpoint(store, curated, unknown, "validation", CONFIG)
    with pytest.raises(UserError, match="no part 'tset'"):
        evaluate_baselines(store, curated, "tset", CONFIG)


def test_baselines_and_their_paired_differences(store, curated, checkpoint):
    baselines = evaluate_baselines(store, curated, "test", CONFIG)
    assert [part.label for part in baselines.manifest.parts] == ["bm25-test", "tfidf-test"]
    assert {row["step"] for row in read_evaluations([baselines])} == {-1}
    mine = evaluate_checkpoint(store, curated, checkpoint, "test", CONFIG)
    rows = differences(mine, baselines, resamples=50)
    assert {(row["kind"], row["baseline"]) for row in rows} == {
        ("code_search", "bm25"),
        ("text_search", "bm25"),
        ("code_search", "tfidf"),
        ("text_search", "tfidf"),
        ("classification", "tfidf"),
        ("similarity", "tfidf"),
    }
    values = {(r["model"], r["task"], r["metric"]): r["value"] for r in read_evaluations([mine, baselines])}
    for row in rows:
        name = (row["task"], row["metric"])
        expected = values["step-000010", *name] - values[row["baseline"], *name]
        assert row["mean"] == pytest.approx(expected, abs=1e-12)
        assert row["low"] <= row["mean"] <= row["high"]


def test_different_queries_cannot_be_paired(store, curated, checkpoint):
    mine = evaluate_checkpoint(store, curated, checkpoint, "test", CONFIG)
    other = evaluate_baselines(store, curated, "validation", CONFIG)
    with pytest.raises(UserError, match="different queries of code_search_50"):
        differences(mine, other, resamples=10)


def test_no_task_leaves_an_empty_table_and_reasons(store, curated_of, checkpoint):
    found = evaluate_checkpoint(store, curated_of({"validation": []}), checkpoint, "validation", CONFIG)
    assert read_evaluations([found]) == []
    assert set(found.manifest.facts["skipped"]) == {"code_search", "text_search", "classification", "similarity"}


def test_a_real_encoder_of_the_house_can_be_measured(store, curated):
    tokenizer_module = pytest.importorskip("pipeline_lib.tokens.tokenizer")
    encoder_module = pytest.importorskip("pipeline_lib.model.encoder")
    tokenizer = tokenizer_module.train_tokenizer(store, curated, TokenizerConfig(vocab_size=400))
    pair_tokenizer = tokenizer_module.PairTokenizer.load(tokenizer.part_folder())
    sizes = ModelConfig(layers=1, width=16, heads=2, inner=32, positions=32)
    stage = Stage(name="train", version=1)

    def make(key):
        scratch = store.scratch("train")
        encoder_module.Encoder.build(sizes, pair_tokenizer, seed=1).save(scratch)
        return Outcome(parts=(store.commit_part(draft_part(stage, key, "step-000001"), scratch),))

    trained = store.build(stage, TrainConfig(), {}, make)
    shards = ShardConfig(max_x_tokens=24, max_y_tokens=32)
    notes = []
    found = evaluate_checkpoint(
        store,
        curated,
        Checkpoint(trained, "step-000001", tokenizer, shards),
        "validation",
        CONFIG,
        lambda done, total, note="": notes.append((done, total, note)),
    )
    values = {row["kind"]: row["value"] for row in read_evaluations([found]) if row["metric"] in ("mrr", "accuracy")}
    assert 1 / 50 < values["code_search"] <= 1
    assert notes[-1][0] == notes[-1][1] == found.manifest.facts["texts_embedded"]
    assert notes[-1][2].startswith("step-000001: ")


def test_what_is_not_finite_is_named_by_model_task_and_row(store, curated, embed_words):
    tasks = build_tasks(curated, "validation", CONFIG)
    similarity = next(task for task in tasks.tasks if task.kind == "similarity")
    spoilt = similarity.left[2]

    def embed(texts, side, progress=None):
        vectors_ND = embed_words(texts, side).copy()
        vectors_ND[[text == spoilt for text in texts], 1] = np.nan
        return vectors_ND

    with pytest.raises(
        UserError, match=r"^late on \w+: the embedding on the x side of row \d+, .*training diverged"
    ) as failure:
        EmbeddingScorer("late", 10, embed, tasks)
    assert repr(spoilt[:60]) in str(failure.value)


@pytest.mark.parametrize(
    ("kind", "method"), [("text_search", "search"), ("similarity", "similarity"), ("classification", "features")]
)
def test_a_score_that_is_not_finite_is_named_by_model_task_and_row(store, curated, embed_words, kind, method):
    tasks = build_tasks(curated, "validation", CONFIG)
    scorer = EmbeddingScorer("late", 10, embed_words, tasks)
    task = next(task for task in tasks.tasks if task.kind == kind)
    whole = getattr(scorer, method)

    def spoilt(*given):
        found = whole(*given)
        (found[1] if method == "features" else found)[0] = np.nan
        return found

    setattr(scorer, method, spoilt)
    with pytest.raises(UserError, match=rf"^late on {task.name}: .* of row 0, '[^']+', and 0 more of \d+ are not finite"):
        measure(scorer, dataclasses.replace(tasks, tasks=(task,)), CONFIG, lambda name: None)
