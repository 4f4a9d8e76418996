"""Fused last-token forward of GPT-2: the final hidden state at one position a row, without computing what nobody reads.

The weights and the mathematics are those of `GPT2Model.forward`; the work is less. Rows are right-padded and attention is
causal, so no position up to the pooled one sees padding, and the layers below the last need no mask.

In the last layer only the pooled position's query, feed-forward and norm are computed. Keys and values are never formed: with
q the query and W_k the key weights of a head, q . (z W_k) = (W_k q) . z, and the values' weights move behind the sum over
positions. A token costs that layer 4 H D multiplications in place of 12 D^2. What remains is memory traffic: on a CPU rows are
taken a few at a time, so that their normed states stay in the cache, and are normed again for the gradient instead of being
kept. Forward and backward together make four passes over the hidden states, not fifteen.

Rows may also come packed, end to end without padding. Attention is then PyTorch's variable-length kernel
(torch.nn.attention.varlen, FlashAttention) on a GPU in 16 bits, and elsewhere PyTorch's ordinary one for each run of neighbours
of one length: micro-batches are sorted by length, so that there are as many runs as lengths. The last layer forms keys and
values, which the kernel reads, for one query a row.

B rows, L tokens, D hidden width, H heads, E = D / H width of a head, C rows of one tile. Packed: T tokens of all rows, S
queries (T, one a token, or B, one a row).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

CPU_TILE_BYTES = 1 << 22  # of normed states; caches of the third level hold 16 MiB and more
KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_WIDTH_STEP, KERNEL_WIDEST = 8, 256  # of a head; FlashAttention 2
PROBE_LENGTHS = (1, 2, 7, 7, 33)
PROBE_COSINE = 0.999
TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


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
    weights = (norm.weight, norm.bias, attention.c_attn.weight, attention.c_attn.bias)
    with torch.autocast(hidden_BLD.device.type, enabled=False):
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


class Layout(NamedTuple):
    """Positions of the sequences of a packed micro-batch."""

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
        """Index of each sequence's last token: int64 (B,)."""
        return self.cu_lengths[1:].long() - 1


def attend(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, cu_lengths: Tensor, max_length: int, scaling: float) -> Tensor:
    """Causal attention of every token in its own sequence (S = T), or of each sequence's last one (S = B): (S, H, E)."""
    if takes_kernel(q_SHE.device, q_SHE.dtype, q_SHE.shape[-1]):
        return _by_kernel(q_SHE, k_THE, v_THE, cu_lengths, max_length, scaling)
    return _by_runs(q_SHE, k_THE, v_THE, cu_lengths, scaling)


def takes_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """True if PyTorch's variable-length kernel takes such tensors; `kernel_obstacle` says if it runs here."""
    fits = head_width % KERNEL_WIDTH_STEP == 0 and head_width <= KERNEL_WIDEST
    return device.type == "cuda" and dtype in KERNEL_TYPES and fits


@functools.cache
def kernel_obstacle(device: torch.device, head_width: int) -> str:
    """Obstacle to the kernel for bfloat16 on this device, "" if none: it is run there, and its gradients compared."""
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


Layer = Callable[[GPT2Block, Tensor, Layout | None], Tensor]


def is_supported(backbone: nn.Module) -> bool:
    """True if the fused last-token forward computes what the backbone's own forward does: a GPT-2 without attention dropout."""
    if not isinstance(backbone, GPT2Model) or backbone.config.add_cross_attention:
        return False
    return all(cast(GPT2Block, block).attn.attn_dropout.p == 0 for block in backbone.h)


def full_layer(block: GPT2Block, hidden: Tensor, layout: Layout | None = None) -> Tensor:
    """A layer at every position: what all but the last compute; of (B, L, D), or of packed (T, D) and their layout."""
    z = block.ln_1(hidden)
    hidden = hidden + (_attend_all(block.attn, z) if layout is None else _attend_packed(block.attn, z, layout))
    return hidden + _feed_forward(block, block.ln_2(hidden))


def last_token_states(
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
    return finish(backbone, last_BD, attended_BD)


def packed_last_token_states(
    backbone: GPT2Model, ids_T: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None = None, layer: Layer = full_layer
) -> Tensor:
    """`last_token_states` of rows that lie end to end: `ids_T` has no padding, and its length is the sum of `lengths_B`."""
    layout = Layout.of(lengths_B)
    if tokens_TD is None:
        tokens_TD = backbone.wte(ids_T)
    hidden_TD = backbone.drop(tokens_TD + F.embedding(layout.positions_T, backbone.wpe.weight))
    blocks = cast(list[GPT2Block], list(backbone.h))
    for block in blocks[:-1]:
        hidden_TD = layer(block, hidden_TD, layout)
    attention, z_TD, last_B = blocks[-1].attn, blocks[-1].ln_1(hidden_TD), layout.last_tokens()
    width = z_TD.shape[1]
    (query_DD, keys_values), (query_D, biases) = (w.split([width, 2 * width], dim=-1) for w in joint_projection(attention))
    q_BD = torch.addmm(query_D, z_TD[last_B], query_DD)
    q, k, v = (_heads(attention, z) for z in (q_BD, *torch.addmm(biases, z_TD, keys_values).split(width, dim=1)))
    attended_BHE = attend(q, k, v, layout.cu_lengths, layout.max_length, float(attention.scaling))
    return finish(backbone, hidden_TD[last_B], attended_BHE.flatten(1))


def finish(backbone: GPT2Model, last_BD: Tensor, attended_BD: Tensor) -> Tensor:
    """Rest of the forward pass after the last layer's attention, at the pooled position."""
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


def joint_projection(attention: GPT2Attention) -> tuple[Tensor, Tensor]:
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
