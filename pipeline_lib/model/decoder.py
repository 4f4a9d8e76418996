"""Lean forward of causal decoders: the final hidden state at one position a row, without computing what nobody reads.

The weights and the mathematics are those of the backbone's own forward; the work is less. Attention is causal, so that texts
lie end to end and linear layers and norms see no padding, and no attention mask is made. In the last block all but the keys
and values is computed at the pooled position alone. Projections that read the same states are one product, activations are
cast once for it, and the two halves of a block, before and after its attention, are what `torch.compile` is given.

A family is described by the names of its parts, see `FAMILIES`. Whatever a family's code computes by further fields of its
config (softcaps, multipliers, sliding windows, other rotations) is no part of it: such models are left to their own forward.

A GPT-2's rows may also come padded: its last block then forms no keys and values, see pooled_attention.py.

B rows, L tokens, T tokens of all rows, D hidden width, H heads of queries, G of keys and values, E width of a head; S tokens of
any arrangement, (B, L) or (T,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Model, GPTNeoXModel, LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.pytorch_utils import Conv1D

from pipeline_lib.model.attention import Layout, attend, attend_rows, takes_kernel, to_device
from pipeline_lib.model.pooled_attention import attend_pooled

TANH_GELUS = ("NewGELUActivation", "GELUTanh", "FastGELUActivation")
ROTATIONS = ("default", "linear", "llama3", "yarn")  # the others depend on the longest row of a batch


@dataclass(frozen=True)
class Family:
    """Names of the parts of one family of decoders, below its backbone or below a block; "" for what it lacks.

    Attributes:
        projections: queries, keys and values, in this order, or one that makes all three.
        by_head: the one projection holds them head by head, not one after the other.
        inner: the feed-forward part's first matrices: one, or the gate and what it opens.
        positions: a learned table; "" where queries and keys are rotated by `rotary`.
    """

    blocks: str
    last_norm: str
    norms: tuple[str, str]
    projections: tuple[str, ...]
    output: str
    inner: tuple[str, ...]
    outer: str
    activation: str
    attention: str
    by_head: bool = False
    query_key_norms: tuple[str, ...] = ()
    positions: str = ""
    rotary: str = "rotary_emb"
    dropouts: tuple[str, ...] = ()  # of embeddings; in a block of attention and of the feed-forward part


LLAMA = Family(
    blocks="layers",
    last_norm="norm",
    norms=("input_layernorm", "post_attention_layernorm"),
    attention="self_attn",
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.o_proj",
    inner=("mlp.gate_proj", "mlp.up_proj"),
    outer="mlp.down_proj",
    activation="mlp.act_fn",
)
FAMILIES: dict[type[nn.Module], Family] = {
    LlamaModel: LLAMA,
    MistralModel: LLAMA,
    Qwen2Model: LLAMA,
    Qwen3Model: Family(**{**LLAMA.__dict__, "query_key_norms": ("self_attn.q_norm", "self_attn.k_norm")}),
    GPTNeoXModel: Family(
        blocks="layers",
        last_norm="final_layer_norm",
        norms=("input_layernorm", "post_attention_layernorm"),
        attention="attention",
        projections=("attention.query_key_value",),
        by_head=True,
        output="attention.dense",
        inner=("mlp.dense_h_to_4h",),
        outer="mlp.dense_4h_to_h",
        activation="mlp.act",
        dropouts=("emb_dropout", "post_attention_dropout", "post_mlp_dropout"),
    ),
    GPT2Model: Family(
        blocks="h",
        last_norm="ln_f",
        norms=("ln_1", "ln_2"),
        attention="attn",
        projections=("attn.c_attn",),
        output="attn.c_proj",
        inner=("mlp.c_fc",),
        outer="mlp.c_proj",
        activation="mlp.act",
        positions="wpe",
        rotary="",
        dropouts=("drop", "attn.resid_dropout", "mlp.dropout"),
    ),
}

Activation = Callable[[Tensor], Tensor]


class Block(NamedTuple):
    """Parts of one block, found by their names."""

    norms: tuple[nn.Module, ...]
    projections: tuple[nn.Module, ...]
    output: nn.Module
    inner: tuple[nn.Module, ...]
    outer: nn.Module
    activation: Activation
    query_key_norms: tuple[nn.Module, ...]
    dropouts: tuple[nn.Module, ...]
    head_width: int
    scaling: float
    by_head: bool
    parallel: bool  # attention and feed-forward part read the same states


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


def family_of(backbone: nn.Module) -> Family | None:
    """The family whose lean forward computes what the backbone's own does; None where no description fits all of it."""
    family = FAMILIES.get(type(backbone))
    if family is None or not _is_plain(cast(PreTrainedModel, backbone).config):
        return None
    for module in blocks_of(backbone, family):
        layers = [attrgetter(name)(module) for name in (*family.projections, family.output, *family.inner, family.outer)]
        if any(type(layer) not in (nn.Linear, Conv1D) for layer in layers) or _attention_dropout(module, family):
            return None
    return family


