"""Runs that stop on one number of processes and go on with another: same samples in each step, same losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from benchmarks.gloo import run_ranks
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.store import files as faults
from pipeline_lib.store.store import Store
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN, Events, Job, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import Trainer, build_objective

Inputs = tuple[Store, TrainInputs]
STEPS = 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("ranks"))


@dataclass(frozen=True)
class Trained:
    """Train until so many steps are done here, as a SIGTERM would end it; returns the pairs of each step."""

    job: Job
    stop_after: int = 0

    def __call__(self, ranks: Ranks) -> list[list[str]]:
        objective = build_objective(self.job, ranks)
        trainer = Trainer(self.job, objective, ranks, Events(enabled=False))
        seen: list[list[str]] = []

        def note() -> None:
            seen.append(objective.pair_ids(trainer.log.last["step"] - 1))
            trainer.stop.raised = len(seen) == self.stop_after

        faults.arm("trainer:after_step", note)
        try:
            assert trainer.run() is not (self.stop_after > 0)
        finally:
            faults.disarm()
        return seen


def run(inputs: Inputs, key: str, legs: Sequence[tuple[int, int, str]], **changes: Any) -> tuple[list[list[str]], list[Any]]:
    """Legs (processes, steps or 0 for the rest, parallel) after each other: the pairs of all steps, and the metrics."""
    store, inputs_ = inputs
    seen: list[list[str]] = []
    for processes, steps, parallel in legs:
        config = tiny_config(steps=STEPS, processes=processes, parallel=parallel, **changes)
        job = write_job(store, inputs_, config, key=key)
        seen += run_ranks(processes, Trained(job, steps))[0]
    part = store.find_part("train", part_key(key, "metrics"))
    assert part is not None
    text = (store.root / part.folder / "metrics.jsonl").read_text()
    return seen, [json.loads(line) for line in text.splitlines()]


def assert_same_run(found: tuple[list[list[str]], list[Any]], expected: tuple[list[list[str]], list[Any]]) -> None:
    assert found[0] == expected[0], "other samples"
    assert [row["step"] for row in found[1]] == list(range(1, STEPS + 1))
    for row, row_expected in zip(found[1], expected[1], strict=True):
        assert row["loss"] == pytest.approx(row_expected["loss"], rel=1e-6)
        assert row["gradient_norm"] == pytest.approx(row_expected["gradient_norm"], rel=1e-4)


@pytest.fixture(scope="module")
def alone(inputs: Inputs) -> tuple[list[list[str]], list[Any]]:
    return run(inputs, "alone", [(1, 0, "ddp")])


def test_r05_one_rank_then_two_cut_over_them(inputs: Inputs, alone: tuple[list[list[str]], list[Any]]) -> None:
    assert_same_run(run(inputs, "one-two", [(1, 4, "ddp"), (2, 0, "fsdp")]), alone)


def test_r05_batches_from_one_dataset_are_the_same_on_any_number_of_ranks(inputs: Inputs) -> None:
    config = {"batches_from": "one_dataset", "mixture": {"docstring": 0.5, "neighbour": 0.5}}
    expected = run(inputs, "one-dataset", [(1, 0, "ddp")], **config)
    assert_same_run(run(inputs, "one-dataset-legs", [(1, 3, "ddp"), (2, 0, "ddp")], **config), expected)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_r05_four_ranks_then_two_then_one(inputs: Inputs, alone: tuple[list[list[str]], list[Any]], parallel: str) -> None:
    assert_same_run(run(inputs, f"four-two-one-{parallel}", [(4, 3, parallel), (2, 3, parallel), (1, 0, "ddp")]), alone)


@pytest.mark.slow
def test_cut_weights_that_are_resumed_end_in_the_same_bytes(inputs: Inputs) -> None:
    store, _ = inputs
    legs: dict[str, list[tuple[int, int, str]]] = {"whole": [(2, 0, "fsdp")], "halves": [(2, 5, "fsdp"), (2, 0, "fsdp")]}
    for key, leg in legs.items():
        run(inputs, key, leg, synchronise="micro_batch", checkpoints=1)
    whole, halves = (store.find_part("train", part_key(key, "step-000009")) for key in legs)
    assert whole is not None
    assert halves is not None
    assert whole.digest == halves.digest


@pytest.mark.slow
def test_a_language_model_cut_over_two_ranks_is_the_same_run(inputs: Inputs) -> None:
    store, inputs_ = inputs
    losses = []
    for processes in (1, 2):
        config = PretrainConfig(
            processes=processes,
            steps=4,
            batch_tokens=512,
            sequence_tokens=24,
            micro_batch_tokens=64,
            threads=1,
            parallel="fsdp",
        )
        job = write_job(store, inputs_, config, key=f"lm-{processes}", stage=PRETRAIN)
        run_ranks(processes, Trained(job))
        part = store.find_part("pretrain", part_key(job.key, "model"))
        assert part is not None
        text = (store.root / part.folder / "metrics.jsonl").read_text()
        losses.append([json.loads(line)["loss"] for line in text.splitlines()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
