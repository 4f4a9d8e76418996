"""Killed, stopped, poisoned: the trainer goes on to the same bytes, or stops and says where.

The children are forked, so that each costs no import; torchrun and the launcher around them are in test_training_launch.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import TrainingFailed
from pipeline_lib.store import files as faults
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.batches import BatchPlan
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN, Events, Job, checkpoint_labels, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import Trainer, build_objective, work

Inputs = tuple[Store, TrainInputs]
SILENT = Events(enabled=False)
OFTEN = 1e-9  # a state after each step


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("training"))


def contents(store: Store, job: Job) -> dict[str, str]:
    """The digest of every part of a finished run; the label of one that is missing has none."""
    labels = [*checkpoint_labels(job).values(), *([] if job.stage == PRETRAIN else ["metrics"])]
    parts = {label: store.find_part(job.stage.name, part_key(job.key, label)) for label in labels}
    return {label: part.digest if part else "missing" for label, part in parts.items()}


@pytest.fixture(scope="module")
def uninterrupted(inputs: Inputs) -> dict[str, str]:
    """What a run that nothing happens to leaves behind."""
    job = write_job(*inputs, tiny_config(), key="uninterrupted")
    work(job, SILENT)
    found = contents(inputs[0], job)
    assert "missing" not in found.values()
    assert len(found) == 4
    return found


def on_pass(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Do it when the place is passed for the `number`-th time."""
    passes = iter(range(1, number + 1))

    def fault() -> None:
        if next(passes, 0) == number:
            act()

    return fault


def run_child(job: Job, point: str = "", number: int = 0, signal_number: int = signal.SIGKILL) -> int:
    """Train in a forked process that sends itself a signal at a named place; returns its exit code."""

    def child() -> None:
        if point:
            faults.arm(point, on_pass(number, lambda: os.kill(os.getpid(), signal_number)))
        work(job, SILENT)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


KILLS = (
    "trainer:after_backward",
    "trainer:after_step",
    "state:before_tensors",
    "state:after_tensors",
    "state:before_commit",
    "part:before_move",
    "part:before_record",
    "file:before_fsync",
    "file:before_link",
    "file:after_link",
)


def test_r01_killed_three_times_and_equal_to_the_bit(inputs: Inputs, uninterrupted: dict[str, str]) -> None:
    chance = random.Random(20)
    job = write_job(*inputs, tiny_config(resume_every_seconds=OFTEN), key="killed")
    for _ in range(3):
        assert run_child(job, chance.choice(KILLS), chance.randrange(2, 5)) == -signal.SIGKILL
    assert run_child(job) == 0
    assert contents(inputs[0], job) == uninterrupted
    rows = metrics_rows(inputs[0], job)
    assert [row["step"] for row in rows] == list(range(1, 13)), "each step once"


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False])
def test_r01_killed_at_twenty_random_points(inputs: Inputs, uninterrupted: dict[str, str], beside: bool) -> None:
    chance = random.Random(20)
    job = write_job(*inputs, tiny_config(resume_every_seconds=OFTEN, async_checkpointing=beside), key=f"killed-20-{beside}")
    kills = 0
    for trial in range(200):
        # early passes, so that the run lasts for twenty of them
        kills += run_child(job, KILLS[trial % len(KILLS)], chance.randrange(1, 3)) == -signal.SIGKILL
        if kills == 20 or "missing" not in contents(inputs[0], job).values():
            break
    assert kills >= 15, "the run ended before it was killed often"
    assert run_child(job) == 0
    assert contents(inputs[0], job) == uninterrupted
    assert [row["step"] for row in metrics_rows(inputs[0], job)] == list(range(1, 13))


