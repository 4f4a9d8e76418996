"""Lean forward of causal decoders: one pooled state a row, without computing what nobody reads.

The weights and the mathematics are those of the backbone's own forward; the work is less. Attention is causal, so that texts
lie end to end and linear layers and norms see no padding, and no attention mask is made. Where a row is pooled at its last
token, all but the keys and values of the last block is computed there alone. Projections that read the same states are one
product, activations are cast once for it, and the two halves of a block, before and after its attention, are what
`torch.compile` is given.

A family is described by the names of its parts, see families.py; a model that none describes is left to its own forward.

A GPT-2's rows may also come padded: its last block then forms no keys and values, see pooled_attention.py.

B rows, L tokens, T tokens of all rows, D hidden width, H heads of queries, G of keys and values, E width of a head; S tokens of
any arrangement, (B, L) or (T,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.pytorch_utils import Conv1D

from pipeline_lib.model.adapter import delta, weight_of
from pipeline_lib.model.attention import Layout, attend, attend_rows, runs_kernel, to_device
from pipeline_lib.model.families import FAMILIES, Block, Family, block_of, blocks_of
from pipeline_lib.model.lean_ops import gated, rms_norm
from pipeline_lib.model.pooled_attention import attend_pooled
from pipeline_lib.model.pooling import Pooling, pool


class Rotation(NamedTuple):
    """Cosines and sines that rotate each token's queries and keys: (S, 1, R), R at most E."""

    cosines: Tensor
    sines: Tensor


Parts = tuple[Tensor, Tensor, Tensor]


class Regions(NamedTuple):
    """What a block computes before and after its attention, and before it in the last block; or the same, compiled."""

    before: Callable[[Block, Tensor, Rotation | None], Parts]
    before_last: Callable[[Block, Tensor, Tensor, Rotation | None], Parts]
    after: Callable[[Block, Tensor, Tensor], Tensor]


class ForwardOptions(NamedTuple):
    """How a forward is computed.

    Attributes:
        regions: compiled ones.
        checkpointed: a block keeps its input alone, and is computed again on the way back.
        pooling: "last", at the last token of each row, or "mean" or "idf_mean".
        skipped_B: int64, tokens at the beginning of each row that the mean leaves out, a prompt's.
        weights_V: of each token of the vocabulary in the mean, above 0; None: all alike.
    """

    regions: Regions | None = None
    checkpointed: bool = False
    pooling: Pooling = "last"
    skipped_B: Tensor | None = None
    weights_V: Tensor | None = None


def pooled_states(
    backbone: PreTrainedModel,
    ids: Tensor,
    lengths_B: Tensor,
    tokens_SD: Tensor | None = None,
    options: ForwardOptions | None = None,
) -> Tensor:
    """Last hidden states (after the final norm) of each row, pooled: (B, D).

    Args:
        backbone: of a known family; its dropouts are drawn in training mode, as in its own forward.
        ids: int64 token ids: right-padded (B, L), where what stands at and after `lengths_B` is not read, or end to end (T,).
        lengths_B: int64, 1 to L; kept on the host they are not waited for.
        tokens_SD: the token embeddings of `ids`, row by row, where the caller looked them up already.
    """
    regions, checkpointed, pooling, skipped_B, weights_V = options or ForwardOptions()
    family, regions = FAMILIES[type(backbone)], regions or REGIONS
    assert pooling != "idf_mean" or weights_V is not None, "the weights of tokens are not known yet"
    weights = None if weights_V is None else weights_V[ids]  # of the same arrangement
    if tokens_SD is None:
        tokens_SD = backbone.get_input_embeddings()(ids.reshape(-1))
    if ids.dim() == 2 and not family.positions:
        weights = weights if weights is None else _real_tokens(weights.reshape(-1), ids.shape[1], lengths_B)
        tokens_SD, ids = _real_tokens(tokens_SD, ids.shape[1], lengths_B), ids.new_empty(0)
    layout = None
    if ids.dim() == 1:
        heads = backbone.config.hidden_size // backbone.config.num_attention_heads
        width = getattr(backbone.config, "head_dim", None) or heads
        layout = Layout.of(lengths_B, tokens_SD.device, runs_kernel(tokens_SD, width))
    hidden, rotation = _first_states(backbone, family, tokens_SD, ids, layout)
    blocks = [block_of(module, family) for module in blocks_of(backbone, family)]
    for block in blocks[:-1] if pooling == "last" else blocks:
        parts = (block, hidden, rotation, layout, regions)
        hidden = checkpoint(full_block, *parts, use_reentrant=False) if checkpointed else full_block(*parts)
    last_norm = attrgetter(family.last_norm)(backbone)
    if pooling != "last":
        states = last_norm(hidden)
        if layout is None:
            return pool(states, lengths_B.to(states.device), pooling, skipped_B, weights)
        return _mean(states, layout, skipped_B, weights)
    if layout is None:
        module = blocks_of(backbone, family)[-1]
        last_BD, attended_BD = attend_pooled(cast(GPT2Block, module), hidden, lengths_B.to(hidden.device))
    else:
        last_BD, attended_BD = _attend_last(blocks[-1], hidden, rotation, layout, regions)
    return last_norm(regions.after(blocks[-1], last_BD, attended_BD))