def _is_plain(config: Any) -> bool:
    rotation = getattr(config, "rope_parameters", None) or {}
    return not getattr(config, "add_cross_attention", False) and rotation.get("rope_type", "default") in ROTATIONS


def _attention_dropout(block: nn.Module, family: Family) -> float:
    attention = attrgetter(family.attention)(block)
    dropout = getattr(attention, "attn_dropout", None)  # a GPT-2's module; the others' number
    return float(dropout.p if dropout is not None else getattr(attention, "attention_dropout", 0.0))


def longest_row(backbone: PreTrainedModel) -> int | None:
    """Tokens of the longest row that attention sees whole, where the config has a sliding window; None: of any."""
    config = backbone.config
    layers = getattr(config, "layer_types", None)
    slides = "sliding_attention" in layers if layers is not None else True
    return getattr(config, "sliding_window", None) if slides else None


def blocks_of(backbone: nn.Module, family: Family) -> list[nn.Module]:
    """The transformer's blocks, in order."""
    return list(getattr(backbone, family.blocks))


def block_of(module: nn.Module, family: Family) -> Block:
    """The parts of a block; found anew for each pass, since whoever holds the backbone may exchange them."""

    def found(names: Sequence[str]) -> tuple[nn.Module, ...]:
        return tuple(attrgetter(name)(module) for name in names)

    attention: Any = attrgetter(family.attention)(module)
    return Block(
        norms=found(family.norms),
        projections=found(family.projections),
        output=attrgetter(family.output)(module),
        inner=found(family.inner),
        outer=attrgetter(family.outer)(module),
        activation=_activation(attrgetter(family.activation)(module)),
        query_key_norms=found(family.query_key_norms),
        dropouts=found(family.dropouts[1:]),
        head_width=getattr(attention, "head_dim", None) or attention.head_size,
        scaling=float(attention.scaling),
        by_head=family.by_head,
        parallel=bool(getattr(module, "use_parallel_residual", False)),
    )


def _activation(module: nn.Module) -> Activation:
    """The fused tanh GELU where it is one: transformers spells some of its names out in five passes over memory."""
    return _tanh_gelu if type(module).__name__ in TANH_GELUS else module


def _tanh_gelu(inner: Tensor) -> Tensor:
    return F.gelu(inner, approximate="tanh")


