"""Operations of a block that keep their inputs alone until backward, where autograd would keep what was made on the way too.

S tokens of any arrangement, D width, F width inside the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

SILU = (SiLUActivation, nn.SiLU)


def rms_norm(hidden_SD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467) in the weight's precision; keeps its input alone."""
    hidden_SD = hidden_SD.to(weight_D.dtype)
    if hidden_SD.device.type != "cpu" or torch.compiler.is_compiling():  # one kernel there, which keeps no more
        return F.rms_norm(hidden_SD, weight_D.shape, weight_D, epsilon)
    return _RMSNorm.apply(hidden_SD, weight_D, epsilon)


def gated(inner_S2F: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """SwiGLU (Shazeer, arXiv 2002.05202): the activation of the first half times the second, (S, F)."""
    if isinstance(activation, SILU) and not torch.compiler.is_compiling():
        return _SwiGLU.apply(inner_S2F)
    gate, opened = inner_S2F.chunk(2, dim=-1)
    return activation(gate) * opened


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        scale_S1 = hidden_SD.square().mean(dim=-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden_SD, weight_D, scale_S1)
        return (hidden_SD * scale_S1).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor | None, ...]:
        hidden_SD, weight_D, scale_S1 = ctx.saved_tensors
        z_SD = hidden_SD * scale_S1
        grad_D = (grad_SD * z_SD).flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None  # frozen beside adapters
        grad_z_SD = grad_SD * weight_D
        shared_S1 = (grad_z_SD * z_SD).mean(dim=-1, keepdim=True)
        return grad_z_SD.sub_(z_SD.mul_(shared_S1)).mul_(scale_S1), grad_D, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner_S2F: Tensor) -> Tensor:
        ctx.save_for_backward(inner_S2F)
        gate, opened = inner_S2F.chunk(2, dim=-1)
        return F.silu(gate).mul_(opened)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SF: Tensor) -> Tensor:
        (inner_S2F,) = ctx.saved_tensors
        gate, opened = inner_S2F.chunk(2, dim=-1)
        grad_S2F = torch.empty_like(inner_S2F)
        grad_gate, grad_opened = grad_S2F.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad_SF, out=grad_opened)
        grad_gate.copy_(torch.ops.aten.silu_backward(opened * grad_SF, gate))
        return grad_S2F
