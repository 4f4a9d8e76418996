"""Explicit hard negatives from the loss up to a step of the trainer, each against an oracle written entry by entry."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.model import loss as loss_module
from pipeline_lib.model.loss import PairHashes, contrastive_loss, false_negatives
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks, gather_sides

WIDTH = 5


def oracle_loss(x_BD: Tensor, y_KD: Tensor, log_scale: Tensor, hashes: PairHashes) -> Tensor:
    """The definition: hard negatives are further candidates of every x, and of no y."""
    n, scale = len(x_BD), log_scale.exp()
    x, y = hashes.x_B.tolist(), hashes.y_B.tolist()
    negatives = [] if hashes.negative_M is None else hashes.negative_M.tolist()

    def counts(i: int, j: int) -> bool:
        return i == j or not (x[i] == x[j] or y[i] == y[j] or x[i] == y[j])

    def counts_back(i: int, j: int) -> bool:  # y_i asks for x_j
        return i == j or not (x[i] == x[j] or y[i] == y[j] or y[i] == x[j])

    total = x_BD.new_zeros(())
    for i in range(n):
        row = [x_BD[i] @ y_KD[j] * scale for j in range(n) if counts(i, j)]
        row += [x_BD[i] @ y_KD[n + m] * scale for m, text in enumerate(negatives) if text not in (x[i], y[i])]
        column = [x_BD[j] @ y_KD[i] * scale for j in range(n) if counts_back(i, j)]
        total = total + (torch.stack(row).logsumexp(0) + torch.stack(column).logsumexp(0)) / 2 - x_BD[i] @ y_KD[i] * scale
    return total / n


def batch(n: int, negatives: int, seed: int = 0, distinct: int = 40) -> tuple[Tensor, Tensor, Tensor, PairHashes]:
    generator = torch.Generator().manual_seed(seed)
    x_BD, y_KD = (normalize(torch.randn(size, WIDTH, dtype=torch.float64, generator=generator)) for size in (n, n + negatives))
    hash_x, hash_y, hash_n = (torch.randint(distinct, (size,), generator=generator) for size in (n, n, negatives))
    return x_BD, y_KD, torch.tensor(1.3, dtype=torch.float64), PairHashes(hash_x, hash_y, negative_M=hash_n)


def gradients(loss_of, *tensors: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = loss_of(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(0, 9), st.integers(2, 25), st.integers(0, 9999), st.sampled_from([1 << 24, 20, 1]))
def test_loss_and_gradients_equal_the_oracles(n: int, negatives: int, distinct: int, seed: int, tile: int) -> None:
    *tensors, hashes = batch(n, negatives, seed, distinct)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "TILE_LOGITS", tile)
        ours = gradients(lambda *leaves: contrastive_loss(*leaves, hashes), *tensors)
        cut = n // 2
        parts = [
            gradients(lambda *leaves, own=own: contrastive_loss(*leaves, hashes, own), *tensors)
            for own in (slice(0, cut), slice(cut, n))
        ]
    theirs = gradients(lambda *leaves: oracle_loss(*leaves, hashes), *tensors)
    for mine, other, *halves in zip(ours, theirs, *parts, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(sum(halves), other, atol=1e-12, rtol=1e-10)


def test_a_negative_counts_for_every_x_but_those_whose_own_text_it_is() -> None:
    hashes = PairHashes(torch.tensor([1, 2]), torch.tensor([3, 4]), negative_M=torch.tensor([4, 1, 9]))
    assert false_negatives(hashes, torch.arange(2))[:, 2:].tolist() == [[False, True, False], [True, False, False]]
    x_BD, y_KD, log_scale, _ = batch(2, 3)
    with_all = contrastive_loss(x_BD, y_KD, log_scale, hashes)
    assert with_all > contrastive_loss(x_BD, y_KD[:2], log_scale, hashes.pairs_alone())


def test_candidates_without_a_hash_are_refused() -> None:
    x_BD, y_KD, log_scale, hashes = batch(3, 2)
    with pytest.raises(AssertionError, match="5 candidates for 3 pairs and 0 hard negatives"):
        contrastive_loss(x_BD, y_KD, log_scale, hashes.pairs_alone())


def on_rank(rank: int, pairs: list[int], negatives: list[int], folder: str) -> None:
    """One process: its own texts, the gathered loss, the gradient of its own texts; written for the parent to compare."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meet", len(pairs)), rank=rank, world_size=len(pairs))
    x_BD, y_KD, log_scale, hashes = batch(sum(pairs), sum(negatives))
    own, its = slice(sum(pairs[:rank]), sum(pairs[: rank + 1])), slice(sum(negatives[:rank]), sum(negatives[: rank + 1]))
    emb_ND = torch.cat([x_BD[own], y_KD[: len(x_BD)][own], y_KD[len(x_BD) :][its]]).requires_grad_()
    log_scale.requires_grad_()
    sides = gather_sides(emb_ND, pairs, negatives, Ranks(rank, len(pairs)))
    loss = contrastive_loss(*sides, log_scale, hashes, own)
    loss.backward()
    assert emb_ND.grad is not None
    np.savez(f"{folder}/rank-{rank}.npz", loss=loss.detach(), emb=emb_ND.grad, scale=log_scale.grad)
    dist.destroy_process_group()


