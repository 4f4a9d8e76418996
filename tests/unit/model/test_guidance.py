"""False negatives by score and a guide's terms in the loss, against an oracle written entry by entry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline_lib.model import loss as loss_module
from pipeline_lib.model.loss import Guidance, PairHashes, contrastive_loss, false_negatives

Tensors = tuple[Tensor, Tensor, Tensor]


def batch(n: int, owners: list[int], seed: int, distinct: int, **guidance: Any) -> tuple[Tensors, PairHashes]:
    """Random unit vectors with a guide of another width; some texts are equal."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(rows: int, width: int) -> Tensor:
        return normalize(torch.randn(rows, width, dtype=torch.float64, generator=generator), dim=1)

    m = len(owners)
    tensors = vectors(n, 4), vectors(n + m, 4), torch.tensor(1.3, dtype=torch.float64)
    guide = (vectors(n, 3), vectors(n + m, 3)) if guidance.pop("guided") else (None, None)
    x, y, negative = (torch.randint(distinct, (size,), generator=generator) for size in (n, n, m))
    told = Guidance(x_BG=guide[0], y_KG=guide[1], owner_M=torch.tensor(owners, dtype=torch.int64), **guidance)
    return tensors, PairHashes(x, y, negative_M=negative if m else None, guidance=told)


def oracle(x_BD: Tensor, y_KD: Tensor, log_scale: Tensor, hashes: PairHashes) -> tuple[Tensor, int]:
    """Every term of the definition from differentiable scalars, and how many entries a score left out."""
    told, n, m = hashes.guidance, len(x_BD), len(y_KD) - len(x_BD)
    assert told is not None
    known = false_negatives(replace(hashes, guidance=None), torch.arange(n))
    own = x_BD.detach() @ y_KD.detach().T
    judged = own if told.x_BG is None else told.x_BG @ told.y_KG.T
    logits, masked, total = x_BD @ y_KD.T * log_scale.exp(), 0, x_BD.new_zeros(())
    for by_y in (False, True):
        for i in range(n):
            allowed = [j for j in range(n + (0 if by_y else m)) if not (known[j, i] if by_y else known[i, j])]
            score = {j: float(judged[j, i] if by_y else judged[i, j]) for j in allowed}
            logit = {j: logits[j, i] if by_y else logits[i, j] for j in allowed}
            kept = allowed
            if told.margin is not None:
                limit = score[i] + told.margin * (abs(score[i]) if told.relative else 1)
                kept = [j for j in allowed if j == i or score[j] <= limit]
                masked += len(allowed) - len(kept)
            total = total + (torch.stack([logit[j] for j in kept]).logsumexp(0) - logit[i]) / (2 * n)
            if told.kl_weight:
                p = torch.stack([logit[j] for j in allowed]).log_softmax(0)
                q = torch.tensor([score[j] / told.kl_temperature for j in allowed], dtype=torch.float64).log_softmax(0)
                total = total + told.kl_weight * (q.exp() * (q - p)).sum() / (2 * n)
    for k, i in enumerate(told.owner_M.tolist() if told.margin_mse_weight else []):
        ours = x_BD[i] @ y_KD[i] - x_BD[i] @ y_KD[n + k]
        total = total + told.margin_mse_weight * (ours - (judged[i, i] - judged[i, n + k])) ** 2 / m
    return total, masked


def gradients(loss_of: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = loss_of(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    bring=st.lists(st.integers(0, 5), max_size=6),
    distinct=st.integers(3, 30),
    seed=st.integers(0, 9999),
    tile=st.sampled_from([1 << 24, 16, 1]),
    margin=st.sampled_from([None, -0.3, 0.0, 0.4, math.inf]),
    relative=st.booleans(),
    taught=st.sampled_from([None, (0.0, 0.0), (0.7, 0.0), (0.0, 1.3), (0.5, 0.5)]),
)
def test_loss_gradients_and_count_equal_the_oracles(
    n: int,
    bring: list[int],
    distinct: int,
    seed: int,
    tile: int,
    margin: float | None,
    relative: bool,
    taught: tuple[float, float] | None,
) -> None:
    kl, mse = taught or (0.0, 0.0)
    words = {"margin": margin, "relative": relative, "kl_weight": kl, "margin_mse_weight": mse, "kl_temperature": 0.3}
    tensors, hashes = batch(n, sorted(i % n for i in bring), seed, distinct, guided=taught is not None, **words)
    told = hashes.guidance
    assert told is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "TILE_LOGITS", tile)
        ours = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), *tensors)
        masked = sum(int(count) for count in told.masked)
        halves = [
            gradients(lambda *leaves, own=own: contrastive_loss(*leaves, hashes, own), *tensors)
            for own in (slice(0, n // 2), slice(n // 2, n))
        ]
    expected = oracle(*tensors, hashes)[1]
    theirs = gradients(lambda *leaves: oracle(*leaves, hashes)[0], *tensors)
    assert masked == expected
    assert sum(int(count) for count in told.masked) == 2 * expected  # the halves' once more
    for mine, other, *parts in zip(ours, theirs, *halves, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=1e-9)
        torch.testing.assert_close(sum(parts), other, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("guided", [False, True])
def test_an_infinite_margin_is_the_plain_loss(guided: bool) -> None:
    tensors, hashes = batch(7, [0, 3, 3], 5, 12, guided=guided, margin=math.inf)
    plain = replace(hashes, guidance=None)
    for mine, other in zip(
        gradients(lambda *leaves: contrastive_loss(*leaves, hashes), *tensors),
        gradients(lambda *leaves: contrastive_loss(*leaves, plain), *tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-10)
    assert hashes.guidance is not None
    assert sum(map(int, hashes.guidance.masked)) == 0


def test_a_margin_of_minus_infinity_leaves_each_positive_alone() -> None:
    tensors, hashes = batch(5, [1, 2], 2, 1000, guided=False, margin=-math.inf)
    loss, *slopes = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), *tensors)
    assert float(loss) == pytest.approx(0, abs=1e-12)
    assert all(float(slope.abs().max()) < 1e-12 for slope in slopes)
    assert hashes.guidance is not None
    assert sum(map(int, hashes.guidance.masked)) == 2 * 5 * 4 + 5 * 2


def test_a_wider_margin_never_masks_more() -> None:
    counts = []
    for margin in (-0.5, -0.1, 0.0, 0.1, 0.5, 3.0):
        tensors, hashes = batch(12, [0, 1, 5], 9, 1000, guided=True, margin=margin)
        contrastive_loss(*tensors, hashes)
        assert hashes.guidance is not None
        counts.append(sum(map(int, hashes.guidance.masked)))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0 == counts[-1]
