"""Causal self-attention over sequences that lie end to end, without padding.

On a GPU in 16 bits by PyTorch's variable-length kernel (torch.nn.attention.varlen, FlashAttention); elsewhere by PyTorch's
ordinary attention, once for each run of neighbours of one length: exact in every precision, on every device. Micro-batches
are sorted by length, so that there are as many runs as lengths.

B sequences, T tokens of all of them, H heads, E width of a head; S queries: T, one a token, or B, one a sequence.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_WIDTH_STEP, KERNEL_WIDEST = 8, 256  # of a head; FlashAttention 2
PROBE_LENGTHS = (1, 2, 7, 7, 33)
PROBE_COSINE = 0.999


class Layout(NamedTuple):
    """Where the sequences of a packed micro-batch stand."""

    cu_lengths: Tensor  # int32 (B + 1,), sequence i is tokens cu_lengths[i] to cu_lengths[i + 1]
    max_length: int
    positions_T: Tensor  # int64, of each token in its sequence

    @classmethod
    def of(cls, lengths_B: Tensor) -> Layout:
        """The layout of sequences of these lengths, on their device."""
        ends_B = lengths_B.cumsum(0)
        n_tokens = int(ends_B[-1])
        begins_T = torch.repeat_interleave(ends_B - lengths_B, lengths_B, output_size=n_tokens)
        positions_T = torch.arange(n_tokens, device=lengths_B.device) - begins_T
        return cls(F.pad(ends_B, (1, 0)).int(), int(lengths_B.max()), positions_T)

    def last_tokens(self) -> Tensor:
        """Where each sequence's last token stands: int64 (B,)."""
        return self.cu_lengths[1:].long() - 1


def attend(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, cu_lengths: Tensor, max_length: int, scaling: float) -> Tensor:
    """Causal attention of every token in its own sequence (S = T), or of each sequence's last one (S = B): (S, H, E)."""
    if takes_kernel(q_SHE.device, q_SHE.dtype, q_SHE.shape[-1]):
        return _by_kernel(q_SHE, k_THE, v_THE, cu_lengths, max_length, scaling)
    return _by_runs(q_SHE, k_THE, v_THE, cu_lengths, scaling)


def takes_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether PyTorch's variable-length kernel is for such tensors; whether it runs here, `kernel_obstacle` says."""
    fits = head_width % KERNEL_WIDTH_STEP == 0 and head_width <= KERNEL_WIDEST
    return device.type == "cuda" and dtype in KERNEL_TYPES and fits


@functools.cache
def kernel_obstacle(device: torch.device, head_width: int) -> str:
    """Why the kernel cannot be had for bfloat16 on this device, "" if it can: it is run there, and its gradients compared."""
    if not takes_kernel(device, torch.bfloat16, head_width):
        return f"the kernel needs a GPU and heads of a multiple of {KERNEL_WIDTH_STEP} up to {KERNEL_WIDEST}"
    try:
        cosine = kernel_agreement(device, head_width)
    except (ImportError, NotImplementedError, RuntimeError, TypeError) as error:  # no kernel in this build, or for this GPU
        return f"the kernel does not run here: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return "" if cosine >= PROBE_COSINE else f"the kernel's gradients are wrong here (cosine {cosine:.4f})"


def kernel_agreement(device: torch.device, head_width: int, n_heads: int = 2) -> float:
    """Lowest cosine of the kernel's output and gradients in bfloat16 with those computed in float32 by runs."""
    generator = torch.Generator().manual_seed(1)
    layout = Layout.of(torch.tensor(PROBE_LENGTHS, device=device))
    n_tokens = sum(PROBE_LENGTHS)
    cosines = []
    for n_queries in (n_tokens, len(PROBE_LENGTHS)):
        shapes = [(n_queries, n_heads, head_width), *[(n_tokens, n_heads, head_width)] * 2]
        parts = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        grad = torch.randn(shapes[0], generator=generator).to(device)
        found = []
        for dtype in (torch.bfloat16, torch.float32):  # the kernel has no float32
            leaves = [part.to(dtype).requires_grad_() for part in parts]
            q, k, v = leaves
            out = attend(q, k, v, layout.cu_lengths, layout.max_length, head_width**-0.5)
            found.append([out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))])
        cosines += [float(F.cosine_similarity(a.float().flatten(), b.flatten(), dim=0)) for a, b in zip(*found, strict=True)]
    return min(cosines)


def _by_kernel(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, cu_lengths: Tensor, max_length: int, scaling: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # with `window_size` and `scale` from torch 2.11 on

    if len(q_SHE) == len(k_THE):
        lengths = (cu_lengths, cu_lengths, max_length, max_length)
        return varlen_attn(q_SHE, k_THE, v_THE, *lengths, scale=scaling, window_size=(-1, 0))
    cu_queries = torch.arange(len(cu_lengths), dtype=torch.int32, device=q_SHE.device)
    return varlen_attn(q_SHE, k_THE, v_THE, cu_queries, cu_lengths, 1, max_length, scale=scaling)


def _by_runs(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, cu_lengths: Tensor, scaling: float) -> Tensor:
    causal = len(q_SHE) == len(k_THE)
    lengths, counts = (found.tolist() for found in torch.unique_consecutive(cu_lengths.diff(), return_counts=True))
    tokens = [length * count for length, count in zip(lengths, counts, strict=True)]
    parts = [q_SHE.split(tokens if causal else counts), k_THE.split(tokens), v_THE.split(tokens)]
    pieces = []
    for count, *run in zip(counts, *parts, strict=True):
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in run)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scaling)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)
