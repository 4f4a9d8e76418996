"""Last layer of a GPT-2 at the pooled position: its attention without keys and values ever being formed.

With q the query and W_k the key weights of a head, q . (z W_k) = (W_k q) . z, and the values' weights move behind the sum over
positions: learned positions allow it, rotated keys do not. A token costs that layer 4 H D multiplications in place of 12 D^2.
What remains is memory traffic: on a CPU rows are taken a few at a time, so that their normed states stay in the cache, and are
normed again for the gradient instead of being kept. Forward and backward together make four passes over the hidden states, not
fifteen.

B rows, L tokens, D hidden width, H heads, E = D / H width of a head, C rows of one tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block

from pipeline_lib.model.adapter import weight_of

CPU_TILE_BYTES = 1 << 22  # of normed states; caches of the third level hold 16 MiB and more


class Shape(NamedTuple):
    """Sizes of a block that the products need."""

    n_heads: int
    scaling: float
    epsilon: float


def attend_pooled(block: GPT2Block, hidden_BLD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and causal self-attention of `block` at position `lengths_B - 1`, without attention dropout.

    Returns:
        The hidden state that entered the block there, and the heads' outputs side by side before the output projection:
        (B, D) each, in the weights' precision whatever autocast is set to.
    """
    norm, attention = block.ln_1, block.attn
    shape = Shape(attention.num_heads, float(attention.scaling), norm.eps)
    with torch.autocast(hidden_BLD.device.type, enabled=False):
        weights = (norm.weight, norm.bias, *joint_projection(attention))
        return _PooledAttention.apply(hidden_BLD.to(norm.weight.dtype).contiguous(), *weights, lengths_B, shape)


