"""Weights, gradients and moments cut over the ranks by FSDP2, for a model that one device does not hold.

A transformer's block is one group of parameters, and what is around the blocks is another. Of every parameter each rank owns
consecutive rows; a group is gathered when a pass needs it. Gradients are summed over ranks, not averaged (distributed.py).

Two ways to synchronise a step of M micro-batches and G groups, and the collectives that each costs:

    "step"          parameters gathered once and full gradients held: G all-gathers, G reduce-scatters
    "micro_batch"   nothing full is held between passes: G reduce-scatters a micro-batch, and its all-gathers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pipeline_lib.train.distributed import Ranks

Synchronise = Literal["step", "micro_batch"]


def shard(backbone: nn.Module, ranks: Ranks, synchronise: Synchronise) -> Callable[[bool], None]:
    """Cut the parameters of a transformer over the ranks; its forward has to be called from its top.

    Args:
        backbone: with its whole weights on this rank's device, the same on every rank; parameters that every rank keeps
            whole, the logit scale, stand outside of it.
        ranks: at least two.
        synchronise: "step" or "micro_batch", see above.

    Returns:
        To be called before each backward pass with whether it is the last one of its step.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    groups = [*blocks_of(backbone), backbone]
    full = synchronise == "step"
    for group in groups:
        sharded = cast(FSDPModule, fully_shard(group, mesh=mesh, reshard_after_forward=not full))
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def before_backward(is_last: bool) -> None:
        root = cast(FSDPModule, backbone)
        root.set_requires_gradient_sync(is_last or not full)
        root.set_reshard_after_backward(is_last or not full)
        root.set_is_last_backward(is_last or not full)

    return before_backward


def cut_again(backbone: nn.Module) -> None:
    """Let go of gathered weights, which a forward pass without a backward one leaves under "step"; no collective."""
    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: the outermost list of modules that is as long as its config says."""
    config = getattr(backbone, "config", None)
    n_layers = getattr(config, "num_hidden_layers", 0)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return list(module)
    return []


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor that may be cut over the ranks; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds: all of one that is not cut. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """Where the rows that this rank holds begin."""
    if not isinstance(tensor, DTensor):
        return 0
    rank, size = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
    height = -(-tensor.shape[0] // size)  # as torch.chunk cuts, the last ones may get less or nothing
    return min(rank * height, tensor.shape[0])


def whole_on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies in main memory, one tensor at a time on the device; every rank has to ask."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in tensors.items()}


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The joint 2-norm of whole and cut gradients; the same on every rank."""
    cut = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    rest = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [whole(nn.utils.get_total_norm(group)) for group in (cut, rest) if group]
    return torch.linalg.vector_norm(torch.stack(norms))