@pytest.mark.parametrize("forgotten", ["moments", "order"])
def test_r01_negative_control_without_moments_or_order_the_bytes_differ(
    inputs: Inputs, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    job = write_job(*inputs, tiny_config(resume_every_seconds=OFTEN), key=f"forgetful-{forgotten}")
    assert run_child(job, "trainer:after_step", 6) == -signal.SIGKILL
    rows = BatchPlan.rows
    if forgotten == "moments":
        monkeypatch.setattr("pipeline_lib.train.optim.restore_moments", lambda *_: None)
    else:
        monkeypatch.setattr(BatchPlan, "rows", lambda plan, step: rows(plan, step + 1))
    assert run_child(job) == 0
    found = contents(inputs[0], job)
    assert found["step-000012"] not in ("missing", uninterrupted["step-000012"])


def test_r03_sigterm_saves_the_current_step_and_loses_none(inputs: Inputs, uninterrupted: dict[str, str]) -> None:
    job = write_job(*inputs, tiny_config(), key="stopped")
    assert run_child(job, "trainer:after_backward", 7, signal.SIGTERM) == 0
    (state,) = sorted((job.folder / "states" / "parts").glob("*/state.json"))
    assert json.loads(state.read_text())["step"] == 7
    assert run_child(job) == 0
    assert contents(inputs[0], job) == uninterrupted


def test_r06_not_finite_stops_with_step_batch_and_last_checkpoint(inputs: Inputs) -> None:
    store, _ = inputs
    job = write_job(*inputs, tiny_config(), key="poisoned")
    objective = build_objective(job, Ranks())
    trainer = Trainer(job, objective, Ranks(), SILENT)
    weight = next(objective.module.parameters())
    faults.arm("trainer:after_backward", on_pass(6, lambda: weight.grad.fill_(float("nan"))))
    with pytest.raises(TrainingFailed) as failure:
        trainer.run()
    message = str(failure.value)
    assert "step 6: " in message
    assert "gradient norm is nan" in message
    assert "last good checkpoint: step-000004" in message
    named = json.loads((job.folder / "not_finite.json").read_text())
    assert named["step"] == 6
    assert named["pair_ids"] == objective.pair_ids(5)
    assert len(named["pair_ids"]) == 16
    assert named["pair_ids"][0] in message
    assert torch.isfinite(weight).all(), "the step was not taken"
    assert contents(store, job)["step-000008"] == "missing"


def test_r07_damaged_state_falls_back_and_the_end_is_the_same(inputs: Inputs, uninterrupted: dict[str, str]) -> None:
    # beside the steps the sixth state might still be in the making when the seventh step is killed
    job = write_job(*inputs, tiny_config(resume_every_seconds=OFTEN, async_checkpointing=False), key="damaged")
    assert run_child(job, "trainer:after_step", 7) == -signal.SIGKILL
    newest = max((job.folder / "states" / "parts").glob("*/state.json"), key=lambda p: json.loads(p.read_text())["step"])
    flip_byte(newest.with_name("moments-00001-of-00001.safetensors"))
    lines: list[str] = []
    events = Events(enabled=False)
    events.log = lines.append  # type: ignore[method-assign]
    work(job, events)
    assert any("state-000000006 is damaged" in line and "sha256" in line for line in lines)
    assert "going on after step 5" in lines
    assert contents(inputs[0], job) == uninterrupted


def test_a_damaged_checkpoint_is_written_again(inputs: Inputs, uninterrupted: dict[str, str]) -> None:
    store, _ = inputs
    job = write_job(*inputs, tiny_config(resume_every_seconds=OFTEN), key="damaged-checkpoint")
    assert run_child(job, "trainer:after_step", 7) == -signal.SIGKILL
    part = store.find_part("train", part_key(job.key, "step-000004"))
    assert part is not None
    flip_byte(store.root / part.folder / "model.safetensors")
    work(job, SILENT)
    assert contents(store, job) == uninterrupted


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def metrics_rows(store: Store, job: Job) -> list[dict[str, float]]:
    part = store.find_part("train", part_key(job.key, "metrics"))
    assert part is not None
    return [json.loads(line) for line in (store.root / part.folder / "metrics.jsonl").read_text().splitlines()]


def test_gradient_caching_is_the_same_run_within_rounding(inputs: Inputs) -> None:
    direct, cached = (
        write_job(*inputs, tiny_config(activation_bytes=budget, steps=5), key=f"budget-{budget}") for budget in (2**31, 1)
    )
    for job in (direct, cached):
        work(job, SILENT)
    pairs = zip(metrics_rows(inputs[0], direct), metrics_rows(inputs[0], cached), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-5) for a, b in pairs)


def test_a_language_model_is_trained_resumed_and_starts_the_encoder(inputs: Inputs) -> None:
    store, _ = inputs
    config = PretrainConfig(
        steps=8, batch_tokens=512, sequence_tokens=24, micro_batch_tokens=128, warmup_steps=1, threads=1, learning_rate=1e-2
    )
    whole = write_job(*inputs, config, key="lm", stage=PRETRAIN)
    work(whole, SILENT)
    often = config.model_copy(update={"resume_every_seconds": OFTEN, "resume_time_share": None})
    killed = write_job(*inputs, often, key="lm-killed", stage=PRETRAIN)
    assert run_child(killed, "trainer:after_step", 5) == -signal.SIGKILL
    work(killed, SILENT)
    assert contents(store, killed) == contents(store, whole)
    part = store.find_part("pretrain", part_key("lm", "model"))
    assert part is not None
    folder = store.root / part.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    job = write_job(*inputs, tiny_config(), key="started").model_copy(update={"start": str(folder)})
    encoder = build_objective(job, Ranks()).module
    trained = build_objective(killed.model_copy(update={"start": str(folder)}), Ranks()).module
    assert torch.equal(encoder.backbone.wte.weight, trained.transformer.wte.weight)
    drift = (trained.lm_head.weight - trained.transformer.wte.weight).norm() / trained.transformer.wte.weight.norm()
    assert drift > 1.0, "the head has weights of its own"
    encoder.backbone.save_pretrained(store.root / "encoder")
    with safe_open(store.root / "encoder" / "model.safetensors", framework="np") as tensors:
        assert not [name for name in tensors.keys() if "head" in name], "which no encoder carries"  # noqa: SIM118 - no mapping
