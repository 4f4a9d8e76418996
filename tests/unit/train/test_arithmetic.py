"""Arithmetic that a trainer's process is set to, and how often a step waits for a verdict on its embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.train import contrastive
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.trainer import Trainer, set_arithmetic


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.use_deterministic_algorithms(before[1])


@pytest.mark.parametrize(
    ("tf32", "device", "expected"), [(True, "cuda", "high"), (False, "cuda", "highest"), (True, "cpu", "highest")]
)
def test_tf32_is_taken_on_a_gpu_unless_it_is_refused(tf32: bool, device: str, expected: str) -> None:
    torch.set_float32_matmul_precision("highest" if expected == "high" or device == "cpu" else "high")
    set_arithmetic(TrainConfig(tf32=tf32), device)
    assert torch.get_float32_matmul_precision() == expected


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_algorithms_are_a_switch(deterministic: bool) -> None:
    set_arithmetic(TrainConfig(deterministic=deterministic), "cpu")
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_the_effective_rank_is_measured_each_few_steps_and_what_is_not_finite_in_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inputs = write_inputs(tmp_path)
    objective = ContrastiveObjective.build(write_job(store, inputs, tiny_config()), inputs.shards, inputs.tokenizer, Ranks())
    monkeypatch.setitem(contrastive.RANK_EVERY, "cpu", 3)  # as on a GPU, which waits for it
    figures = [objective.gradients(step) for step in range(4)]
    assert [figure.effective_rank is not None for figure in figures] == [True, False, False, True]
    assert all(figure.finite and not figure.name_not_finite() for figure in figures)
    with torch.no_grad():
        objective.module.backbone.get_input_embeddings().weight[:] = torch.nan
    broken = objective.gradients(4)
    assert not broken.finite and "16 of 16 x" in broken.name_not_finite()


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device: numbers read out of tensors of floats, and results whose size depends on
    them."""

    WAITS = ("item", "tolist", "numpy", "nonzero", "unique", "__float__", "__bool__", "__int__", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.WAITS and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_a_step_reads_what_it_has_computed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, inputs = write_inputs(tmp_path)
    job = write_job(store, inputs, tiny_config())
    objective = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
    trainer.take_step(0)
    monkeypatch.setitem(contrastive.RANK_EVERY, "cpu", 10)  # as on a GPU
    with Reads() as reads:
        metrics = trainer.take_step(1)
    assert reads.seen == ["tolist"]
    assert metrics.loss > 0 and metrics.temperature == pytest.approx(objective.temperature(), rel=1e-2)
    with Reads() as reads:
        float(objective.module.log_scale)
    assert reads.seen == ["__float__"]
