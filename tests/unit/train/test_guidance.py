"""False negatives by score and a guide's terms in a step of the trainer: counted, resumable by step, alike however computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import tiny_config, write_curated, write_job

from benchmarks.gloo import run_ranks
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.training import FalseNegativesConfig, MatryoshkaConfig, TeacherConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import text_hashes
from pipeline_lib.tokens.guide import Cleaned, ConsistencyWork, embed_training_texts, keep_consistent
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import ALONE, Ranks, sum_over_ranks
from pipeline_lib.train.job import ArtifactRef, Events, Job
from pipeline_lib.train.launch import TrainInputs, train
from pipeline_lib.train.trainer import Trainer, build_objective

BY_GUIDE = FalseNegativesConfig(by="guide", margin=-0.1)
TAUGHT = TeacherConfig(kl_weight=0.5, margin_mse_weight=0.5)


def by_hash(texts: Sequence[str], side: str) -> np.ndarray:
    """Vectors that depend on nothing but text and side."""
    rows = (
        np.random.default_rng([int(half) for half in pair] + [int(side == "x")]).normal(size=7) for pair in text_hashes(texts)
    )
    vectors_ND = np.stack(list(rows))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Made:
    """What a job is made of."""

    store: Store
    inputs: TrainInputs

    def job(self, key: str, **changes: Any) -> Job:
        """With the guide."""
        assert self.inputs.guide is not None
        config = tiny_config(token_dropout=0.0, **changes)
        return write_job(self.store, self.inputs, config, key=key).model_copy(
            update={"guide": ArtifactRef.of(self.inputs.guide)}
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    store = Store(tmp_path_factory.mktemp("guided"))
    curated = write_curated(store, negatives=True)
    tokenizer = train_tokenizer(store, curated, TokenizerConfig(vocab_size=400))
    shards = write_shards(store, curated, tokenizer, ShardConfig(max_x_tokens=12, max_y_tokens=24))
    guide = embed_training_texts(store, curated, "ab" * 12, by_hash)
    return Made(store, TrainInputs(shards, tokenizer, guide=guide))


def step_of(job: Job, step: int = 0) -> tuple[float, int | None, torch.Tensor]:
    """Loss, entries left out, and the gradient of every weight in one row."""
    objective = build_objective(job, ALONE)
    assert isinstance(objective, ContrastiveObjective)
    figures = objective.gradients(step)
    gradient = torch.cat([p.grad.flatten() for p in objective.module.parameters() if p.grad is not None])
    return float(figures.loss), None if figures.masked is None else int(figures.masked), gradient


def test_gradient_caching_changes_nothing_and_all_is_counted(made: Made) -> None:
    plain = step_of(made.job("plain"))
    for name, rule in (("own", FalseNegativesConfig(by="own", margin=-0.02)), ("guide", BY_GUIDE)):
        teacher = TAUGHT if name == "guide" else TeacherConfig()
        words: dict[str, Any] = {"false_negatives": rule, "teacher": teacher}
        loss, masked, gradient = step_of(made.job(name, **words))
        cached = step_of(made.job(f"{name}-cached", activation_bytes=1, **words))
        assert masked is not None and 0 < masked == cached[1]
        assert loss == pytest.approx(cached[0], rel=1e-5)
        torch.testing.assert_close(gradient, cached[2], atol=1e-6, rtol=1e-3)
        assert loss != pytest.approx(plain[0], rel=1e-4)
    assert plain[1] is None


def test_prefixes_have_the_whole_vectors_false_negatives(made: Made) -> None:
    """As many of each prefix as of the whole; by each prefix's own scores there would be others."""
    rule = FalseNegativesConfig(by="own", margin=-0.02)
    alone = step_of(made.job("whole", false_negatives=rule))[1]
    dims = MatryoshkaConfig(dims=(4, 32))
    both = step_of(made.job("both", false_negatives=rule, matryoshka=dims))
    cached = step_of(made.job("both-cached", false_negatives=rule, matryoshka=dims, activation_bytes=1))
    assert alone and both[1] == cached[1] == 2 * alone
    assert both[0] == pytest.approx(cached[0], rel=1e-5)
    apart = rule.model_copy(update={"vectors": "prefix"})
    assert step_of(made.job("apart", false_negatives=apart, matryoshka=dims))[1] != 2 * alone


