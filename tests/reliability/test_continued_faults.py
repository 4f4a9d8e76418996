"""Killed while it keeps a state for a longer run, lengthens another one or stops early: the end is that of a run left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from typing import Any

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.training import EarlyStoppingConfig
from pipeline_lib.store import files as faults
from pipeline_lib.store.store import Store
from pipeline_lib.train.job import Continued, Events, Job, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import work

Inputs = tuple[Store, TrainInputs]
SILENT = Events(enabled=False)
OFTEN = 1e-9  # a state after each step
STABLE = {"schedule": "warmup-stable-decay", "decay_share": 0.5}
# rates that do harm: the first checkpoints are the best
HARMFUL = {
    "checkpoints": 6,
    "evaluation_pairs": 30,
    "learning_rate": 0.5,
    "weight_average": 0.0,
    "min_effective_rank": 0.0,
    "early_stopping": EarlyStoppingConfig(patience=2),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("continued"), held_out=40)


def contents(store: Store, key: str) -> dict[str, str]:
    """Label and digest of every part of a run."""
    keys = {part_key(key, label): label for label in (*(f"step-{n:06d}" for n in range(30)), "metrics", "state-000006")}
    return {keys[part.key]: part.digest for part in store.parts("train", "") if part.key in keys}


def metrics_of(store: Store, key: str, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    part = store.find_part("train", part_key(key, "metrics"))
    assert part is not None
    return [json.loads(line) for line in (store.root / part.folder / name).read_text().splitlines()]


def run_child(job: Job, point: str, number: int) -> int:
    """Train in a forked process that kills itself where a place is passed for the `number`-th time; returns its exit code."""

    def child() -> None:
        passes = iter(range(1, number + 1))
        faults.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL) if next(passes, 0) == number else None)
        work(job, SILENT)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def killed(job: Job, *kills: tuple[str, int]) -> None:
    for point, number in kills:
        assert run_child(job, point, number) == -signal.SIGKILL
    work(job, SILENT)


@pytest.mark.parametrize("often", [True, False])
def test_the_state_before_the_decay_is_kept_whatever_is_killed(inputs: Inputs, often: bool) -> None:
    store = inputs[0]
    config = tiny_config(**STABLE, steps=12)
    work(write_job(*inputs, config, key=f"left-{often}"), SILENT)
    whole = contents(store, f"left-{often}")
    assert set(whole) == {"step-000004", "step-000008", "step-000012", "state-000006", "metrics"}
    config = config.model_copy(update={"resume_every_seconds": OFTEN} if often else {})
    # after the sixth step its state is saved first; the kill comes before its copy is kept, then in the copy, then behind it
    kills = [("state:after_commit", 6 if often else 1), ("part:before_record", 1), ("trainer:after_step", 1)]
    killed(write_job(*inputs, config, key=f"killed-{often}"), *kills)
    assert contents(store, f"killed-{often}") == whole


def test_a_lengthened_run_is_killed_and_goes_on(inputs: Inputs) -> None:
    store = inputs[0]
    work(write_job(*inputs, tiny_config(steps=6, checkpoints=1), key="short"), SILENT)
    part, metrics = (store.find_part("train", part_key("short", label)) for label in ("step-000006", "metrics"))
    assert part is not None and metrics is not None
    continued = Continued(run="short", step=6, metrics=str(store.root / metrics.folder / "metrics.jsonl"))
    changes = {"start": str(store.root / part.folder), "start_digest": part.digest, "continued": continued}
    for key, often in (("long", {}), ("long-killed", {"resume_every_seconds": OFTEN})):
        job = write_job(*inputs, tiny_config(steps=12, checkpoints=2, **often), key=key).model_copy(update=changes)
        killed(job, *([("trainer:after_step", 1), ("state:before_commit", 2), ("trainer:after_step", 2)] if often else []))
    assert contents(store, "long-killed") == contents(store, "long")
    assert set(contents(store, "long")) == {"step-000009", "step-000012", "metrics"}
    rows = metrics_of(store, "long")
    assert [row["step"] for row in rows] == list(range(1, 13)) and rows[:6] == metrics_of(store, "short")
    assert [row["pairs_seen"] for row in rows] == [16 * step for step in range(1, 13)]
    assert rows[6]["learning_rate"] == pytest.approx(rows[0]["learning_rate"]), "the warm-up comes again"


@pytest.mark.parametrize("kills", [[("trainer:after_step", 5)], [("trainer:after_step", 7)], [("part:before_record", 16)]])
def test_a_run_that_stops_early_stops_there_after_a_kill(inputs: Inputs, kills: list[tuple[str, int]]) -> None:
    store, key = inputs[0], f"harmed-{kills[0][0][:4]}-{kills[0][1]}"
    work(write_job(*inputs, tiny_config(**HARMFUL), key=key), SILENT)
    whole = contents(store, key)
    losses = {row["step"]: row["loss"] for row in metrics_of(store, key, "evaluation.jsonl")}
    last = max(losses)
    assert last < 12 and min(losses, key=lambda step: losses[step]) == last - 4, losses
    assert set(whole) == {*(f"step-{step:06d}" for step in losses), "metrics"}
    assert [row["step"] for row in metrics_of(store, key)] == list(range(1, last + 1))
    at_once = {"resume_every_seconds": OFTEN, "async_checkpointing": False}  # so that what is written is in order
    job = write_job(*inputs, tiny_config(**HARMFUL, **at_once), key=f"{key}-killed")
    for point, number in kills:
        assert run_child(job, point, number) == -signal.SIGKILL
    if kills[0][1] == 16:  # behind ten states and five checkpoints: it had stopped, and only the metrics were missing
        assert set(contents(store, job.key)) == set(whole) - {"metrics"}
    work(job, SILENT)
    assert contents(store, job.key) == whole
