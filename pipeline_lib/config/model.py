"""The model: its options, and the sizes of causal transformers by their config.json, those of hub models among them.

Plans and learning rates need these sizes alone: nothing is asked of the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, unset
from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.errors import UserError

FAMILIES = ("bert", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")  # the last four: gated, with RMS norms

# bytes that a layer keeps of a token until backward, by a unit of (width, queries and keys, feed-forward width): in float32,
# and with products in bfloat16. Counted from the tensors that autograd saves; a model without a line keeps what Llama does
LEAN_BYTES = {  # in the forward of model/decoder.py
    "gpt2": ((32, 0, 8), (20, 0, 4)),
    "gpt_neox": ((36, 0, 8), (16, 0, 4)),
    "llama": ((16, 12, 12), (12, 4, 6)),
    "qwen3": ((16, 12, 12), (12, 8, 6)),  # norms of queries and keys
}
OWN_BYTES = {  # in the model's own, which cut weights, language models and embedding models take
    "bert": ((32, 0, 8), (24, 0, 4)),
    "gpt2": ((32, 0, 8), (20, 0, 4)),
    "gpt_neox": ((40, 0, 8), (22, 0, 4)),
    "llama": ((24, 8, 16), (26, 4, 8)),
    "qwen3": ((24, 16, 16), (26, 10, 8)),
}

DROPPED_BYTES = (5, 4)  # of an input that dropout thins: its mask and its copy, less what is not kept of the input itself

# families whose queries, keys and values are one matrix: the linear layers of a block
_JOINT = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
}

_PYTHIA = {"model_type": "gpt_neox", "vocab_size": 50_304, "max_position_embeddings": 2048}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151_936, "max_position_embeddings": 32_768, "head_dim": 128}


def _sizes(layers: int, width: int, inner: int, heads: int) -> dict[str, int]:
    return {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}


_SMOLLM2 = {"model_type": "llama", "vocab_size": 49_152} | _sizes(30, 576, 1536, 9) | {"num_key_value_heads": 3}
# the fields of config.json that decide sizes, by hub id or the name of `cpt get-start`
HUB_MODELS: dict[str, dict[str, Any]] = {
    "EleutherAI/pythia-410m": _PYTHIA | _sizes(24, 1024, 4096, 16),
    "EleutherAI/pythia-1.4b": _PYTHIA | _sizes(24, 2048, 8192, 16),
    "EleutherAI/pythia-6.9b": _PYTHIA | _sizes(32, 4096, 16_384, 32) | {"vocab_size": 50_432},
    "Qwen/Qwen3-0.6B-Base": _QWEN3 | _sizes(28, 1024, 3072, 16) | {"num_key_value_heads": 8},
    "smollm2-135m": _SMOLLM2,
    "smollm2-135m-instruct-q4": _SMOLLM2,
    "all-minilm-l6-v2": {"model_type": "bert", "vocab_size": 30_522, "max_position_embeddings": 512} | _sizes(6, 384, 1536, 12),
    "Qwen/Qwen3-1.7B-Base": _QWEN3 | _sizes(28, 2048, 6144, 16) | {"num_key_value_heads": 8},
}


class LexicalStartConfig(StageConfig):
    """Lexical start: latent semantic vectors of the training split as word embeddings."""

    latent_share: float = Field(
        0.85,
        description="Weight of the latent semantic vectors in a word's; the rest is random and keeps its identity.",
        ge=0,
        le=1,
    )
    singular_value_power: float = Field(
        0.5, description="Power of the singular value that each latent dimension is scaled by.", ge=0
    )
    power_iterations: int = Field(
        1, description="Power iterations of the randomised decomposition; more are slower and more exact.", ge=0
    )
    seed: int = Field(1, description="Seed of decomposition and noise.", ge=0)


class ModelConfig(StageConfig):
    """Model: a causal transformer, built by `transformers`."""

    init: str = Field(
        "",
        description="Folder of a causal language model or of sentence-transformers to start from, a GGUF file, a name that"
        " `cpt get-start` lists, or an id on the hub; an empty text: a new GPT-2 of `layers`, `width`, `heads`, `inner` and"
        " `positions`.",
    )
    keep_layers: int | None = unset(
        was=None,
        added=True,
        description="First blocks that are kept of a given model, with its final norm; null: all. A cut model trains and"
        " answers in proportion faster.",
        ge=1,
    )
    start: Literal["random", "lexical"] = Field(
        "random",
        description="First weights of a new model. random: GPT-2's initialisation; lexical: step 0 computes a weighted bag of"
        " words, from the training split's own statistics.",
    )
    lexical: LexicalStartConfig = LexicalStartConfig()
    layers: int = Field(2, description="Transformer blocks.", ge=1)
    width: int = Field(256, description="Hidden width, which is the number of the embedding's dimensions.", ge=8)
    heads: int = Field(4, description="Attention heads.", ge=1)
    inner: int = Field(1024, description="Width of the feed-forward layers.", ge=8)
    positions: int = Field(160, description="Longest input (tokens).", ge=8)
    pooling: Literal["last", "mean", "idf_mean"] = added(
        "last",
        description="Pooling of the last layer. last: the state at the closing delimiter (the paper's); mean: the mean over all"
        " tokens, which needs fewer pairs from a language model on (docs/results/lm.md); idf_mean: that mean, each token"
        " weighted by its inverse document frequency, counted on the training pairs and kept with the model.",
    )
    dropout: float = Field(0.0, description="Dropout rate on embeddings, attention output and feed-forward output.", ge=0, lt=1)
    lora: LoraConfig = added(LoraConfig())


class PromptsConfig(StageConfig):
    """Prompts: text before every text of a side or a task, the same in training, evaluation, search and export."""

    query: str | None = Field(
        None,
        description="Text before every x, a query, e.g. 'query: '; it is tokenized with it inside the delimiters, and counts in"
        " `shards.max_x_tokens`. null: the one that a start brings, else none; an empty text: none.",
    )
    document: str | None = Field(
        None, description="Text before every y, a document, as `query`; the index's texts have it too."
    )
    tasks: dict[str, dict[Literal["query", "document"], str]] = Field(
        {},
        description="Prompts of a task in place of these, e.g. {docstring: {query: 'find code: '}}: of a view of pairs or a"
        " training set in training; of a suite, of its kind (code_search, text_search, classification, similarity) or, of"
        " held-out pairs, of their view in evaluation. Searches and indexes have those of the sides.",
    )
    default: str | None = Field(
        None,
        description="Name of the prompt that plain `encode` of sentence-transformers takes, whatever the texts are: query,"
        " document, or TASK-query; null: that of a start, else none.",
    )
    include_prompt: bool | None = Field(
        None,
        description="Pooling over a prompt's tokens too, of no matter to pooling at the last token. false: they are read, and"
        " left out of the mean, and model.onnx is not written; null: as a start does, else true.",
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        for prompt in (self.query, self.document, *(text for prompts in self.tasks.values() for text in prompts.values())):
            if (prompt or "").encode("utf-8", "replace").decode() != (prompt or ""):
                raise ValueError(f"prompts: {prompt!r} is no text that can be written as UTF-8")
        names = {"query", "document", *(f"{task}-{side}" for task, prompts in self.tasks.items() for side in prompts)}
        if self.default is not None and self.default not in names:
            raise ValueError(
                f"prompts.default is {self.default!r}, of which there is no prompt; there are {', '.join(sorted(names))}"
            )
        return self

    @property
    def are_set(self) -> bool:
        """Something is asked for."""
        return self != PromptsConfig()


@dataclass(frozen=True)
class Shape:
    """A causal transformer without its head for words.

    Attributes:
        inner: width of the feed-forward part.
        queries: all heads' queries of one token together; the output's input.
        keys: all heads' keys; values are as wide.
        vectors: weights of a block that are no matrix: biases and norms.
        final: weights of the last norm.
        positions: rows of a learned table of positions; 0: rotary.
        gated: the feed-forward part has three matrices in place of two.
        family: as config.json names it.
        fused: computed by the forward of model/decoder.py, its last layer at the pooled position alone unless `mean`.
        mean: pooled over all positions.
        dropped: inputs of a block's adapters together, each of which reads a copy that dropout has thinned.
    """

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    vectors: int
    final: int
    positions: int = 0
    gated: bool = False
    fused: bool = False
    mean: bool = False
    dropped: int = 0
    family: str = "gpt2"

    @classmethod
    def of(cls, fields: Mapping[str, Any], name: str) -> Self:
        """The shape that a config.json describes.

        Raises:
            UserError: it is of a family whose sizes are not known here.
        """
        family = fields.get("model_type")
        if family not in FAMILIES:
            raise UserError(f"{name}: a model of type {family!r} cannot be planned; known are {', '.join(FAMILIES)}")
        try:
            return cls(**(_gpt2(fields) if family == "gpt2" else _rotary(fields)))
        except KeyError as error:
            raise UserError(f"{name}: its config.json has no field {error}, of a model of type {family!r}") from error

    @classmethod
    def new(cls, model: ModelConfig, vocabulary: int) -> Self:
        """The GPT-2 that `Encoder.build` makes from random weights."""
        sizes = {"n_embd": model.width, "n_inner": model.inner, "n_layer": model.layers, "n_positions": model.positions}
        return cls(**_gpt2({**sizes, "vocab_size": vocabulary}))

    @property
    def block_matrices(self) -> int:
        """Weights of one block's matrices, each of which multiplies every token once."""
        attention = self.width * (2 * self.queries + 2 * self.keys)
        return attention + (3 if self.gated else 2) * self.width * self.inner

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a block's linear layers, by their names below it."""
        width, wide = self.width, self.inner
        if self.family in _JOINT:
            names = _JOINT[self.family]
            return dict(zip(names, ((width, 3 * width), (width, width), (width, wide), (wide, width)), strict=True))
        if self.family == "bert":
            heads = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
            ends = {"attention.output.dense": (width, width), "intermediate.dense": (width, wide)}
            return heads | ends | {"output.dense": (wide, width)}
        heads = {"q_proj": (width, self.queries), "k_proj": (width, self.keys), "v_proj": (width, self.keys)}
        attention = {f"self_attn.{name}": size for name, size in (heads | {"o_proj": (self.queries, width)}).items()}
        return attention | {"mlp.gate_proj": (width, wide), "mlp.up_proj": (width, wide), "mlp.down_proj": (wide, width)}

    @property
    def block(self) -> int:
        """Weights of one block."""
        return self.block_matrices + self.vectors

    @property
    def weights(self) -> int:
        """All weights."""
        return (self.vocabulary + self.positions) * self.width + self.layers * self.block + self.final

    def kept_bytes(self, tokens: int, low: bool = False, checkpointed: bool = False) -> int:
        """Bytes of the graphs that so many tokens keep until backward.

        Args:
            low: matrix products in bfloat16 by autocast.
            checkpointed: a layer keeps its input alone, and is computed again, one at a time (`backward_bytes`).
        """
        ends = 4 * 4 * self.width  # the look-up and its gradient, the last layer's input and its gradient
        at_last = self.fused and not self.mean  # the fused forward's last layer keeps next to nothing
        if at_last and self.gated:  # but its keys and values, and what its norm keeps
            ends += 4 * (2 * self.width + 2 * self.keys)
        layers = self.layers - 1 if at_last else self.layers
        a_layer = self.layer_bytes(low)
        return tokens * (layers * (min(4 * self.width, a_layer) if checkpointed else a_layer) + ends)

    def backward_bytes(self, tokens: int, low: bool = False, checkpointed: bool = False) -> int:
        """Bytes of the widest buffers that one layer's backward has beside the graphs."""
        if self.layers == 1 and self.fused and not self.mean:
            return 0
        widest = (8 if low else 4) * (3 * self.width + self.inner)  # autocast casts them, and back
        return tokens * (widest + (self.layer_bytes(low) if checkpointed else 0))

    def layer_bytes(self, low: bool) -> int:
        """Bytes that a layer keeps of one token until backward."""
        table = LEAN_BYTES if self.fused else OWN_BYTES
        width, heads, inner = table.get(self.family, table["llama"])[low]
        own = width * self.width + heads * (self.queries + self.keys) + inner * self.inner
        return own + DROPPED_BYTES[low] * self.dropped