def last_token_states(
    backbone: PreTrainedModel,
    ids: Tensor,
    lengths_B: Tensor,
    tokens_SD: Tensor | None = None,
    regions: Regions | None = None,
    checkpointed: bool = False,
) -> Tensor:
    """Last hidden state (after the final norm) at the last token of each row: (B, D).

    Args:
        backbone: of a known family; its dropouts are drawn in training mode, as in its own forward.
        ids: int64 token ids: right-padded (B, L), where what stands at and after `lengths_B` is not read, or end to end (T,).
        lengths_B: int64, 1 to L; kept on the host they are not waited for.
        tokens_SD: the token embeddings of `ids`, row by row, where the caller looked them up already.
        regions: compiled ones.
        checkpointed: a block keeps its input alone, and is computed again on the way back.
    """
    family, regions = FAMILIES[type(backbone)], regions or REGIONS
    if tokens_SD is None:
        tokens_SD = backbone.get_input_embeddings()(ids.reshape(-1))
    if ids.dim() == 2 and not family.positions:
        tokens_SD, ids = _real_tokens(tokens_SD, ids.shape[1], lengths_B), ids.new_empty(0)
    layout = None
    if ids.dim() == 1:
        heads = backbone.config.hidden_size // backbone.config.num_attention_heads
        width = getattr(backbone.config, "head_dim", None) or heads
        dtype = torch.get_autocast_dtype(tokens_SD.device.type) if _is_autocast(tokens_SD) else tokens_SD.dtype
        layout = Layout.of(lengths_B, tokens_SD.device, takes_kernel(tokens_SD.device, dtype, width))
    hidden, rotation = _first_states(backbone, family, tokens_SD, ids, layout)
    blocks = [block_of(module, family) for module in blocks_of(backbone, family)]
    for block in blocks[:-1]:
        parts = (block, hidden, rotation, layout, regions)
        hidden = checkpoint(full_block, *parts, use_reentrant=False) if checkpointed else full_block(*parts)
    if layout is None:
        module = blocks_of(backbone, family)[-1]
        last_BD, attended_BD = attend_pooled(cast(GPT2Block, module), hidden, lengths_B.to(hidden.device))
    else:
        last_BD, attended_BD = _attend_last(blocks[-1], hidden, rotation, layout, regions)
    return attrgetter(family.last_norm)(backbone)(regions.after(blocks[-1], last_BD, attended_BD))


def _is_autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)


def _real_tokens(tokens_SD: Tensor, n_columns: int, lengths_B: Tensor) -> Tensor:
    """The embeddings without those of padding."""
    lengths_B = lengths_B.cpu()
    is_real = torch.arange(n_columns) < lengths_B[:, None]
    if bool(is_real.all()):
        return tokens_SD
    return tokens_SD.index_select(0, to_device(is_real.flatten().nonzero().squeeze(1), tokens_SD.device))


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
    if layout is None:
        attended = attend_rows(q, k, v, block.scaling)
    else:
        attended = attend(q, k, v, layout, block.scaling)
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
        gate, opened = inner.chunk(2, dim=-1)
        return _affine((block.outer,), block.activation(gate) * opened)
    return _affine((block.outer,), block.activation(inner))


def _norm(norm: nn.Module, hidden: Tensor) -> Tensor:
    """The norm; that of Llama and its kin in one operation, where there is one."""
    epsilon = getattr(norm, "variance_epsilon", None)
    if epsilon is None:
        return norm(hidden)
    weight = cast(Tensor, norm.weight)
    return F.rms_norm(hidden.to(weight.dtype), weight.shape, weight, epsilon)


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
        query = block.projections[0]
        return (cast(Tensor, query.weight), cast("Tensor | None", query.bias)), _joint(block.projections[1:])
    (joint,) = block.projections
    weight, bias = cast(Tensor, joint.weight), cast("Tensor | None", joint.bias)
    if isinstance(joint, Conv1D):
        weight = weight.T
    places = (-1, 3, block.head_width) if block.by_head else (1, 3, weight.shape[0] // 3)

    def taken(whole: Tensor, cut: slice) -> Tensor:
        return whole.unflatten(0, places)[:, cut].flatten(0, 2)

    query, others = slice(0, 1), slice(1, 3)
    if bias is None:
        return (taken(weight, query), None), (taken(weight, others), None)
    return (taken(weight, query), taken(bias, query)), (taken(weight, others), taken(bias, others))


def _joint(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of linear layers that read the same, one below the other."""
    weights = [cast(Tensor, layer.weight) for layer in layers]
    biases = [cast("Tensor | None", layer.bias) for layer in layers]
    if all(bias is None for bias in biases):
        return torch.cat(weights), None
    filled = [w.new_zeros(len(w)) if bias is None else bias for w, bias in zip(weights, biases, strict=True)]
    return torch.cat(weights), torch.cat(filled)


def _affine(layers: Sequence[nn.Module], z: Tensor) -> Tensor:
    """x W + b of one layer, or of several side by side as one product."""
    if len(layers) > 1:
        return F.linear(z, *_joint(layers))
    (layer,) = layers
    if not isinstance(layer, Conv1D):
        return layer(z)
    flat = torch.addmm(layer.bias, z.reshape(-1, z.shape[-1]), layer.weight)  # weights of shape (inputs, outputs)
    return flat.view(*z.shape[:-1], layer.weight.shape[1])
