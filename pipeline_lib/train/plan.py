"""Cost planning: a run's memory by part, micro-batch, sharding, hours, money and energy. Arithmetic alone, no torch.

P weights, N GPUs, B pairs of the global batch, T tokens of a micro-batch, D width, I width of the feed-forward layers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.config.model import HUB_MODELS, Shape
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError

MEMORY_SHARE = 0.9  # of a GPU; the rest is the driver's, the allocator's and the libraries'
MICRO_BATCH_TOKENS = [1 << power for power in range(17, 7, -1)]  # tried from the largest on
TILE_LOGITS = 1 << 24  # of loss.py
LOGIT_BYTES = 17  # two matrices in float32; of rows with repeated texts a copy, a filled copy and masks


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its data sheet: memory, dense bfloat16 operations a second, and power under load."""

    memory_bytes: int
    flops_per_second: float
    watts: float


GPUS = {
    "a10": Gpu(24 * 1024**3, 125e12, 150),
    "a100-40": Gpu(40 * 1024**3, 312e12, 400),
    "a100": Gpu(80 * 1024**3, 312e12, 400),
    "l40s": Gpu(48 * 1024**3, 362e12, 350),
    "h100": Gpu(80 * 1024**3, 989e12, 700),
    "h200": Gpu(141 * 10**9, 989e12, 700),
    "b200": Gpu(180 * 10**9, 2250e12, 1000),
}


@dataclass(frozen=True)
class Terms:
    """Questions to the planner beside the run itself.

    Attributes:
        gpu: a name of `GPUS`.
        price_per_hour: of one GPU, in any currency; 0: no cost is told.
        utilisation: of the peak operations, 0 to 1.
    """

    gpus: int = 1
    gpu: str = "h100"
    price_per_hour: float = 0.0
    utilisation: float = 0.4


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


@dataclass(frozen=True)
class Layout:
    """Layout of a step: its processes, what each holds whole, and the micro-batches that it computes."""

    processes: int
    parallel: Literal["ddp", "fsdp"] = "ddp"
    synchronise: Literal["step", "micro_batch"] = "step"
    micro_batch_tokens: int = 16_384
    cached: bool = True


def shape_of(config: RunConfig) -> Shape:
    """The model that is trained: the given start's, by a table or its config.json, or a new GPT-2 of the config's sizes.

    Raises:
        UserError: the start is neither known nor here, or its sizes cannot be told.
    """
    init = config.model.init
    if not init:
        return Shape.new(config.model, config.tokenizer.vocab_size)
    shape = _shape_of_start(init)
    return replace(shape, layers=min(shape.layers, config.model.keep_layers or shape.layers))


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


def parameters(config: RunConfig) -> int:
    """Weights of the encoder that is trained, the logit scale among them; appended delimiters are not counted."""
    return shape_of(config).weights + 1


