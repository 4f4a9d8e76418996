"""Ranks that have less to do, or would decide otherwise, reach every collective as often as the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from benchmarks import gloo
from benchmarks.gloo import run_ranks
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.model.grad_cache import activation_bytes
from pipeline_lib.model.micro_batches import count_micro_batches, cut_micro_batches
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.batches import split_for_ranks
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import ALONE, Ranks, sum_over_ranks
from pipeline_lib.train.job import PRETRAIN, Events, Job
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import Trainer, build_objective

Inputs = tuple[Store, TrainInputs]
ONE_MICRO_BATCH = 1 << 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("agree"), negatives=True, held_out=20)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is found within a minute."""
    monkeypatch.setattr(gloo, "SECONDS", 60.0)


@dataclass(frozen=True)
class Measured:
    """The losses of some steps, over all ranks, and what is measured on held-out pairs."""

    job: Job
    steps: tuple[int, ...] = (0,)

    def __call__(self, ranks: Ranks) -> list[Any]:
        objective = build_objective(self.job, ranks)
        losses = [sum_over_ranks([float(objective.gradients(step).loss)], ranks)[0] for step in self.steps]
        return [*losses, objective.evaluate()]


def alone(job: Job, **changes: Any) -> Job:
    return job.model_copy(update={"config": job.config.model_copy(update={"parallel": "ddp", **changes})})


def assert_as_alone(job: Job, steps: tuple[int, ...] = (0,)) -> None:
    expected = Measured(alone(job), steps)(ALONE)
    for found in run_ranks(2, Measured(job, steps)):
        assert found[:-1] == pytest.approx(expected[:-1], rel=1e-5)
        assert found[-1] == pytest.approx(expected[-1], rel=1e-5)


def shares_of(objective: ContrastiveObjective, step: int) -> list[list[Any]]:
    batch = objective.read_batch(step)
    return [batch.sequences(share) for share in split_for_ranks(batch.lengths(), 2)]


def first_step(objective: ContrastiveObjective, wanted: Callable[[list[list[Any]]], bool]) -> int:
    return next(step for step in range(12) if wanted(shares_of(objective, step)))


def test_a_budget_between_two_ranks_needs_does_not_part_them(inputs: Inputs) -> None:
    config = tiny_config(parallel="fsdp", synchronise="micro_batch", micro_batch_tokens=ONE_MICRO_BATCH)
    probe = build_objective(write_job(*inputs, alone_config(config), key="probe"), ALONE)
    assert isinstance(probe, ContrastiveObjective)

    def needs(shares: list[list[Any]]) -> list[int]:
        tokens = [sum(piece.padded_tokens for piece in cut_micro_batches(share, ONE_MICRO_BATCH)) for share in shares]
        return [activation_bytes(probe.module.backbone.config, n, False, False) for n in tokens]

    step = first_step(probe, lambda shares: len(set(needs(shares))) == 2)
    budget = sum(needs(shares_of(probe, step))) // 2
    job = write_job(*inputs, config.model_copy(update={"activation_bytes": budget}), key="straddling")
    assert_as_alone(job, (step,))


def test_a_rank_with_fewer_texts_than_the_others_passes_makes_as_many(inputs: Inputs) -> None:
    config = tiny_config(parallel="fsdp", synchronise="micro_batch", micro_batch_tokens=1, batch_size=4)
    probe = build_objective(write_job(*inputs, alone_config(config), key="probe"), ALONE)
    assert isinstance(probe, ContrastiveObjective)

    def unlike(shares: list[list[Any]]) -> bool:
        passes = max(count_micro_batches(np.array([*map(len, share)]), 1) for share in shares)
        return min(map(len, shares)) < passes

    step = first_step(probe, unlike)
    assert_as_alone(write_job(*inputs, config, key="few"), (step,))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("pairs", [1, 3])
def test_held_out_pairs_that_do_not_go_round_are_measured_as_by_one(inputs: Inputs, parallel: str, pairs: int) -> None:
    config = tiny_config(parallel=parallel, synchronise="micro_batch", micro_batch_tokens=1, evaluation_pairs=pairs)
    config = config.model_copy(update={"mixture": {"docstring": 1.0}})
    assert_as_alone(write_job(*inputs, config, key=f"held-out-{parallel}-{pairs}"), ())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_language_model_whose_step_has_one_sequence_trains_on_two_ranks(inputs: Inputs, parallel: str) -> None:
    fields = {"steps": 4, "sequence_tokens": 32, "batch_tokens": 64, "threads": 1, "parallel": parallel}
    job = write_job(*inputs, PretrainConfig(**fields), key=f"lm-{parallel}", stage=PRETRAIN)
    objective: Any = build_objective(alone(job), ALONE)
    step = next(step for step in range(4) if len(objective.read_sequences(step)) == 1)
    assert_as_alone(job, (step,))


def alone_config(config: Any) -> Any:
    return config.model_copy(update={"parallel": "ddp"})


@dataclass(frozen=True)
class Trained:
    """The losses of a run that measures held-out pairs with averaged weights on its way."""

    job: Job

    def __call__(self, ranks: Ranks) -> list[float]:
        trainer = Trainer(self.job, build_objective(self.job, ranks), ranks, Events(enabled=False))
        assert trainer.run()
        return [json.loads(line)["loss"] for line in trainer.log.text().splitlines()]


def test_weights_that_were_gathered_to_measure_are_cut_again(inputs: Inputs) -> None:
    config = tiny_config(steps=4, checkpoints=2, evaluation_pairs=16, parallel="fsdp", learning_rate=1e-2)
    expected = Trained(alone(write_job(*inputs, config, key="measured-alone")))(ALONE)
    for losses in run_ranks(2, Trained(write_job(*inputs, config, key="measured"))):
        assert losses == pytest.approx(expected, rel=1e-5)
