"""Two gloo processes against one: gathered rows, and gradients that add up to the whole batch's."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.train.distributed import Ranks, gather_rows, largest, read_figures, sum_gradients, sum_over_ranks

SIZES = (5, 3)  # shares may differ
WIDTH = 6


def inputs() -> tuple[nn.Module, torch.Tensor, PairHashes]:
    torch.manual_seed(3)
    module = nn.Linear(WIDTH, WIDTH).double()
    module.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    texts = torch.randn(2 * sum(SIZES), WIDTH, dtype=torch.float64)
    hashes = PairHashes(torch.tensor([0, 1, 2, 3, 3, 5, 6, 7]), torch.tensor([10, 11, 12, 13, 14, 15, 16, 0]))
    return module, texts, hashes


def embed(module: nn.Module, texts: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(module(texts), dim=1)


def on_rank(rank: int, folder: str) -> None:
    """One process: its share's embeddings, the global loss, the summed gradient; written for the parent to compare."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meet", 2), rank=rank, world_size=2)
    ranks = Ranks(rank, 2)
    module, texts, hashes = inputs()
    begin, n_pairs = sum(SIZES[:rank]), sum(SIZES)
    own = slice(begin, begin + SIZES[rank])
    pairs = torch.cat([embed(module, texts[:n_pairs][own]), embed(module, texts[n_pairs:][own])], dim=1)
    x_BD, y_BD = gather_rows(pairs, SIZES, ranks).chunk(2, dim=1)
    loss = contrastive_loss(x_BD.contiguous(), y_BD.contiguous(), module.log_scale, hashes, own)
    loss.backward()
    sum_gradients(module, ranks)
    figures = [*read_figures([loss], [rank == 1, 2.0], [torch.tensor(7.0)], ranks), float(largest(10 + rank, ranks))]
    flat = torch.cat([torch.tensor(figures, dtype=torch.float64)] + [p.grad.reshape(-1) for p in module.parameters()])
    flat.numpy().tofile(f"{folder}/rank-{rank}")
    dist.destroy_process_group()


def test_r10_two_ranks_equal_one_process_to_1e_10(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=on_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    module, texts, hashes = inputs()
    n_pairs = sum(SIZES)
    loss = contrastive_loss(embed(module, texts[:n_pairs]), embed(module, texts[n_pairs:]), module.log_scale, hashes)
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    for rank in range(2):
        got = torch.from_file(str(tmp_path / f"rank-{rank}"), size=5 + len(expected), dtype=torch.float64)
        assert torch.allclose(got[0], loss.detach(), rtol=1e-12)
        assert got[1:5].tolist() == [1.0, 4.0, 7.0, 11.0]
        assert torch.allclose(got[5:], expected, rtol=1e-10, atol=1e-12)


def test_one_process_needs_no_group() -> None:
    alone = Ranks()
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows, [3], alone) is rows
    assert read_figures([torch.tensor(0.5)], [2.0], [torch.tensor(True)], alone) == [0.5, 2.0, 1.0]
    assert sum_over_ranks([1.5, 2.0], alone) == [1.5, 2.0]


def test_a_model_whose_every_weight_is_cut_has_nothing_left_to_sum() -> None:
    with mock.patch.object(dist, "all_reduce") as collective:
        sum_gradients(nn.Identity(), Ranks(rank=0, size=2))
    assert not collective.called
