"""The noise scale against a known one, its gradients against the whole batch's, and the verdict on a made-up curve."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from training_runs import MODEL, tiny_config, write_inputs, write_job

from pipeline_lib.errors import UserError
from pipeline_lib.train import batch_size
from pipeline_lib.train.batch_size import (
    BatchAdvice,
    gradient_noise,
    loss_by_batch_size,
    simple_noise_scale,
)
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.launch import train
from pipeline_lib.train.stages import AdviceConfig, build_advice


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
    assert math.isnan(simple_noise_scale(2.0, 1.0, 64, 8)), "the whole has more than its slices: no noise is left to estimate"


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
    assert losses[64] == pytest.approx(float(made.gradients(0).loss), rel=1e-4)


def test_the_verdict_follows_the_curve() -> None:
    log2 = math.log(2)
    # every doubling costs a full bit more from 64 on: negatives beyond tell nothing
    losses = {16: 0.0, 32: 0.2 * log2, 64: 0.7 * log2, 128: 1.7 * log2, 256: 2.7 * log2}
    advice = BatchAdvice(noise_scale=1234.4, losses=losses)
    assert advice.gains == pytest.approx({32: 0.8, 64: 0.5, 128: 0.0, 256: 0.0})
    assert advice.negatives_pay_until == 64
    assert "up to 64 pairs" in advice.sentence() and "1,234 pairs" in advice.sentence()
    for untold in (math.inf, math.nan):
        easy = BatchAdvice(untold, {16: 0.0, 32: 0.0})
        assert "beyond 32 pairs, the largest measured" in easy.sentence() and "noise scale" not in easy.sentence()


def test_fewer_pairs_than_the_batch_give_no_advice(tmp_path: Path) -> None:
    """Of 120 code pairs a batch of 256 holds each twice; they are masked, and the loss would fall for want of negatives."""
    store, inputs = write_inputs(tmp_path)
    trained = train(store, inputs, tiny_config(steps=2, warmup_steps=1, checkpoints=1), MODEL)
    facts = build_advice(store, trained, AdviceConfig(label="step-000002", pairs=256)).manifest.facts
    assert facts.keys() == {"run", "why"}
    assert "fewer pairs than a batch of 256 takes" in facts["why"] and "docstring has 120 of" in facts["why"]
    with pytest.raises(UserError, match="fewer pairs"):
        batch_size.advise(store, facts["run"])