def _mean(states_TD: Tensor, layout: Layout, skipped_B: Tensor | None, weights_T: Tensor | None) -> Tensor:
    """The mean over each row's own tokens, (B, D) in float32."""
    lengths_B, states_TD = layout.cu_lengths.diff().long(), states_TD.float()
    if skipped_B is not None:
        taken_T = layout.positions_T >= skipped_B.repeat_interleave(lengths_B, output_size=len(states_TD))
        places = taken_T.nonzero().squeeze(1)
        states_TD, lengths_B = states_TD.index_select(0, places), lengths_B - skipped_B
        weights_T = weights_T if weights_T is None else weights_T[places]
    if weights_T is None:
        return _reduced(states_TD, "mean", lengths_B)
    return _reduced(states_TD * weights_T[:, None], "sum", lengths_B) / _reduced(weights_T, "sum", lengths_B)[:, None]


def _reduced(values: Tensor, how: str, lengths_B: Tensor) -> Tensor:
    return torch.segment_reduce(values, how, lengths=lengths_B, unsafe=True)  # whose check waits for a GPU


def _real_tokens(values_S: Tensor, n_columns: int, lengths_B: Tensor) -> Tensor:
    """What there is of every token (S, ...), embeddings say, without that of padding."""
    lengths_B = lengths_B.cpu()
    is_real = torch.arange(n_columns) < lengths_B[:, None]
    if bool(is_real.all()):
        return values_S
    return values_S.index_select(0, to_device(is_real.flatten().nonzero().squeeze(1), values_S.device))


def _first_states(
    backbone: PreTrainedModel, family: Family, tokens_SD: Tensor, ids: Tensor, layout: Layout | None
) -> tuple[Tensor, Rotation | None]:
    """What enters the first block, and the rotation of every token."""
    rotation = None
    if layout is None:
        n_rows, n_tokens = ids.shape
        hidden = tokens_SD.view(n_rows, n_tokens, -1) + getattr(backbone, family.positions).weight[:n_tokens]
    elif family.positions:
        hidden = tokens_SD + F.embedding(layout.positions_T, getattr(backbone, family.positions).weight)
    else:
        hidden = tokens_SD
        positions_1L = torch.arange(layout.longest, device=hidden.device)[None]
        tables = getattr(backbone, family.rotary)(hidden, positions_1L)
        rotation = Rotation(*(table[0].index_select(0, layout.positions_T)[:, None] for table in tables))
    return attrgetter(family.dropouts[0])(backbone)(hidden) if family.dropouts else hidden, rotation


def full_block(
    block: Block, hidden: Tensor, rotation: Rotation | None, layout: Layout | None, regions: Regions | None = None
) -> Tensor:
    """A block at every position: what all but the last compute; of (B, L, D), or of packed (T, D) and their layout."""
    regions = regions or REGIONS
    q, k, v = regions.before(block, hidden, rotation)
    attended = attend_rows(q, k, v, block.scaling) if layout is None else attend(q, k, v, layout, block.scaling)
    return regions.after(block, hidden, attended.flatten(-2))


def _attend_last(
    block: Block, hidden_TD: Tensor, rotation: Rotation | None, layout: Layout, regions: Regions
) -> tuple[Tensor, Tensor]:
    """The states at each row's last token, and what its heads attend there: (B, D) and (B, H E)."""
    q, k, v = regions.before_last(block, hidden_TD, layout.last_B, rotation)
    return hidden_TD.index_select(0, layout.last_B), attend(q, k, v, layout, block.scaling).flatten(1)


def before(block: Block, hidden: Tensor, rotation: Rotation | None) -> Parts:
    """Queries, keys and values of every token, (S, H, E) and twice (S, G, E), rotated."""
    parts = _affine(block.projections, _norm(block.norms[0], hidden))
    if block.by_head:
        q, k, v = parts.unflatten(-1, (-1, 3, block.head_width)).unbind(-2)
    else:
        q, k, v = (part.unflatten(-1, (-1, block.head_width)) for part in parts.split(_sizes(block, parts), dim=-1))
    return _placed(block, 0, q, rotation), _placed(block, 1, k, rotation), v


def before_last(block: Block, hidden_TD: Tensor, last_B: Tensor, rotation: Rotation | None) -> Parts:
    """Queries of the last tokens alone, (B, H, E); keys and values of every token, (T, G, E)."""
    z_TD = _norm(block.norms[0], hidden_TD)
    (query, query_bias), (others, other_bias) = _apart(block)
    q_BHE = F.linear(z_TD.index_select(0, last_B), query, query_bias).unflatten(-1, (-1, block.head_width))
    parts = F.linear(z_TD, others, other_bias)
    if block.by_head:
        k_TGE, v_TGE = parts.unflatten(-1, (-1, 2, block.head_width)).unbind(-2)
    else:
        k_TGE, v_TGE = (part.unflatten(-1, (-1, block.head_width)) for part in parts.chunk(2, dim=-1))
    at_last = rotation and Rotation(*(table.index_select(0, last_B) for table in rotation))
    return _placed(block, 0, q_BHE, at_last), _placed(block, 1, k_TGE, rotation), v_TGE


