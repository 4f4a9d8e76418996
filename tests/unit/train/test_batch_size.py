"""The noise scale against a known one, its gradients against the whole batch's, and the verdict on a made-up curve."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.train import batch_size
from pipeline_lib.train.batch_size import (
    BatchAdvice,
    gradient_noise,
    loss_by_batch_size,
    simple_noise_scale,
)
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks


def test_the_scale_of_known_gaussian_gradients_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, deviation, small, big = torch.full((400,), 0.1), 1.0, 8, 64
    squares = {
        size: torch.stack(
            [(signal + deviation / math.sqrt(size) * torch.randn(400, generator=generator)).square().sum() for _ in range(2000)]
        ).mean()
        for size in (small, big)
    }
    expected = 400 * deviation**2 / float(signal.square().sum())  # 100 pairs
    assert simple_noise_scale(float(squares[big]), float(squares[small]), big, small) == pytest.approx(expected, rel=0.1)
    assert simple_noise_scale(1.0, 8.0, 64, 8) == math.inf and simple_noise_scale(2.0, 2.0, 64, 8) == 0.0


def tiny_objective(root: Path) -> ContrastiveObjective:
    store, inputs = write_inputs(root)
    job = write_job(store, inputs, tiny_config(batch_size=64, token_dropout=0.0))
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    made.module.eval()
    return made


def test_slices_make_up_the_batchs_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_objective(tmp_path)
    seen: list[float] = []

    def note(big_squared: float, *rest: float) -> float:
        seen.append(big_squared)
        return simple_noise_scale(big_squared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_size, "simple_noise_scale", note)
    scale = gradient_noise(made.module, made.read_batch(0))
    made.gradients(0)
    whole = sum(float(weight.grad.square().sum()) for weight in made.module.parameters() if weight.grad is not None)
    assert seen == [pytest.approx(whole, rel=1e-3)] and scale > 0


def test_the_curve_ends_in_the_batchs_own_loss(tmp_path: Path) -> None:
    made = tiny_objective(tmp_path)
    batch = made.read_batch(0)
    losses = loss_by_batch_size(made.module, batch)
    assert list(losses) == [16, 32, 64] and losses[16] < losses[64]
    assert losses[64] == pytest.approx(made.gradients(0).loss, rel=1e-4)


def test_the_verdict_follows_the_curve() -> None:
    log2 = math.log(2)
    # every doubling costs a full bit more from 64 on: negatives beyond tell nothing
    losses = {16: 0.0, 32: 0.2 * log2, 64: 0.7 * log2, 128: 1.7 * log2, 256: 2.7 * log2}
    advice = BatchAdvice(noise_scale=1234.4, losses=losses)
    assert advice.gains == pytest.approx({32: 0.8, 64: 0.5, 128: 0.0, 256: 0.0})
    assert advice.negatives_pay_until == 64
    assert "up to 64 pairs" in advice.sentence() and "1,234 pairs" in advice.sentence()
    easy = BatchAdvice(math.inf, {16: 0.0, 32: 0.0})
    assert "beyond 32 pairs, the largest measured" in easy.sentence() and "cannot be told" in easy.sentence()