def step_memory(config: RunConfig, layout: Layout) -> Memory:
    """Bytes of one process at the peak of a training step (float32 weights, AdamW).

    What autocast to bfloat16 changes is estimated, not measured: weights are cast a matrix at a time, activations of
    matrix products take half.
    """
    shape, train = shape_of(config), config.train
    n_weights = parameters(config)
    share = n_weights if layout.parallel == "ddp" else -(-n_weights // layout.processes)
    group = max(shape.block, shape.vocabulary * shape.width) if layout.parallel == "fsdp" else 0
    whole = n_weights if layout.parallel == "fsdp" and layout.synchronise == "step" else 2 * group
    averaged = 4 * share if train.weight_average else 0
    cast = 0 if train.precision == "float32" else 2 * (n_weights if layout.parallel == "ddp" else whole)
    return Memory(
        weights=4 * share + averaged + cast + (4 * whole if layout.parallel == "fsdp" else 0),
        gradients=4 * share + (4 * whole if layout.parallel == "fsdp" else 0),
        optimizer=8 * share,
        activations=_activations(config, layout),
        loss=_loss(config, layout),
        communication=_communication(config, layout, n_weights, group),
    )


def _activations(config: RunConfig, layout: Layout) -> int:
    """Graphs until backward, and the widest buffers that one layer's backward has beside them."""
    shape = shape_of(config)
    tokens = layout.micro_batch_tokens
    if not layout.cached:
        tokens = -(-config.train.batch_size * tokens_per_pair(config) // layout.processes)
    a_layer = _layer_bytes(shape, low=config.train.precision == "bfloat16")
    layers = shape.layers - 1 if shape.fused else shape.layers  # the fused forward's last one keeps next to nothing
    kept, again = layers * a_layer, 0
    if config.train.checkpoint_activations and shape.layers > 2:
        kept, again = layers * 4 * shape.width, a_layer  # each layer's input, and one layer at a time
    ends = 4 * 4 * shape.width  # the look-up and its gradient, the last layer's input and its gradient
    widest = 4 * (3 * shape.width + shape.inner) if layers else 0
    in_backward = min(tokens, layout.micro_batch_tokens) * (widest + again)
    return tokens * (kept + ends) + in_backward


def _layer_bytes(shape: Shape, low: bool) -> int:
    """Bytes that a layer keeps of one token until backward.

    Gated layers keep four tensors of the feed-forward width in place of two, keys and values repeated for each head, and of
    each RMS norm, which stays float32, its input, its result and what the matrices read of it.
    """
    if not shape.gated:
        return 28 * shape.width + 4 * shape.inner if low else 4 * (8 * shape.width + 2 * shape.inner)
    if low:
        return 20 * shape.width + 12 * shape.queries + 8 * shape.inner
    return 4 * (6 * shape.width + 5 * shape.queries + 4 * shape.inner)


def _loss(config: RunConfig, layout: Layout) -> int:
    """Embeddings of the global batch, their gradients, a copy of each in the gather, and one tile of logits."""
    pairs = config.train.batch_size
    tile = min(pairs * pairs, TILE_LOGITS)
    copies = 4 if layout.processes == 1 else 6
    return 2 * 4 * pairs * shape_of(config).width * copies + LOGIT_BYTES * tile


def _communication(config: RunConfig, layout: Layout, n_weights: int, group: int) -> int:
    if layout.processes == 1:
        return 0
    return 4 * n_weights if layout.parallel == "ddp" else 4 * group  # one flat copy; or a group on its way


def tokens_per_pair(config: RunConfig) -> int:
    """Tokens of x and y at their longest: the most that a run takes."""
    return config.shards.max_x_tokens + config.shards.max_y_tokens


def step_flops(config: RunConfig, cached: bool) -> float:
    """Operations of one step's matrix products, over all GPUs: backward costs two forwards, gradient caching one more, and
    checkpointed activations one of every layer but the last.
    """
    shape, shards = shape_of(config), config.shards
    matrices = shape.layers * shape.block_matrices
    lengths = (shards.max_x_tokens, shards.max_y_tokens)
    forward = sum(length * (2 * matrices + 2 * shape.layers * shape.queries * length) for length in lengths)
    pairs = config.train.batch_size
    logits = 2 * 2 * 2 * pairs * shape.width  # three products, both directions in one
    passes = 4.0 if cached else 3.0
    if config.train.checkpoint_activations:
        passes += (shape.layers - 1) / shape.layers
    return pairs * (forward * passes + logits)


def choose_layout(config: RunConfig, terms: Terms) -> Layout | None:
    """The first that fits, of the cheapest kinds first: whole weights on every GPU, cut ones gathered once a step, or once a
    micro-batch; each in the largest micro-batch that leaves a tenth of the memory free. None: nothing fits.
    """
    room = MEMORY_SHARE * GPUS[terms.gpu].memory_bytes
    kinds: list[tuple[Literal["ddp", "fsdp"], Literal["step", "micro_batch"]]] = [("ddp", "step")]
    if terms.gpus > 1:
        kinds += [("fsdp", "step"), ("fsdp", "micro_batch")]
    local_tokens = -(-config.train.batch_size * tokens_per_pair(config) // terms.gpus)
    for parallel, synchronise in kinds:
        for tokens in MICRO_BATCH_TOKENS:
            if tokens < max(config.shards.max_x_tokens, config.shards.max_y_tokens):
                break
            layout = Layout(terms.gpus, parallel, synchronise, tokens, cached=tokens < local_tokens)
            if step_memory(config, layout).total <= room:
                return layout
    return None


def plan(config: RunConfig, terms: Terms) -> dict[str, Any]:
    """Everything that `cpt plan` tells, as flat JSON values but for `memory_bytes`.

    Raises:
        UserError: the GPU is unknown, or no layout fits so many of them.
    """
    if terms.gpu not in GPUS:
        raise UserError(f"--gpu {terms.gpu!r} is unknown; choose one of: {', '.join(GPUS)}")
    if terms.gpus < 1 or not 0 < terms.utilisation <= 1 or terms.price_per_hour < 0:
        raise UserError("--gpus must be 1 or more, --utilisation above 0 and at most 1, --price 0 or more")
    layout = choose_layout(config, terms)
    if layout is None:
        fewest = next((n for n in (1 << p for p in range(1, 15)) if n > terms.gpus and _fits(config, terms, n)), None)
        hint = f"it needs about {fewest:,} of them" if fewest else "no number of them is enough"
        raise UserError(f"{config.name} does not fit {terms.gpus:,} x {terms.gpu}: {hint}; take more, or larger ones")
    gpu, memory = GPUS[terms.gpu], step_memory(config, layout)
    seconds = step_flops(config, layout.cached) / (terms.gpus * gpu.flops_per_second * terms.utilisation)
    gpu_hours = config.train.steps * seconds * terms.gpus / 3600
    return {
        "preset": config.name,
        "reference": config.reference,
        "start": config.model.init or {"random": "random weights", "lexical": "the lexical start"}[config.model.start],
        "parameters": parameters(config),
        "embedding_width": shape_of(config).width,
        "batch_size": config.train.batch_size,
        "steps": config.train.steps,
        "pairs_seen": config.train.steps * config.train.batch_size,
        "gpu": terms.gpu,
        "gpus": terms.gpus,
        "parallel": layout.parallel,
        "synchronise": layout.synchronise,
        "micro_batch_tokens": layout.micro_batch_tokens,
        "gradient_caching": layout.cached,
        "checkpoint_activations": config.train.checkpoint_activations,
        "memory_bytes": {**asdict(memory), "total": memory.total, "of": gpu.memory_bytes},
        "utilisation": terms.utilisation,
        "seconds_per_step": seconds,
        "gpu_hours": gpu_hours,
        "cost": gpu_hours * terms.price_per_hour if terms.price_per_hour else None,
        "energy_kwh": gpu_hours * gpu.watts / 1000,
    }


def _fits(config: RunConfig, terms: Terms, gpus: int) -> bool:
    return choose_layout(config, Terms(gpus, terms.gpu)) is not None


def describe_plan(found: dict[str, Any]) -> str:
    """The plan as lines for people."""
    memory = dict(found["memory_bytes"])
    total, of = memory.pop("total"), memory.pop("of")
    sharding = "whole weights on every GPU (DDP)"
    if found["parallel"] == "fsdp":
        sharding = f"weights cut over the GPUs (FSDP2), gathered once a {found['synchronise'].replace('_', '-')}"
    caching = "on" if found["gradient_caching"] else "off"
    lines = [
        f"{found['preset']}: {found['parameters'] / 1e6:,.0f} million weights, embeddings of {found['embedding_width']:,}, "
        f"{found['batch_size']:,} pairs a step",
        f"  start: {found['start']}",
        f"  on {found['gpus']:,} x {found['gpu']}: {sharding}",
        f"  micro-batch {found['micro_batch_tokens']:,} tokens, gradient caching {caching}, activations "
        + ("computed again" if found["checkpoint_activations"] else "kept"),
        f"  memory of one GPU at its peak: {total / 1e9:.1f} GB of {of / 1e9:.1f} GB",
        *(f"    {name:14s} {size / 1e9:8.2f} GB" for name, size in memory.items()),
        f"  {found['steps']:,} steps, {found['pairs_seen']:,} pairs: {found['seconds_per_step']:.1f} s a step at "
        f"{found['utilisation']:.0%} of the peak, all texts at their longest",
        f"  {found['gpu_hours']:,.0f} GPU-hours, {found['energy_kwh']:,.0f} kWh (the GPUs' own)"
        + (f", {found['cost']:,.0f} at the given price" if found["cost"] is not None else "; give --price for the cost"),
    ]
    return "\n".join([*lines, *([f"  figures: {found['reference']}"] if found["reference"] else [])])