class _PooledAttention(torch.autograd.Function):
    """Inputs: hidden states, the norm's gain and shift, GPT-2's joint weights and biases of query, key and value."""

    @staticmethod
    def forward(ctx: Any, hidden_BLD: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        gain_D, shift_D, weight_D3D, bias_3D, lengths_B, shape = others
        n_rows, n_tokens, width = hidden_BLD.shape
        last_BD = hidden_BLD[torch.arange(n_rows, device=hidden_BLD.device), lengths_B - 1]
        query_DD, key_DHE, value_DHE = by_head(weight_D3D, shape.n_heads)
        z_BD = _norm(last_BD, gain_D, shift_D, shape)[0]
        query_BHE = torch.addmm(bias_3D[:width], z_BD, query_DD).view(n_rows, shape.n_heads, -1) * shape.scaling
        # the keys' bias shifts all scores of a row alike, and the softmax takes it out again
        query_BHD = torch.einsum("bhe,dhe->bhd", query_BHE, key_DHE)
        beyond_BL = torch.arange(n_tokens, device=hidden_BLD.device) >= lengths_B[:, None]
        weights_BHL = hidden_BLD.new_empty(n_rows, shape.n_heads, n_tokens)
        mixed_BHD = torch.empty_like(query_BHD)
        for tile in _tiles(hidden_BLD):
            z_CLD = _norm(hidden_BLD[tile], gain_D, shift_D, shape)[0]
            scores_CHL = torch.bmm(query_BHD[tile], z_CLD.transpose(1, 2))
            scores_CHL.masked_fill_(beyond_BL[tile, None], -torch.inf)
            weights_BHL[tile] = scores_CHL.softmax(dim=-1)
            mixed_BHD[tile] = torch.bmm(weights_BHL[tile], z_CLD)
        out_BHE = torch.einsum("bhd,dhe->bhe", mixed_BHD, value_DHE)
        ctx.shape = shape
        # an output kept on the context itself would be a cycle, freed by the garbage collector long after the step
        kept = last_BD, z_BD, query_BHE, query_BHD, weights_BHL, mixed_BHD
        ctx.save_for_backward(hidden_BLD, gain_D, shift_D, weight_D3D, lengths_B, *kept)
        return last_BD, out_BHE.reshape(n_rows, width) + bias_3D[2 * width :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_last_BD: Tensor, grad_out_BD: Tensor) -> tuple[Tensor | None, ...]:
        hidden_BLD, gain_D, shift_D, weight_D3D, lengths_B, *kept = ctx.saved_tensors
        last_BD, z_BD, query_BHE, query_BHD, weights_BHL, mixed_BHD = kept
        n_rows, _, width = hidden_BLD.shape
        query_DD, key_DHE, value_DHE = by_head(weight_D3D, ctx.shape.n_heads)
        grad_out_BHE = grad_out_BD.reshape(query_BHE.shape)
        grad_mixed_BHD = torch.einsum("bhe,dhe->bhd", grad_out_BHE, value_DHE)

        grad_hidden_BLD, grad_folded_BHD = torch.empty_like(hidden_BLD), torch.empty_like(query_BHD)
        grad_gain_D, grad_shift_D = torch.zeros_like(gain_D), torch.zeros_like(shift_D)
        for tile in _tiles(hidden_BLD):
            z_CLD, *tile_moments = _norm(hidden_BLD[tile], gain_D, shift_D, ctx.shape)
            grad_weights_CHL = torch.bmm(grad_mixed_BHD[tile], z_CLD.transpose(1, 2))
            grad_scores_CHL = torch._softmax_backward_data(grad_weights_CHL, weights_BHL[tile], -1, z_CLD.dtype)
            grad_folded_BHD[tile] = torch.bmm(grad_scores_CHL, z_CLD)
            # the states serve as values and as keys: both gradients in one product
            left_CLG = torch.cat([weights_BHL[tile], grad_scores_CHL], dim=1).transpose(1, 2)
            grad_z_CLD = torch.bmm(left_CLG, torch.cat([grad_mixed_BHD[tile], query_BHD[tile]], dim=1))
            grads = _norm_backward(grad_z_CLD, hidden_BLD[tile], tile_moments, gain_D, shift_D)
            grad_hidden_BLD[tile] = grads[0]
            grad_gain_D += grads[1]
            grad_shift_D += grads[2]

        grad_query_BHE = torch.einsum("bhd,dhe->bhe", grad_folded_BHD, key_DHE) * ctx.shape.scaling
        grad_query_BD = grad_query_BHE.reshape(n_rows, width)
        moments = _norm(last_BD, gain_D, shift_D, ctx.shape)[1:]
        grads = _norm_backward(grad_query_BD @ query_DD.T, last_BD, moments, gain_D, shift_D)
        rows = torch.arange(n_rows, device=hidden_BLD.device)
        grad_hidden_BLD[rows, lengths_B - 1] += grads[0] + grad_last_BD

        grad_key_DHE = torch.einsum("bhd,bhe->dhe", grad_folded_BHD, query_BHE)
        grad_value_DHE = torch.einsum("bhd,bhe->dhe", mixed_BHD, grad_out_BHE)
        blocks = [z_BD.T @ grad_query_BD, *(grad.reshape(width, width) for grad in (grad_key_DHE, grad_value_DHE))]
        biases = [grad_query_BD.sum(dim=0), torch.zeros_like(gain_D), grad_out_BD.sum(dim=0)]
        norm_grads = (grad_gain_D + grads[1], grad_shift_D + grads[2])
        return grad_hidden_BLD, *norm_grads, torch.cat(blocks, dim=1), torch.cat(biases), None, None


def _tiles(hidden_BLD: Tensor) -> list[slice]:
    n_rows = len(hidden_BLD)
    height = n_rows
    if hidden_BLD.device.type == "cpu":
        height = max(1, CPU_TILE_BYTES // (hidden_BLD[0].numel() * hidden_BLD.element_size()))
    return [slice(begin, begin + height) for begin in range(0, n_rows, height)]


def by_head(weight_D3D: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views: the query's weights (D, D), the key's and the value's (D, H, E)."""
    width = len(weight_D3D)
    query_DD, key_DD, value_DD = weight_D3D.split(width, dim=1)
    return query_DD, key_DD.view(width, n_heads, -1), value_DD.view(width, n_heads, -1)


def _norm(hidden: Tensor, gain_D: Tensor, shift_D: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm, and the mean and the inverse deviation that its gradient needs."""
    return torch.native_layer_norm(hidden, [len(gain_D)], gain_D, shift_D, shape.epsilon)


def _norm_backward(
    grad_z: Tensor, hidden: Tensor, moments: Any, gain_D: Tensor, shift_D: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the gain and the shift."""
    return torch.ops.aten.native_layer_norm_backward(
        grad_z, hidden, [len(gain_D)], *moments, gain_D, shift_D, [True, True, True]
    )


def joint_projection(attention: GPT2Attention) -> tuple[Tensor, Tensor]:
    """The weights (D, 3D) and biases (3D) of query, key and value."""
    return weight_of(attention.c_attn), attention.c_attn.bias