def after(block: Block, hidden: Tensor, attended: Tensor) -> Tensor:
    """The states behind the block, from those before it and what its heads attend, side by side."""
    out = _dropped(block, 0, _affine((block.output,), attended))
    if block.parallel:
        return _dropped(block, 1, _feed_forward(block, hidden)) + out + hidden
    hidden = hidden + out
    return hidden + _dropped(block, 1, _feed_forward(block, hidden))


REGIONS = Regions(before, before_last, after)


def compiled_regions() -> Regions:
    """The regions by torch.compile: one graph each for all blocks and all numbers of tokens."""
    # eager's random numbers: gradient caching draws them again, and compiled or not a run has the same dropout
    options = {"fallback_random": True}
    return Regions(*(torch.compile(region, dynamic=True, options=options) for region in REGIONS))


def _feed_forward(block: Block, hidden: Tensor) -> Tensor:
    inner = _affine(block.inner, _norm(block.norms[1], hidden))
    if len(block.inner) == 2:
        return _affine((block.outer,), gated(inner, block.activation))
    return _affine((block.outer,), block.activation(inner))


def _norm(norm: nn.Module, hidden: Tensor) -> Tensor:
    """The norm; that of Llama and its kin in one operation, where there is one."""
    epsilon = getattr(norm, "variance_epsilon", None)
    if epsilon is None:
        return norm(hidden)
    return rms_norm(hidden, cast(Tensor, norm.weight), epsilon)


def _placed(block: Block, which: int, heads: Tensor, rotation: Rotation | None) -> Tensor:
    """Queries (0) or keys (1), normed where the family does, and rotated to their tokens' places; in their own precision."""
    if rotation is None:
        return heads
    turned = _norm(block.query_key_norms[which], heads) if block.query_key_norms else heads
    width = rotation.cosines.shape[-1]
    moving, still = turned[..., :width], turned[..., width:]
    left, right = moving.chunk(2, dim=-1)
    moved = moving * rotation.cosines + torch.cat([-right, left], dim=-1) * rotation.sines
    return torch.cat([moved, still], dim=-1).to(heads.dtype) if still.shape[-1] else moved.to(heads.dtype)


def _dropped(block: Block, which: int, states: Tensor) -> Tensor:
    return block.dropouts[which](states) if block.dropouts else states


def _sizes(block: Block, parts: Tensor) -> list[int]:
    if len(block.projections) == 1:
        return [parts.shape[-1] // 3] * 3
    return [cast(Tensor, layer.weight).shape[0] for layer in block.projections]


def _apart(block: Block) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Weights (outputs, inputs) and biases of the queries, and those of keys and values together."""
    if len(block.projections) == 3:
        query, *others = block.projections
        return (weight_of(query), cast("Tensor | None", query.bias)), _joint(others, [weight_of(layer) for layer in others])
    (joint,) = block.projections
    weight, bias = weight_of(joint), cast("Tensor | None", joint.bias)
    if isinstance(joint, Conv1D):
        weight = weight.T
    places = (-1, 3, block.head_width) if block.by_head else (1, 3, weight.shape[0] // 3)

    def taken(whole: Tensor, cut: slice) -> Tensor:
        return whole.unflatten(0, places)[:, cut].flatten(0, 2)

    first, rest = slice(0, 1), slice(1, 3)
    if bias is None:
        return (taken(weight, first), None), (taken(weight, rest), None)
    return (taken(weight, first), taken(bias, first)), (taken(weight, rest), taken(bias, rest))


def _joint(layers: Sequence[nn.Module], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of linear layers that read the same, one below the other."""
    biases = [cast("Tensor | None", layer.bias) for layer in layers]
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    filled = [w.new_zeros(len(w)) if bias is None else bias for w, bias in zip(weights, biases, strict=True)]
    return torch.cat(weights), torch.cat(filled)


def _affine(layers: Sequence[nn.Module], z: Tensor) -> Tensor:
    """x W + b of one layer, or of several side by side as one product."""
    (layer, *others) = layers
    if torch.is_autocast_enabled(z.device.type):
        z = z.to(torch.get_autocast_dtype(z.device.type))  # once, for the layers and each of their adapters
    if not others and not isinstance(layer, Conv1D):
        return layer(z)  # its adapter's part with it
    if others:
        out = F.linear(z, *_joint(layers, [cast(Tensor, one.weight) for one in layers]))
    else:
        flat = torch.addmm(layer.bias, z.reshape(-1, z.shape[-1]), layer.weight)  # weights of shape (inputs, outputs)
        out = flat.view(*z.shape[:-1], layer.weight.shape[1])
    adapted = delta(tuple(layers), z)
    return out if adapted is None else out + adapted.to(out.dtype)
