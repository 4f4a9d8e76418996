"""GPT-2's final hidden state at one position a row, without computing what nobody reads.

The same weights and the same mathematics as `GPT2Model.forward`, with two differences in work. Rows are right-padded and
attention is causal, so no position up to the pooled one sees padding: no mask is needed below the last layer. In the last
layer only the pooled position's query, feed-forward and norm are computed, and no keys and values at all: a token costs
that layer 4 H D multiplications in place of 12 D^2 (last_attention.py).

B rows, L tokens, D hidden width, H heads, E = D / H width of a head, T = B * L.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

from pipeline_lib.model.last_attention import attend_pooled

Layer = Callable[[GPT2Block, Tensor], Tensor]

TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def is_supported(backbone: nn.Module) -> bool:
    """Whether the lean path computes what the backbone's own forward does: a GPT-2 without attention dropout."""
    if not isinstance(backbone, GPT2Model) or backbone.config.add_cross_attention:
        return False
    return all(cast(GPT2Block, block).attn.attn_dropout.p == 0 for block in backbone.h)


def full_layer(block: GPT2Block, hidden_BLD: Tensor) -> Tensor:
    """A layer at every position: what all but the last compute."""
    hidden_BLD = hidden_BLD + _attend_all(block.attn, block.ln_1(hidden_BLD))
    return hidden_BLD + _feed_forward(block, block.ln_2(hidden_BLD))


def pooled_states(
    backbone: GPT2Model, ids_BL: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None = None, layer: Layer = full_layer
) -> Tensor:
    """Last hidden state (after the final norm) at position `lengths_B - 1` of each right-padded row: (B, D).

    Args:
        backbone: its dropouts are drawn in training mode, from the same distributions as its own forward.
        ids_BL: int64 token ids; what stands at and after `lengths_B` is not read.
        lengths_B: int64, 1 to L.
        tokens_TD: the token embeddings of `ids_BL`, row by row, where the caller looked them up already.
        layer: `full_layer`, or what computes the same: compiled, or without keeping its activations.
    """
    n_rows, n_tokens = ids_BL.shape
    if tokens_TD is None:
        tokens_TD = backbone.wte(ids_BL.reshape(-1))
    hidden_BLD = backbone.drop(tokens_TD.view(n_rows, n_tokens, -1) + backbone.wpe.weight[:n_tokens])
    blocks = cast(list[GPT2Block], list(backbone.h))
    for block in blocks[:-1]:
        hidden_BLD = layer(block, hidden_BLD)
    block = blocks[-1]
    last_BD, attended_BD = attend_pooled(block, hidden_BLD, lengths_B)
    last_BD = last_BD + block.attn.resid_dropout(_affine(block.attn.c_proj, attended_BD))
    last_BD = last_BD + _feed_forward(block, block.ln_2(last_BD))
    return backbone.ln_f(last_BD)


def _attend_all(attention: GPT2Attention, z_BLD: Tensor) -> Tensor:
    """Causal self-attention of every position."""
    n_rows, n_tokens, width = z_BLD.shape
    heads = (n_rows, n_tokens, attention.num_heads, attention.head_dim)
    q, k, v = (part.view(heads).transpose(1, 2) for part in _affine(attention.c_attn, z_BLD).split(width, dim=2))
    out_BHLE = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scaling)
    return attention.resid_dropout(_affine(attention.c_proj, out_BHLE.transpose(1, 2).reshape(z_BLD.shape)))


def _feed_forward(block: GPT2Block, z_D: Tensor) -> Tensor:
    mlp = block.mlp
    inner = _affine(mlp.c_fc, z_D)
    name = block.attn.config.activation_function
    # the fused tanh GELU: transformers spells out `gelu_new` in five passes over memory
    inner = F.gelu(inner, approximate="tanh") if name in TANH_GELUS else mlp.act(inner)
    return mlp.dropout(_affine(mlp.c_proj, inner))


def _affine(layer: Conv1D, z: Tensor) -> Tensor:
    """x W + b for GPT-2's weights of shape (inputs, outputs)."""
    flat = torch.addmm(layer.bias, z.reshape(-1, z.shape[-1]), layer.weight)
    return flat.view(*z.shape[:-1], layer.weight.shape[1])
