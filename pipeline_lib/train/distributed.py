"""Data parallelism: several trainer processes compute one global batch.

One convention holds throughout: the *sum* over ranks of what each backpropagates is the gradient of the global loss. So the
gather's backward sums, the gradients are summed, and a loss that every rank computes whole is divided by the number of ranks.

Data parallelism is one flat all-reduce of all gradients after the last backward pass, by hand: DistributedDataParallel would
reduce in each of the backward passes that gradient caching makes, or need `no_sync` around all but the last; and it does not
see the gradient of the token table, which is added up outside of autograd. That both give the same gradients is in the table
of benchmarks/equivalence.py. Weights that one device does not hold are cut over the ranks by sharding.py.

A collective that one rank reaches and another does not is a hang. Why all ranks reach each equally often:

    collective                                  where                        decided by
    groups of weights gathered, summed (FSDP)   sharding.py                  micro-batches of the rank with the most, which all
                                                                             make (fillers included), cached or not by all: the
                                                                             largest of all ranks' answers (contrastive.py);
                                                                             passes of the rank with the most (causal.py)
    embeddings gathered, their gradients        gather_sides                 once a step, and once a held-out measurement
    largest of "cache"                          contrastive.gradients        once a step, under FSDP alone (configuration)
    gradients of whole weights                  sum_gradients                once a step; a rank without one adds zeros
    loss, pairs, tokens, "stop", "save"         Trainer.take_step            once a step; the flags are acted upon by all
    norm of cut gradients                       optim.clip_gradients         once a step; which are cut is the same on all ranks
    held-out loss and ranks                     HeldOut.measure, causal.py   at the steps of checkpoints: arithmetic on the step
    whole weights of a checkpoint               ModelCheckpoints.save        likewise, tensor by tensor; whether it is there
                                                                             decides only whether the first rank writes them
    deviation of a cut table                    ContrastiveObjective         once, under FSDP alone (configuration)
    the step to go on from                      Resume.start                 once, before the first step
    the largest micro-batch that fits           ContrastiveObjective         once, where the configuration leaves it open
    the end                                     worker._run                  once

Whether to raise is decided from figures that all ranks have alike, or by one alone: then it ends, and torchrun the others.
What only the first rank does (files, events) holds no collective.

b rows of this rank, B rows of the global batch, D width.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import cores

CPU = torch.device("cpu")
MEETING_FOLDER = "CPT_MEETING_FOLDER"  # set by the launcher, which removes it
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among the trainer processes; torchrun numbers them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and talks to the launcher."""
        return self.rank == 0


ALONE = Ranks()


def join_ranks(threads: int | None) -> Ranks:
    """Meet the other processes that torchrun started; alone, open no socket at all.

    Args:
        threads: of this process on a CPU; None for cores / processes.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    torch.set_num_threads(threads or max(1, cores() // local_size))
    device = CPU
    if torch.cuda.is_available():
        check_gpus(torch.cuda.device_count(), local_size)
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = _meeting_file(size) if local_size == size else None
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    return Ranks(rank, size, device)


def check_gpus(gpus: int, processes: int) -> str:
    """Warning about this machine's GPUs and processes; empty where they are as many.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if processes > gpus:
        raise UserError(f"{processes} trainer processes for {gpus} GPU(s) of this machine: one a GPU; take processes={gpus}")
    if processes == gpus:
        return ""
    return f"{processes} of the {gpus} GPUs of this machine train, one a process; processes={gpus} would use all of them"


def leave_ranks(ranks: Ranks) -> None:
    """Close the process group."""
    if ranks.size > 1:
        dist.destroy_process_group()


def _meeting_file(size: int) -> dist.FileStore:
    """On one machine the ranks find each other through a file: torch's TCPStore would listen on every interface."""
    name = "cpt-ranks-{}-{}".format(os.environ["TORCHELASTIC_RUN_ID"], os.environ["TORCHELASTIC_RESTART_COUNT"])
    folder = os.environ.get(MEETING_FOLDER) or tempfile.gettempdir()
    return dist.FileStore(str(Path(folder) / name), size)


def gather_rows(rows_bD: Tensor, sizes: Sequence[int], ranks: Ranks) -> Tensor:
    """Gather all ranks' rows, (B, D), in the order of the ranks; differentiable: gradients flow back to the rank of each row.

    Args:
        rows_bD: this rank's share.
        sizes: rows of every rank's share; they may differ.
    """
    if ranks.size == 1:
        return rows_bD
    return _GatherRows.apply(rows_bD, tuple(sizes), ranks.rank)


def gather_sides(emb_ND: Tensor, pairs: list[int], negatives: list[int], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """x (B, D) and candidates (K, D) of all ranks: every y, then every hard negative; one collective, differentiable.

    Args:
        emb_ND: this rank's x, y and hard negatives.
        pairs: of every rank.
        negatives: of every rank.
        ranks: this process among the others.
    """
    sizes = [[n, n, m] for n, m in zip(pairs, negatives, strict=True)]
    blocks = gather_rows(emb_ND, [sum(size) for size in sizes], ranks).split([n for size in sizes for n in size])
    return torch.cat(blocks[0::3]), torch.cat([*blocks[1::3], *blocks[2::3]])


class _GatherRows(torch.autograd.Function):
    """all_gather forward; backward sums the gradients of all ranks and takes this one's rows."""

    @staticmethod
    def forward(ctx: Any, rows_bD: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        most = max(sizes)
        padded = rows_bD.new_zeros(most, *rows_bD.shape[1:])
        padded[: len(rows_bD)] = rows_bD
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient_BD = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_BD)
        begin = sum(ctx.sizes[: ctx.rank])
        return gradient_BD[begin : begin + ctx.sizes[ctx.rank]], None, None


@torch.no_grad()
def sum_gradients(module: nn.Module, ranks: Ranks) -> None:
    """Sum every whole parameter's gradient over the ranks, in one collective; a rank without one adds zero.

    Those of parameters that are cut over the ranks (sharding.py) are sums already.
    """
    if ranks.size == 1:
        return
    parameters = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not parameters:  # a language model, every weight of which is cut
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)


def sum_over_ranks(values: Sequence[float], ranks: Ranks) -> list[float]:
    """Element-wise sums of a few figures, in float64."""
    return list(values) if ranks.size == 1 else read_figures([], values, [], ranks)


def read_figures(scalars: Sequence[Tensor], numbers: Sequence[float], same: Sequence[Tensor], ranks: Ranks) -> list[float]:
    """Sums of scalars and of numbers over the ranks, then what all have alike: one collective, one wait for the device.

    Args:
        scalars: of this rank, on its device.
        numbers: of this rank, in main memory.
        same: scalars on the device, the same on every rank.
        ranks: this process among the others.
    """
    at_hand = torch.tensor(numbers, dtype=torch.float64).to(ranks.device, non_blocking=True)
    total = torch.cat([*map(_row, scalars), at_hand])
    if ranks.size > 1:
        dist.all_reduce(total)
    return torch.cat([total, *map(_row, same)]).tolist()


def _row(scalar: Tensor) -> Tensor:
    return scalar.detach().double().reshape(1)


def largest(value: int, ranks: Ranks) -> int:
    """The largest of all ranks' values, the same answer everywhere."""
    if ranks.size == 1:
        return value
    most = torch.tensor(int(value), dtype=torch.int64, device=ranks.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
