"""Arithmetic that a trainer's process is set to, and how often a step waits for a verdict on its embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.train import contrastive
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.trainer import set_arithmetic


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
    assert not any(figure.not_finite for figure in figures)
    with torch.no_grad():
        objective.module.backbone.get_input_embeddings().weight[:] = torch.nan
    broken = objective.gradients(4)
    assert "16 of 16 x" in broken.not_finite and broken.effective_rank != broken.effective_rank
