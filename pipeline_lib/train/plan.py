"""Cost planning: a run's layout, memory by part, hours, money and energy. Arithmetic alone, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import Devices, find_devices
from pipeline_lib.train.layout import at_precision, process_room, resolve_layout, with_devices
from pipeline_lib.train.memory import Layout, Workload, check_lora, memory_of


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


HERE = "here"


@dataclass(frozen=True)
class Terms:
    """Questions to the planner beside the run itself.

    Attributes:
        gpu: a name of `GPUS`, or "here": this machine's own devices, be they GPUs or not, of which no speed is known.
        price_per_hour: of one GPU, in any currency; 0: no cost is told.
        utilisation: of the peak operations, 0 to 1.
    """

    gpus: int = 1
    gpu: str = "h100"
    price_per_hour: float = 0.0
    utilisation: float = 0.4

    @property
    def devices(self) -> Devices:
        """The devices as the launcher finds them.

        Raises:
            UserError: the GPU is unknown.
        """
        if self.gpu == HERE:
            return find_devices()
        if self.gpu not in GPUS:
            raise UserError(f"--gpu {self.gpu!r} is unknown; choose one of: {', '.join([*GPUS, HERE])}")
        return Devices("cuda", self.gpus, GPUS[self.gpu].memory_bytes, self.gpu)


def step_flops(config: RunConfig, cached: bool) -> float:
    """Operations of one step's matrix products, over all GPUs: backward costs two forwards, gradient caching one more, and
    checkpointed activations one of every layer but the last.
    """
    shape, shards = Workload.planned(config).shape, config.shards
    matrices = shape.layers * shape.block_matrices
    lengths = (shards.max_x_tokens, shards.max_y_tokens)
    forward = sum(length * (2 * matrices + 2 * shape.layers * shape.queries * length) for length in lengths)
    pairs = config.train.batch_size
    logits = 2 * 2 * 2 * pairs * shape.width  # three products, both directions in one
    passes = 4.0 if cached else 3.0
    passes -= 1.0 if config.model.lora.rank else 0.0  # frozen matrices have no gradient of their own
    if config.train.checkpoint_activations:
        passes += (shape.layers - 1) / shape.layers
    return pairs * (forward * passes + logits)


def plan(config: RunConfig, terms: Terms) -> dict[str, Any]:
    """Everything that `cpt plan` tells, as flat JSON values but for `memory_bytes`.

    Raises:
        UserError: the GPU is unknown, no layout fits so many of them, or the adapters that are asked for cannot be.
    """
    devices = terms.devices
    if terms.gpus < 1 or not 0 < terms.utilisation <= 1 or terms.price_per_hour < 0:
        raise UserError("--gpus must be 1 or more, --utilisation above 0 and at most 1, --price 0 or more")
    check_lora(config, config.model.init)
    work = Workload.planned(config)
    layout = resolve_layout(work, devices)
    devices = with_devices(config.train, devices)
    work = at_precision(work, devices)
    memory = memory_of(work, layout)
    return {
        "preset": config.name,
        "reference": config.reference,
        "beside": config.beside.trained,
        "start": config.model.init or {"random": "random weights", "lexical": "the lexical start"}[config.model.start],
        "parameters": work.weights,
        "trainable_parameters": work.trained,
        "state_bytes": work.state_bytes,
        "embedding_width": work.shape.width,
        "batch_size": config.train.batch_size,
        "steps": config.train.steps,
        "pairs_seen": config.train.steps * config.train.batch_size,
        "gpu": devices.name,
        "gpus": devices.count,
        "processes": layout.processes,
        "precision": work.config.precision,
        "parallel": layout.parallel,
        "synchronise": layout.synchronise,
        "micro_batch_tokens": layout.micro_batch_tokens,
        "gradient_caching": layout.cached,
        "activation_bytes": layout.activation_bytes,
        "checkpoint_activations": layout.checkpoint_activations,
        "memory_bytes": {**asdict(memory), "total": memory.total, "of": process_room(config.train, devices, layout)},
        **_costs(config, terms, layout),
    }


def _costs(config: RunConfig, terms: Terms, layout: Layout) -> dict[str, Any]:
    """Time, money and energy; None where the speed of the devices is not known."""
    names = ("seconds_per_step", "gpu_hours", "cost", "energy_kwh")
    if terms.gpu == HERE:
        return {"utilisation": terms.utilisation, **dict.fromkeys(names)}
    gpu = GPUS[terms.gpu]
    seconds = step_flops(config, layout.cached) / (layout.processes * gpu.flops_per_second * terms.utilisation)
    gpu_hours = config.train.steps * seconds * terms.gpus / 3600
    cost = gpu_hours * terms.price_per_hour if terms.price_per_hour else None
    figures = dict(zip(names, (seconds, gpu_hours, cost, gpu_hours * gpu.watts / 1000), strict=True))
    return {"utilisation": terms.utilisation, **figures}


def describe_plan(found: dict[str, Any]) -> str:
    """The plan as lines for people."""
    memory = dict(found["memory_bytes"])
    total, of = memory.pop("total"), memory.pop("of")
    unused = found["gpus"] - found["processes"]
    few = f" ({unused:,} unused: the batch divides among no more)" if unused else ""
    sharding = "whole weights in every process (DDP)"
    if found["parallel"] == "fsdp":
        sharding = f"weights cut over the processes (FSDP2), gathered once a {found['synchronise'].replace('_', '-')}"
    caching = "on" if found["gradient_caching"] else "off"
    is_lora = found["trainable_parameters"] < found["parameters"]
    trained = f" ({found['trainable_parameters'] / 1e6:,.2f} trained: LoRA)" if is_lora else ""
    lines = [
        f"{found['preset']}: {found['parameters'] / 1e6:,.0f} million weights{trained}, embeddings of "
        f"{found['embedding_width']:,}, {found['batch_size']:,} pairs a step",
        f"  start: {found['start']}",
        f"  on {found['gpus']:,} x {found['gpu']}{few}: {sharding}",
        f"  {found['precision']}, micro-batch {found['micro_batch_tokens']:,} tokens, gradient caching {caching}, activations "
        + ("computed again" if found["checkpoint_activations"] else "kept"),
        f"  memory of one process at its peak: {total / 1e9:.1f} GB of {of / 1e9:.1f} GB",
        *(f"    {name:14s} {size / 1e9:8.2f} GB" for name, size in memory.items()),
        f"  a training state: {found['state_bytes'] / 1e9:.3g} GB on the disk",
        f"  {found['steps']:,} steps, {found['pairs_seen']:,} pairs, all texts at their longest",
    ]
    if found["beside"]:
        lines.append(f"  beside it the model of preset {found['beside']}, trained first and not counted here")
    if found["seconds_per_step"] is not None:
        price = f", {found['cost']:,.0f} at the given price" if found["cost"] is not None else "; give --price for the cost"
        lines += [
            f"  {found['seconds_per_step']:.1f} s a step at {found['utilisation']:.0%} of the peak",
            f"  {found['gpu_hours']:,.0f} GPU-hours, {found['energy_kwh']:,.0f} kWh (the GPUs' own){price}",
        ]
    return "\n".join([*lines, *([f"  figures: {found['reference']}"] if found["reference"] else [])])
