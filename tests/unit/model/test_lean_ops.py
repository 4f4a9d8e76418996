"""The norm and the gate that keep their inputs alone, against PyTorch's; what a block then keeps is in test_outline.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline_lib.model.lean_ops import gated, rms_norm


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def test_their_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda hidden, weight: rms_norm(hidden, weight, 1e-5), (drawn(2, 5, 8), drawn(8)))
    assert torch.autograd.gradcheck(lambda inner: gated(inner, nn.SiLU()), (drawn(5, 12),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_pytorchs(dtype: torch.dtype) -> None:
    hidden, weight, inner = drawn(7, 16).to(dtype), drawn(16).float(), drawn(9, 24).to(dtype)
    expected = F.rms_norm(hidden.float(), (16,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(hidden, weight, 1e-5), expected, atol=1e-6, rtol=1e-5)
    left, right = inner.chunk(2, dim=-1)
    assert torch.equal(gated(inner, nn.SiLU()), F.silu(left) * right)
    assert torch.equal(gated(inner, nn.GELU()), F.gelu(left) * right)
