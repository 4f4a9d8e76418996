"""GPT-2's final hidden state at one position a row, without computing what nobody reads.

The same weights and the same mathematics as `GPT2Model.forward`, with two differences in work. Rows are right-padded and
attention is causal, so no position up to the pooled one sees padding: no mask is needed below the last layer. In the last
layer only the pooled position's query, feed-forward and norm are computed, and no keys and values at all: a token costs
that layer 4 H D multiplications in place of 12 D^2 (last_attention.py).

Rows may also come packed, end to end without padding (packed_attention.py): same weights, same mathematics. The last layer
then forms its keys and values, which the kernel of a GPU reads, for one query a row.

B rows, L tokens, D hidden width, H heads, E = D / H width of a head, T = B * L; packed, T the tokens of all rows.
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
from pipeline_lib.model.packed_attention import Layout, attend

Layer = Callable[[GPT2Block, Tensor, Layout | None], Tensor]

TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def is_supported(backbone: nn.Module) -> bool:
    """Whether the lean path computes what the backbone's own forward does: a GPT-2 without attention dropout."""
    if not isinstance(backbone, GPT2Model) or backbone.config.add_cross_attention:
        return False
    return all(cast(GPT2Block, block).attn.attn_dropout.p == 0 for block in backbone.h)


def full_layer(block: GPT2Block, hidden: Tensor, layout: Layout | None = None) -> Tensor:
    """A layer at every position: what all but the last compute; of (B, L, D), or of packed (T, D) and their layout."""
    z = block.ln_1(hidden)
    hidden = hidden + (_attend_all(block.attn, z) if layout is None else _attend_packed(block.attn, z, layout))
    return hidden + _feed_forward(block, block.ln_2(hidden))


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
        hidden_BLD = layer(block, hidden_BLD, None)
    last_BD, attended_BD = attend_pooled(blocks[-1], hidden_BLD, lengths_B)
    return _finish(backbone, last_BD, attended_BD)


def packed_states(
    backbone: GPT2Model, ids_T: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None = None, layer: Layer = full_layer
) -> Tensor:
    """`pooled_states` of rows that lie end to end: `ids_T` has no padding, and its length is the sum of `lengths_B`."""
    layout = Layout.of(lengths_B)
    if tokens_TD is None:
        tokens_TD = backbone.wte(ids_T)
    hidden_TD = backbone.drop(tokens_TD + F.embedding(layout.positions_T, backbone.wpe.weight))
    blocks = cast(list[GPT2Block], list(backbone.h))
    for block in blocks[:-1]:
        hidden_TD = layer(block, hidden_TD, layout)
    attention, z_TD, last_B = blocks[-1].attn, blocks[-1].ln_1(hidden_TD), layout.last_tokens()
    width = z_TD.shape[1]
    (query_DD, keys_values), (query_D, biases) = (w.split([width, 2 * width], dim=-1) for w in _joint(attention))
    q_BD = torch.addmm(query_D, z_TD[last_B], query_DD)
    q, k, v = (_heads(attention, z) for z in (q_BD, *torch.addmm(biases, z_TD, keys_values).split(width, dim=1)))
    attended_BHE = attend(q, k, v, layout.cu_lengths, layout.max_length, float(attention.scaling))
    return _finish(backbone, hidden_TD[last_B], attended_BHE.flatten(1))


def _finish(backbone: GPT2Model, last_BD: Tensor, attended_BD: Tensor) -> Tensor:
    """What follows the last layer's attention, at the pooled position."""
    block = cast(GPT2Block, backbone.h[-1])
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


def _attend_packed(attention: GPT2Attention, z_TD: Tensor, layout: Layout) -> Tensor:
    """Causal self-attention of every position, each in its own row."""
    parts = _affine(attention.c_attn, z_TD).split(z_TD.shape[1], dim=1)
    q, k, v = (_heads(attention, part) for part in parts)
    out_THE = attend(q, k, v, layout.cu_lengths, layout.max_length, float(attention.scaling))
    return attention.resid_dropout(_affine(attention.c_proj, out_THE.flatten(1)))


def _heads(attention: GPT2Attention, z_TD: Tensor) -> Tensor:
    return z_TD.unflatten(1, (attention.num_heads, attention.head_dim))


def _joint(attention: GPT2Attention) -> tuple[Tensor, Tensor]:
    """The weights (D, 3D) and biases (3D) of query, key and value."""
    return cast(Tensor, attention.c_attn.weight), cast(Tensor, attention.c_attn.bias)


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
