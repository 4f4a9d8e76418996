"""GPT-2's final hidden state at one position a row, without computing what nobody reads.

The same weights and the same mathematics as `GPT2Model.forward`, with two differences in work. Rows are right-padded and
attention is causal, so no position up to the pooled one sees padding: no mask is needed below the last layer. In the last
layer only the pooled position's query, feed-forward and norm are computed, and its keys and values are never formed: with
q the query and W_k the key weights of a head, q . (z W_k) = (W_k q) . z, and the values' weights move behind the sum over
positions likewise. A token then costs that layer 2 H D multiplications in place of 12 D^2.

B rows, L tokens, D hidden width, H heads, E = D / H width of a head, T = B * L.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def is_supported(backbone: nn.Module) -> bool:
    """Whether the lean path computes what the backbone's own forward does."""
    return isinstance(backbone, GPT2Model) and not backbone.config.add_cross_attention


def pooled_states(backbone: GPT2Model, ids_BL: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None = None) -> Tensor:
    """Last hidden state (after the final norm) at position `lengths_B - 1` of each right-padded row: (B, D).

    Args:
        backbone: its dropouts are drawn in training mode, from the same distributions as its own forward.
        ids_BL: int64 token ids; what stands at and after `lengths_B` is not read.
        lengths_B: int64, 1 to L.
        tokens_TD: the token embeddings of `ids_BL`, row by row, where the caller looked them up already.
    """
    n_rows, n_tokens = ids_BL.shape
    if tokens_TD is None:
        tokens_TD = backbone.wte(ids_BL.reshape(-1))
    hidden_BLD = backbone.drop(tokens_TD.view(n_rows, n_tokens, -1) + backbone.wpe.weight[:n_tokens])
    blocks = cast(list[GPT2Block], list(backbone.h))
    for block in blocks[:-1]:
        hidden_BLD = hidden_BLD + _attend_all(block.attn, block.ln_1(hidden_BLD))
        hidden_BLD = hidden_BLD + _feed_forward(block, block.ln_2(hidden_BLD))
    last_BD = hidden_BLD[torch.arange(n_rows, device=ids_BL.device), lengths_B - 1]
    block = blocks[-1]
    last_BD = last_BD + _attend_pooled(block.attn, block.ln_1(hidden_BLD), block.ln_1(last_BD), lengths_B)
    last_BD = last_BD + _feed_forward(block, block.ln_2(last_BD))
    return backbone.ln_f(last_BD)


def _attend_all(attention: GPT2Attention, z_BLD: Tensor) -> Tensor:
    """Causal self-attention of every position."""
    n_rows, n_tokens, width = z_BLD.shape
    heads = (n_rows, n_tokens, attention.num_heads, attention.head_dim)
    q, k, v = (part.view(heads).transpose(1, 2) for part in _affine(attention.c_attn, z_BLD).split(width, dim=2))
    dropout = attention.attn_dropout.p if attention.training else 0.0
    out_BHLE = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=attention.scaling)
    return attention.resid_dropout(_affine(attention.c_proj, out_BHLE.transpose(1, 2).reshape(z_BLD.shape)))


def _attend_pooled(attention: GPT2Attention, z_BLD: Tensor, z_BD: Tensor, lengths_B: Tensor) -> Tensor:
    """Self-attention of the pooled position alone; the keys' bias shifts all scores of a row alike and so drops out."""
    n_rows, n_tokens, width = z_BLD.shape
    n_heads, head_width = attention.num_heads, attention.head_dim
    query_DD, key_DD, value_DD = attention.c_attn.weight.split(width, dim=1)
    query_bias_D, _, value_bias_D = attention.c_attn.bias.split(width)
    query_BHE = torch.addmm(query_bias_D, z_BD, query_DD).view(n_rows, n_heads, head_width)
    query_BHD = torch.einsum("bhe,dhe->bhd", query_BHE, key_DD.view(width, n_heads, head_width))
    scores_BHL = torch.bmm(query_BHD, z_BLD.transpose(1, 2)) * attention.scaling
    beyond_BL = torch.arange(n_tokens, device=z_BLD.device) >= lengths_B[:, None]
    weights_BHL = scores_BHL.masked_fill(beyond_BL[:, None], -torch.inf).softmax(dim=-1)
    weights_BHL = attention.attn_dropout(weights_BHL)
    mixed_BHD = torch.bmm(weights_BHL.to(z_BLD.dtype), z_BLD)
    value_BHE = torch.einsum("bhd,dhe->bhe", mixed_BHD, value_DD.view(width, n_heads, head_width))
    value_BHE = value_BHE + weights_BHL.sum(dim=-1, keepdim=True) * value_bias_D.view(n_heads, head_width)
    return attention.resid_dropout(_affine(attention.c_proj, value_BHE.reshape(n_rows, width).to(z_BD.dtype)))


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