def _gpt2(fields: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"layers": fields["n_layer"], "vocabulary": fields["vocab_size"], "positions": fields["n_positions"]}
    return sizes | {"fused": True} | _with_biases(fields["n_embd"], fields.get("n_inner") or 4 * fields["n_embd"])


def _rotary(fields: Mapping[str, Any]) -> dict[str, Any]:
    width, inner, heads = (fields[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    sizes = {"layers": fields["num_hidden_layers"], "vocabulary": fields["vocab_size"]}
    sizes |= {"family": fields["model_type"], "fused": True}
    if fields["model_type"] == "gpt_neox":
        return sizes | _with_biases(width, inner)
    if fields["model_type"] == "bert":  # two kinds of tokens beside the positions, and a pooler that is not trained
        sizes |= {"fused": False, "positions": fields["max_position_embeddings"] + fields.get("type_vocab_size", 2)}
        sizes |= _with_biases(width, inner)
        return sizes | {"final": sizes["final"] + width * (width + 1)}
    head = fields.get("head_dim") or width // heads
    queries, keys = heads * head, (fields.get("num_key_value_heads") or heads) * head
    vectors = 2 * width + {"qwen2": queries + 2 * keys, "qwen3": 2 * head}.get(fields["model_type"], 0)  # biases; norms
    parts = {"queries": queries, "keys": keys, "vectors": vectors, "final": width, "gated": True}
    return sizes | {"width": width, "inner": inner} | parts


def _with_biases(width: int, inner: int) -> dict[str, int]:
    """Sizes of a block of GPT-2, GPT-NeoX and BERT: square attention, a bias on everything, two layer norms."""
    vectors = 4 * width + inner + width + 4 * width
    return {"width": width, "inner": inner, "queries": width, "keys": width, "vectors": vectors, "final": 2 * width}


def depth_and_width(folder: Path) -> tuple[int, int]:
    """Layers and hidden width of the model in a folder, by the config.json of whatever family; 0 where none tells.

    A sentence-transformers folder may hold its transformer in a folder below.
    """
    for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whoever loads the model says what is wrong
            continue
        if isinstance(fields, dict) and (width := fields.get("hidden_size") or fields.get("n_embd")):
            return int(fields.get("num_hidden_layers") or fields.get("n_layer") or 0), int(width)
    return 0, 0


def embedding_width(model: ModelConfig) -> int | None:
    """Dimensions of the vectors of a model that has not been loaded; None where only loading it tells."""
    if not model.init:
        return model.width
    if model.init in HUB_MODELS:
        return int(HUB_MODELS[model.init]["hidden_size"])
    folder = Path(model.init)
    # modules behind the pooling may change the width
    return None if (folder / "modules.json").is_file() else depth_and_width(folder)[1] or None


def check_dims(dims: Sequence[int], width: int | None, name: str) -> None:
    """Prefixes of a vector: each named once, above 0, and no longer than the vector.

    Args:
        width: of the vector; None: not known yet.
        name: of the option that they are from.

    Raises:
        UserError: one cannot be.
    """
    for at, dim in enumerate(dims):
        if dim < 1:
            raise UserError(f"{name}: {dim} is no dimension, a prefix has 1 or more")
        if width is not None and dim > width:
            raise UserError(f"{name}: {dim} dimensions of a vector that has {width}; the most is {width}")
        if dim in dims[:at]:
            raise UserError(f"{name}: {dim} comes twice")


def hub_weights(init: str) -> int | None:
    """Weights of a hub model that is known here; None for any other."""
    return Shape.of(HUB_MODELS[init], init).weights if init in HUB_MODELS else None