@pytest.mark.parametrize(("pairs", "negatives"), [([4, 3], [5, 2]), ([2, 2, 2, 1], [0, 3, 1, 4])])
def test_ranks_equal_one_process(tmp_path: Path, pairs: list[int], negatives: list[int]) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=on_rank, args=(r, pairs, negatives, str(tmp_path))) for r in range(len(pairs))]
    for child in children:
        child.start()
    *tensors, hashes = batch(sum(pairs), sum(negatives))
    loss, grad_x, grad_y, grad_scale = gradients(lambda *leaves: oracle_loss(*leaves, hashes), *tensors)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    found = [np.load(tmp_path / f"rank-{rank}.npz") for rank in range(len(pairs))]
    assert sum(float(f["loss"]) for f in found) == pytest.approx(float(loss), rel=1e-12)
    assert sum(float(f["scale"]) for f in found) == pytest.approx(float(grad_scale), rel=1e-10)
    blocks = [np.split(f["emb"], [n, 2 * n]) for f, n in zip(found, pairs, strict=True)]
    got_x, got_y, got_n = (np.concatenate([block[side] for block in blocks]) for side in range(3))
    for got, expected in ((got_x, grad_x), (got_y, grad_y[: sum(pairs)]), (got_n, grad_y[sum(pairs) :])):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-10, atol=1e-14)


def objective(root: Path, ranks: Ranks | None = None, **changes: object) -> ContrastiveObjective:
    store, inputs = write_inputs(root, negatives=True)
    job = write_job(store, inputs, tiny_config(batch_size=12, token_dropout=0.0, **changes))
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, ranks or Ranks())
    made.module.double()
    return made


@pytest.mark.parametrize("budget", [1 << 40, 1])
def test_a_step_of_the_trainer_equals_the_oracle(tmp_path: Path, budget: int) -> None:
    made = objective(tmp_path, activation_bytes=budget)  # 1 byte: gradient caching
    figures = made.gradients(0)
    got = {name: p.grad.clone() for name, p in made.module.named_parameters() if p.grad is not None}
    rows_of = made.rows.plan.rows(0)
    rows = [made.rows.datasets[view].rows(rows_n) for view, rows_n in rows_of.items()]
    made.module.zero_grad(set_to_none=True)

    def embed(texts: list[np.ndarray]) -> Tensor:
        return torch.cat([made.module(torch.tensor(t[None].astype(np.int64)), torch.tensor([len(t)])) for t in texts])

    negatives = [text for part in rows for texts in part.negative_ids for text in texts]
    y_KD = torch.cat([embed([t for part in rows for t in part.y_ids]), embed(negatives)])
    hash_x, hash_y, hash_n = (
        torch.from_numpy(np.concatenate(columns))
        for columns in (
            [part.x_hash for part in rows],
            [part.y_hash for part in rows],
            [h for part in rows for h in part.negative_hashes],
        )
    )
    assert len(hash_n) == len(negatives) > 12
    hashes = PairHashes(hash_x, hash_y, negative_M=hash_n)
    loss = oracle_loss(embed([t for part in rows for t in part.x_ids]), y_KD, made.module.log_scale, hashes)
    loss.backward()
    assert float(figures.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    for name, parameter in made.module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad, atol=1e-12, rtol=1e-9, msg=name)


def test_dealt_to_ranks_hashes_follow_their_pairs(tmp_path: Path) -> None:
    read = objective(tmp_path).read_batch(0)
    order = np.random.default_rng(0).permutation(12)
    assert read.hashes.negative_M is not None
    starts = np.cumsum([0, *map(len, read.negative_ids)])
    expected = [h for i in order for h in read.hashes.negative_M[starts[i] : starts[i + 1]].tolist()]
    moved = read.hashes_of(order)
    assert moved.negative_M is not None and moved.negative_M.tolist() == expected
    assert moved.x_B.tolist() == read.hashes.x_B[torch.from_numpy(order)].tolist()
    texts = read.sequences(order)
    assert [t.tolist() for t in texts[24:]] == [t.tolist() for i in order for t in read.negative_ids[i]]
    assert read.lengths().sum() == sum(map(len, texts))


def test_tokens_are_dropped_from_negatives_too(tmp_path: Path) -> None:
    made = objective(tmp_path)
    whole = made.read_batch(0)
    made.config = made.config.model_copy(update={"token_dropout": 0.4})
    thinned = made.read_batch(0)
    lengths = [[len(t) for texts in read.negative_ids for t in texts] for read in (whole, thinned)]
    assert sum(lengths[1]) < 0.9 * sum(lengths[0])
    assert [list(map(len, texts)) for texts in made.read_batch(0).negative_ids] == [
        list(map(len, texts)) for texts in thinned.negative_ids
    ]