def test_the_first_steps_are_the_plain_loss(made: Made) -> None:
    rule = FalseNegativesConfig(by="own", margin=-0.02, unmasked_steps=1)
    plain, warm = (step_of(made.job(key, **words)) for key, words in (("a", {}), ("b", {"false_negatives": rule})))
    assert warm[0] == plain[0] and warm[1] == 0
    assert step_of(made.job("b", false_negatives=rule), 1)[1]


def test_a_step_is_counted_in_the_metrics(made: Made) -> None:
    job = made.job("counted", false_negatives=BY_GUIDE, steps=2, warmup_steps=1, checkpoints=1)
    trainer = Trainer(job, build_objective(job, ALONE), ALONE, Events(enabled=False))
    assert trainer.run()
    rows = [json.loads(line) for line in trainer.log.text().splitlines()]
    assert all(isinstance(row["masked"], int) and row["masked"] > 0 for row in rows)
    plain = made.job("uncounted", steps=1, warmup_steps=0, checkpoints=1)
    trainer = Trainer(plain, build_objective(plain, ALONE), ALONE, Events(enabled=False))
    assert trainer.run()
    assert "masked" not in trainer.log.text()


def test_a_loss_that_reads_a_guide_wants_one(made: Made) -> None:
    inputs = TrainInputs(made.inputs.shards, made.inputs.tokenizer)
    with pytest.raises(UserError, match=r"set guide\.model"):
        train(made.store, inputs, tiny_config(teacher=TAUGHT), made.job("none").model)


def test_defaults_are_no_part_of_a_key() -> None:
    fields = TrainConfig().key_fields()
    assert "false_negatives" not in fields and "teacher" not in fields
    assert "false_negatives" in TrainConfig(false_negatives=BY_GUIDE).key_fields()
    by = {vectors: FalseNegativesConfig(by="own", vectors=vectors).key_fields() for vectors in ("whole", "prefix")}
    assert by["whole"] == {**by["prefix"], "vectors": "whole"}, "what was made by each prefix's own has the key that it had"


def test_inconsistent_pairs_are_in_no_shard(tmp_path: Path) -> None:
    store = Store(tmp_path)
    curated = write_curated(store, held_out=12)
    tokenizer = train_tokenizer(store, curated, TokenizerConfig(vocab_size=400))
    guide = embed_training_texts(store, curated, "ab" * 12, by_hash)
    kept = keep_consistent(store, curated, guide, ConsistencyWork(top=20, block=60))
    config = ShardConfig(max_x_tokens=12, max_y_tokens=24)
    shards, whole = (write_shards(store, of, tokenizer, config) for of in (Cleaned(curated, kept), curated))
    rows = {part.label: part.counts.n_out for part in shards.manifest.parts}
    assert 0 < rows["train-docstring"] + rows["train-neighbour"] == kept.manifest.counts.n_out < 180
    assert shards.manifest.inputs["curated"] == curated.digest
    held_out = {part.key for part in whole.manifest.parts if part.label.startswith("validation")}
    assert held_out and held_out <= {part.key for part in shards.manifest.parts}


@dataclass(frozen=True)
class Step:
    """Loss and count of a step over all ranks."""

    job: Job

    def __call__(self, ranks: Ranks) -> list[float]:
        figures = build_objective(self.job, ranks).gradients(0)
        assert figures.masked is not None
        return sum_over_ranks([float(figures.loss), float(figures.masked)], ranks)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["own", "guide"])
def test_two_processes_are_one(made: Made, by: str) -> None:
    words: dict[str, Any] = {"false_negatives": FalseNegativesConfig(by=by, margin=-0.02), "parallel": "ddp"}
    job = made.job(f"ranks-{by}", teacher=TAUGHT, **words)
    expected = Step(job)(ALONE)
    for found in run_ranks(2, Step(job)):
        assert found == pytest.approx(expected, rel=1e-5)
