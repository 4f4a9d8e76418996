"""Families of causal decoders, each described by the names of its parts.

Whatever a family's code computes by further fields of its config (softcaps, multipliers, rotations that depend on the batch) is
no part of a description: such models are left to their own forward, as are those of any other class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model, GPTNeoXModel, LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.pytorch_utils import Conv1D

from pipeline_lib.model.pooling import pooling_of

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
    Qwen3Model: replace(LLAMA, query_key_norms=("self_attn.q_norm", "self_attn.k_norm")),
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


def pools_padded(backbone: nn.Module) -> bool:
    """True where the last block, of padded rows, forms no keys and values: a GPT-2 that is pooled at its last token."""
    return isinstance(backbone, GPT2Model) and pooling_of(backbone) == "last"


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
