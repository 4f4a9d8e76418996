"""The loss against an oracle written entry by entry. B pairs, D width."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline_lib.model import loss as loss_module
from pipeline_lib.model.loss import PairHashes, contrastive_loss, false_negatives


def oracle_mask(hashes: PairHashes) -> list[list[bool]]:
    x, y = hashes.x_B.tolist(), hashes.y_B.tolist()
    document = None if hashes.document_B is None else hashes.document_B.tolist()
    return [
        [
            i != j and (x[i] == x[j] or y[i] == y[j] or x[i] == y[j] or (document is not None and document[i] == document[j]))
            for j in range(len(x))
        ]
        for i in range(len(x))
    ]


def oracle_loss(x_BD: Tensor, y_BD: Tensor, log_scale: Tensor, hashes: PairHashes) -> Tensor:
    """Every term of the definition, from differentiable scalars."""
    mask, n = oracle_mask(hashes), len(x_BD)
    logit = [[torch.dot(x_BD[i], y_BD[j]) * log_scale.exp() for j in range(n)] for i in range(n)]
    total = x_BD.new_zeros(())
    for i in range(n):
        row = torch.stack([logit[i][j] for j in range(n) if not mask[i][j]])
        column = torch.stack([logit[j][i] for j in range(n) if not mask[j][i]])
        total = total + (row.logsumexp(0) + column.logsumexp(0)) / 2 - logit[i][i]
    return total / n


def batch(n: int, seed: int = 0, distinct: int = 1000, documents: bool = False) -> tuple[Tensor, Tensor, Tensor, PairHashes]:
    generator = torch.Generator().manual_seed(seed)
    x_BD, y_BD = (normalize(torch.randn(n, 6, dtype=torch.float64, generator=generator), dim=1) for _ in "xy")
    hash_x, hash_y, document = (torch.randint(distinct, (n,), generator=generator) for _ in range(3))
    hashes = PairHashes(hash_x, hash_y, document if documents else None)
    return x_BD, y_BD, torch.tensor(1.3, dtype=torch.float64), hashes


def gradients(loss_of, x_BD: Tensor, y_BD: Tensor, log_scale: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in (x_BD, y_BD, log_scale)]
    loss = loss_of(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 10_000), st.sampled_from([1 << 24, 20, 1]))
def test_loss_and_gradients_equal_the_oracles(n: int, distinct: int, documents: bool, seed: int, tile: int) -> None:
    x_BD, y_BD, log_scale, hashes = batch(n, seed, distinct, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "TILE_LOGITS", tile)
        ours = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), x_BD, y_BD, log_scale)
    theirs = gradients(lambda *leaves: oracle_loss(*leaves, hashes), x_BD, y_BD, log_scale)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tile", [1 << 24, 14])
def test_gradcheck_in_float64(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "TILE_LOGITS", tile)
    x_BD, y_BD, log_scale, hashes = batch(5, distinct=6)
    leaves = [tensor.requires_grad_() for tensor in (x_BD, y_BD, log_scale)]
    assert torch.autograd.gradcheck(lambda *inputs: contrastive_loss(*inputs, hashes), leaves)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("tile", [1 << 24, 30])
def test_slices_of_the_batch_sum_to_the_whole(ranks: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x_BD, y_BD, log_scale, hashes = batch(12, distinct=8)
    whole = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), x_BD, y_BD, log_scale)
    monkeypatch.setattr(loss_module, "TILE_LOGITS", tile)
    share = 12 // ranks
    parts = [
        gradients(
            lambda *leaves, rank=rank: contrastive_loss(*leaves, hashes, slice(rank * share, (rank + 1) * share)),
            x_BD,
            y_BD,
            log_scale,
        )
        for rank in range(ranks)
    ]
    for expected, *got in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(got).sum(dim=0), expected, atol=1e-12, rtol=1e-10)


def test_a_chain_of_neighbours_is_not_held_against_itself() -> None:
    # pairs (p1, p2), (p2, p3), (p3, p4) and one of another document
    hashes = PairHashes(torch.tensor([1, 2, 3, 8]), torch.tensor([2, 3, 4, 9]))
    masked = {(int(i), int(j)) for i, j in false_negatives(hashes, torch.arange(4)).nonzero()}
    assert masked == {(1, 0), (2, 1)}  # x_2 = p2 = y_1, x_3 = p3 = y_2
    same_document = PairHashes(hashes.x_B, hashes.y_B, torch.tensor([7, 7, 7, 5]))
    masked = {(int(i), int(j)) for i, j in false_negatives(same_document, torch.arange(4)).nonzero()}
    assert masked == {(i, j) for i in range(3) for j in range(3) if i != j}


@pytest.mark.parametrize("tile", [1 << 24, 12])
def test_masked_entries_touch_neither_loss_nor_gradients(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "TILE_LOGITS", tile)
    # x the identity: y_j[i] is the logit (i, j) itself, and its gradient that entry's
    x_BD, y_BD, log_scale = torch.eye(5), torch.rand(5, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(())
    hashes = PairHashes(torch.tensor([1, 2, 3, 4, 1]), torch.tensor([2, 6, 7, 7, 8]))
    mask_BB = false_negatives(hashes, torch.arange(5))
    assert mask_BB.nonzero().tolist() == [[0, 4], [1, 0], [2, 3], [3, 2], [4, 0]]
    loss_of = lambda *leaves: contrastive_loss(*leaves, hashes)  # noqa: E731
    loss, *grads = gradients(loss_of, x_BD, y_BD, log_scale)
    assert torch.equal(grads[1].T == 0, mask_BB)
    moved_loss, *moved_grads = gradients(loss_of, x_BD, torch.where(mask_BB.T, y_BD + 3, y_BD), log_scale)
    torch.testing.assert_close(moved_loss, loss)
    torch.testing.assert_close(moved_grads[1:], grads[1:])
    assert gradients(loss_of, x_BD, torch.where(mask_BB.T, y_BD, y_BD + 3 * torch.eye(5)), log_scale)[0] != loss


def test_a_batch_of_equal_texts_has_no_negatives_and_no_loss() -> None:
    x_BD, y_BD, log_scale, _ = batch(4)
    hashes = PairHashes(torch.ones(4, dtype=torch.int64), torch.arange(4))
    loss, *grads = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), x_BD, y_BD, log_scale)
    assert float(loss) == pytest.approx(0, abs=1e-15)
    assert all(float(grad.abs().max()) < 1e-15 for grad in grads)


def test_largest_scale_neither_overflows_nor_loses_the_gradient() -> None:
    x_BD, y_BD, _, hashes = batch(64)
    loss, *grads = gradients(
        lambda *leaves: contrastive_loss(*leaves, hashes), x_BD.float(), y_BD.float(), torch.tensor(math.log(100.0))
    )
    assert math.isfinite(float(loss))
    assert all(torch.isfinite(grad).all() and float(grad.abs().max()) > 0 for grad in grads)


def test_no_gradient_is_computed_for_evaluation() -> None:
    x_BD, y_BD, log_scale, hashes = batch(5)
    assert not contrastive_loss(x_BD, y_BD, log_scale, hashes).requires_grad
    torch.testing.assert_close(
        contrastive_loss(x_BD, y_BD, log_scale, hashes, slice(0, 5)), oracle_loss(x_BD, y_BD, log_scale, hashes)
    )
