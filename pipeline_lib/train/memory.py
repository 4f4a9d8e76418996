"""Memory of a training step by part, estimated from the sizes of model and batch alone. Imports no torch.

D width, I width of the feed-forward layers, T tokens of a micro-batch, B pairs of the global batch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pipeline_lib.config.lora import LoraConfig, adapter_weights, chosen_matrices
from pipeline_lib.config.model import HUB_MODELS, ModelConfig, Shape
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError

Parallel = Literal["ddp", "fsdp"]
Synchronise = Literal["step", "micro_batch"]

TILE_LOGITS = 1 << 24  # of loss.py
TAUGHT_LOGIT_BYTES = 37  # of a divergence from a guide: both distributions, their logarithms and what they were made of
LOGIT_BYTES = 17  # two matrices in float32; of rows with repeated texts a copy, a filled copy and masks
WORD_LOGIT_BYTES = 12  # of a language model's head: logits, their probabilities and gradients


ALL_WEIGHTS = LoraConfig()


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    communication: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        """The parts as people read them."""
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in asdict(self).items() if size) + " GB"


@dataclass(frozen=True)
class Layout:
    """Layout of a step: its processes, what each holds whole, and the micro-batches that it computes.

    Attributes:
        processes: of all machines together.
        checkpoint_activations: layers keep their inputs alone.
        cached: gradient caching, with all texts at their longest; else all activations of a batch are kept.
        activation_bytes: room for these, beyond which a batch is cached.
    """

    processes: int
    parallel: Parallel = "ddp"
    synchronise: Synchronise = "step"
    micro_batch_tokens: int = 16_384
    checkpoint_activations: bool = False
    cached: bool = True
    activation_bytes: int = 0

    @property
    def is_cut(self) -> bool:
        """True where no process holds all weights."""
        return self.parallel == "fsdp" and self.processes > 1


@dataclass(frozen=True)
class Workload:
    """What the memory of a step follows from: the model's sizes, the configuration of its training, lengths of texts.

    Attributes:
        x_tokens, y_tokens: longest texts of a pair.
        head: weights of a language model's head for words, where it is trained apart from the table.
        lora: adapters that are trained in place of the weights, where it has a rank.
        name: for messages.
    """

    shape: Shape
    config: TrainConfig | PretrainConfig
    x_tokens: int
    y_tokens: int
    head: int = 0
    name: str = "the run"
    lora: LoraConfig = ALL_WEIGHTS

    @classmethod
    def planned(cls, config: RunConfig) -> Self:
        """The contrastive training of a run that may have no artifacts yet.

        Raises:
            UserError: the start is neither known nor here, or its sizes cannot be told.
        """
        shape = as_computed(shape_of(config.model, config.tokenizer.vocab_size), config.model)
        lengths = config.shards.max_x_tokens, config.shards.max_y_tokens
        return cls(shape, config.train, *lengths, name=config.name, lora=config.model.lora)

    @property
    def weights(self) -> int:
        """Weights of the model, the logit scale among them; appended delimiters are not counted."""
        return self.shape.weights + 1 + self.head

    @property
    def trained(self) -> int:
        """Weights that are trained: all, or the adapters and the logit scale.

        Raises:
            UserError: the adapters do not fit the model.
        """
        if not self.lora.rank:
            return self.weights
        return self.shape.layers * adapter_weights(self.lora, chosen_matrices(self.lora, self.shape.matrices).values()) + 1

    @property
    def muon_weights(self) -> int:
        """Weights that have one moment, not two."""
        return self.shape.layers * self.shape.block_matrices if self.config.optimizer == "muon" else 0

    @property
    def state_bytes(self) -> int:
        """A training state on the disk: weights that are trained, their moments, and their average where there is one."""
        return 4 * (self.trained * (4 if self.config.weight_average else 3) - self.muon_weights)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is computed in one piece."""
        if isinstance(self.config, PretrainConfig):
            return self.config.sequence_tokens
        return max(self.x_tokens, self.y_tokens)

    def local_tokens(self, processes: int) -> int:
        """Tokens of one process's share of a batch, texts at their longest: the most that a run takes."""
        config = self.config
        tokens = (
            config.batch_tokens if isinstance(config, PretrainConfig) else config.batch_size * (self.x_tokens + self.y_tokens)
        )
        return -(-tokens // processes)

    @property
    def low(self) -> bool:
        """True where matrix products are in bfloat16."""
        return self.config.precision != "float32"  # auto: what the device that is planned for takes

    def kept_bytes(self, tokens: int, layout: Layout) -> int:
        """Activations of that many tokens until backward."""
        return self._computed(layout).kept_bytes(tokens, self.low, self.config.checkpoint_activations)

    def backward_bytes(self, layout: Layout) -> int:
        """Widest buffers of one layer's backward pass, of a micro-batch."""
        return self._computed(layout).backward_bytes(self.at_once(layout), self.low, self.config.checkpoint_activations)

    def at_once(self, layout: Layout) -> int:
        """Tokens of a micro-batch; no more than there are."""
        return min(self.local_tokens(layout.processes), max(layout.micro_batch_tokens, self.longest))

    def _computed(self, layout: Layout) -> Shape:
        """The model as its layers are computed: cut weights, and a language model, by the model's own forward."""
        own = layout.is_cut or isinstance(self.config, PretrainConfig)
        return replace(self.shape, fused=False) if own else self.shape


def shape_of(model: ModelConfig, vocabulary: int) -> Shape:
    """The model that is trained: the given start's, by a table or its config.json, or a new GPT-2 of the config's sizes.

    Raises:
        UserError: the start is neither known nor here, or its sizes cannot be told.
    """
    if not model.init:
        return Shape.new(model, vocabulary)
    shape = _shape_of_start(model.init)
    return replace(shape, layers=min(shape.layers, model.keep_layers or shape.layers))


def as_computed(shape: Shape, model: ModelConfig) -> Shape:
    """The same with how a contrastive training computes it: the last layer whole under mean pooling, and by the model's own
    forward where adapters have a dropout, which thins a copy of what each of them reads.

    Raises:
        UserError: the adapters do not fit the model.
    """
    lora = model.lora
    is_dropped = lora.rank is not None and lora.dropout > 0
    dropped = sum(n_in for n_in, _ in chosen_matrices(lora, shape.matrices).values()) if is_dropped else 0
    return replace(shape, fused=shape.fused and not is_dropped, mean=model.pooling != "last", dropped=dropped)


def check_lora(config: RunConfig, folder: str) -> None:
    """Look whether the adapters that a run asks for fit its start, before anything is made for it.

    Args:
        folder: of the start; empty: none is given.

    Raises:
        UserError: there is nothing to adapt, a target names no matrix, the rank is above one's, or what trains them is another
            setting's opposite.
    """
    model, lora = config.model, config.model.lora
    if not lora.rank:
        return
    if not folder and not config.pretrain.steps and model.start == "random":
        raise UserError(
            "model.lora trains adapters beside a start's frozen weights, and none is given: give --init, or no model.lora.rank"
        )
    if config.train.optimizer == "muon":
        raise UserError("train.optimizer is muon, of hidden matrices, which model.lora freezes; take adamw")
    asked = {"compile": config.train.compile == "on", "attention": config.train.attention == "packed"}
    if lora.dropout and any(asked.values()):
        name = next(name for name, is_asked in asked.items() if is_asked)
        raise UserError(
            f"train.{name} is {getattr(config.train, name)}, and model.lora.dropout is {lora.dropout:g}, with which a batch is"
            f" computed by the model's own forward, padded and not compiled: set train.{name} to auto, or the dropout to 0"
        )
    try:
        shape = shape_of(model.model_copy(update={"init": folder}), config.tokenizer.vocab_size)
    except UserError:
        return  # of another family: the trainer looks at the model itself
    chosen_matrices(lora, shape.matrices)


def _shape_of_start(init: str) -> Shape:
    if init in HUB_MODELS:
        return Shape.of(HUB_MODELS[init], init)
    path = Path(init) / "config.json"
    if not path.is_file():
        raise UserError(
            f"init {init!r}: no config.json there to plan by; give the folder of a causal language model, one of "
            f"{', '.join(HUB_MODELS)}, or `random`"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    return Shape.of(fields, init)


def memory_of(work: Workload, layout: Layout) -> Memory:
    """Bytes of one process at the peak of a training step (float32 weights; AdamW has two moments of each, Muon one)."""
    shape, n_weights, n_trained, low = work.shape, work.weights, work.trained, work.low
    share, trained = (-(-n // layout.processes) if layout.is_cut else n for n in (n_weights, n_trained))
    group = max(shape.block, shape.vocabulary * shape.width + work.head)  # gathered at a time; the next is on its way
    whole = (n_weights if layout.synchronise == "step" else 2 * group) if layout.is_cut else 0
    averaged = 4 * trained if work.config.weight_average else 0
    # autocast casts the matrices anew for each micro-batch, whose graph holds them until backward
    graphs = 1 if layout.cached else -(-work.local_tokens(layout.processes) // work.at_once(layout))
    cast = 2 * graphs * min(whole or n_weights, shape.layers * shape.block_matrices) if low else 0
    return Memory(
        weights=4 * share + averaged + cast + 4 * whole,
        gradients=4 * trained + 4 * min(whole, n_trained if work.lora.rank else whole),
        optimizer=8 * trained - 4 * work.muon_weights,
        activations=_activations(work, layout),
        loss=_loss(work, layout),
        communication=0 if layout.processes == 1 else 4 * (group if layout.is_cut else n_trained),
    )


def _activations(work: Workload, layout: Layout) -> int:
    """Graphs until backward, and the widest buffers that one layer's backward has beside them."""
    tokens = work.at_once(layout) if layout.cached else work.local_tokens(layout.processes)
    return work.kept_bytes(tokens, layout) + work.backward_bytes(layout)


def _loss(work: Workload, layout: Layout) -> int:
    """Embeddings of the global batch, their gradients, a copy of each in the gather, and one tile of logits; of prefixes the
    gradients of each, and one cut; a guide's vectors, as wide as the model's for all that is known.
    """
    config = work.config
    if isinstance(config, PretrainConfig):
        return work.at_once(layout) * work.shape.vocabulary * WORD_LOGIT_BYTES
    pairs, dims = config.batch_size, config.matryoshka.dims
    tile = min(pairs * pairs, TILE_LOGITS)
    copies = (4 if layout.processes == 1 else 6) + config.needs_guide
    per_logit = TAUGHT_LOGIT_BYTES if config.teacher.kl_weight else LOGIT_BYTES
    return 2 * 4 * pairs * (work.shape.width * copies + sum(dims) + max(dims, default=0)) + per_logit * tile
