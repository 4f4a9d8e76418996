"""Layout of a run, resolved from its configuration and the devices of the machine: `cpt plan` and the launcher ask the same.

What a configuration names holds; what it leaves open follows from the devices and their memory. A run that does not fit is
refused here, before anything is started. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.optimizer import check_optimizer
from pipeline_lib.config.training import (
    CPU_ACTIVATION_BYTES,
    CPU_ACTIVATION_SHARE,
    CPU_TOKENS,
    PretrainConfig,
    TrainConfig,
    check_divides,
)
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import Devices, precision_on
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.train.memory import Layout, Memory, Parallel, Synchronise, Workload, as_computed, memory_of, shape_of

MEMORY_SHARE = 0.9  # of a device, which a layout is chosen for; the rest is the driver's, the allocator's and the libraries'
GPU_TOKENS = 1 << 17  # of the largest micro-batch
WORD_TOKENS = {"cuda": 1 << 14, "cpu": 1 << 11}  # of a language model's: its logits take the memory
FEWEST_TOKENS = 1 << 8
MOST_GPUS = 1 << 14  # that a refusal looks at

Config = TrainConfig | PretrainConfig


def with_devices(config: Config, found: Devices) -> Devices:
    """The devices that a configuration takes of those that there are.

    Raises:
        UserError: it asks for more GPUs than there are, or for matrices cut over them that its optimizer needs whole.
    """
    check_optimizer(config)
    devices = found
    if config.gpus is not None:
        if found.kind == "cpu" or config.gpus > found.count:
            has = "no GPU that torch can use" if found.kind == "cpu" else f"{found.count}"
            raise UserError(f"gpus {config.gpus}: this machine has {has}; leave it out to take what there is")
        devices = replace(devices, count=config.gpus)
    return replace(devices, memory_bytes=config.memory_bytes) if config.memory_bytes else devices


def settle_processes(config: Config, devices: Devices) -> int:
    """Trainer processes of this machine.

    Raises:
        UserError: more than its GPUs, or a batch that does not divide among those that were asked for.
    """
    if config.processes is not None:
        if devices.kind == "cuda" and config.processes > devices.count:
            raise UserError(
                f"{config.processes} trainer processes for {devices.count} GPU(s): one a GPU; take processes={devices.count}"
            )
        if isinstance(config, TrainConfig):
            check_divides(config.batch_size, config.processes * config.nodes)
        return config.processes
    most = 1 if devices.kind == "cpu" else devices.count
    return next((n for n in range(most, 0, -1) if _divides(config, n * config.nodes)), 1)


def _divides(config: Config, processes: int) -> bool:
    """True if a batch gives each of so many processes its share."""
    if isinstance(config, TrainConfig):
        return config.batch_size % processes == 0
    return config.sequence_tokens * processes <= config.batch_tokens


def at_precision(work: Workload, devices: Devices) -> Workload:
    """The same with its precision settled for these devices, as the launcher settles it for its own."""
    precision = precision_on(devices, work.config.precision, work.shape.layers, work.shape.width)
    return replace(work, config=work.config.model_copy(update={"precision": precision}))


def resolve_layout(work: Workload, devices: Devices) -> Layout:
    """The first layout that fits, of the cheapest kinds first: whole weights on every device, cut ones gathered once a step, or
    once a micro-batch; each with all activations kept, or gradients cached; each in the largest micro-batch.

    A tenth of the memory is left free where that is possible.

    Raises:
        UserError: nothing fits; the message has the numbers, and what would fit.
    """
    devices = with_devices(work.config, devices)
    work = at_precision(work, devices)
    processes = settle_processes(work.config, devices)
    room = _room(work.config, devices, processes)
    layout = _choose(work, devices, processes, room)
    if layout is None:
        raise UserError(_refusal(work, devices, processes, room))
    return layout


def applied(layout: Layout, config: Config) -> Config:
    """The configuration that the trainer is launched with: nothing in it is left open."""
    update: dict[str, Any] = {
        "processes": layout.processes // config.nodes,
        "parallel": layout.parallel,
        "synchronise": layout.synchronise,
        "micro_batch_tokens": layout.micro_batch_tokens,
    }
    if isinstance(config, TrainConfig):
        update["activation_bytes"] = layout.activation_bytes
    return config.model_copy(update=update)


def settle(config: Config, work: Workload | None, found: Devices) -> tuple[Config, str]:
    """The configuration that the trainer is launched with, and a line for people that says why.

    Args:
        work: None where the model's sizes are not known: then nothing is estimated, and nothing refused.

    Raises:
        UserError: see `resolve_layout`.
    """
    devices = with_devices(config, found)
    if work is None:
        layout = _unestimated(config, devices)
        return applied(layout, config), f"{_spread(layout, devices)}; a model of this kind has no estimate of its memory"
    layout = resolve_layout(work, found)
    memory = memory_of(at_precision(work, devices), layout)
    room_bytes = _room(config, devices, layout.processes // config.nodes)
    why = (
        f"about {memory.total / 1e9:.1f} of {room_bytes / 1e9:.1f} GB a process at the peak, texts at their longest ({memory})"
    )
    return applied(layout, config), f"{_spread(layout, devices)}; {why}"


def _unestimated(config: Config, devices: Devices) -> Layout:
    """What a configuration names, and for the rest what suits most machines."""
    kept = config.kept_bytes if isinstance(config, TrainConfig) else 0
    synchronise: Synchronise = "micro_batch" if config.synchronise == "micro_batch" else "step"
    return Layout(
        processes=settle_processes(config, devices) * config.nodes,
        parallel="fsdp" if config.parallel == "fsdp" else "ddp",
        synchronise=synchronise,
        micro_batch_tokens=config.micro_batch_tokens or min(CPU_TOKENS, _most_tokens(config, devices)),
        checkpoint_activations=config.checkpoint_activations,
        activation_bytes=kept,
    )


def _spread(layout: Layout, devices: Devices) -> str:
    """Processes, weights, micro-batch and caching in words."""
    unused = ""
    if devices.kind == "cuda" and layout.processes < devices.count:
        unused = f" ({devices.count - layout.processes} of them unused: the batch, or train.processes, asks for no more)"
    sharding = f"weights cut over them, gathered once a {layout.synchronise.replace('_', '-')} (fsdp)"
    whole = "whole weights on each (ddp)" if layout.processes > 1 else "whole weights"
    caching = "gradient caching" if layout.cached else "all activations kept"
    return (
        f"{layout.processes:,} process(es) on {devices}{unused}: {sharding if layout.is_cut else whole}, micro-batches of "
        f"{layout.micro_batch_tokens:,} tokens, {caching}"
    )


def process_room(config: Config, devices: Devices, layout: Layout) -> int:
    """Memory that one process of a layout has (bytes)."""
    return _room(config, devices, layout.processes // config.nodes)


def _room(config: Config, devices: Devices, processes: int) -> int:
    """Memory of one process: a GPU is its own, a CPU's is shared."""
    return devices.memory_bytes if devices.kind == "cuda" else devices.memory_bytes // processes


def _choose(work: Workload, devices: Devices, processes: int, room: int) -> Layout | None:
    for share in (MEMORY_SHARE, 1.0):
        for layout in _candidates(work, devices, processes * work.config.nodes):
            memory = memory_of(work, layout)
            if memory.total <= share * room:
                return replace(layout, activation_bytes=_activation_room(work, devices, layout, memory, share * room))
    return None


def _candidates(work: Workload, devices: Devices, processes: int) -> Iterator[Layout]:
    config = work.config
    kinds: list[tuple[Parallel, Synchronise]] = [("ddp", "step"), ("fsdp", "step"), ("fsdp", "micro_batch")]
    for parallel, synchronise in kinds:
        unasked = config.parallel == "auto" and parallel == "fsdp"
        if config.parallel not in ("auto", parallel) or (unasked and (processes == 1 or config.optimizer == "muon")):
            continue
        if parallel == "fsdp" and config.synchronise not in ("auto", synchronise):
            continue
        for cached in (False, True):
            for tokens in _micro_batches(work, devices):
                layout = Layout(processes, parallel, synchronise, tokens, config.checkpoint_activations, cached)
                if _may_be(work, devices, layout):
                    yield layout


def _micro_batches(work: Workload, devices: Devices) -> list[int]:
    """Micro-batches to try, the largest first; none is smaller than the longest text."""
    if work.config.micro_batch_tokens is not None:
        return [work.config.micro_batch_tokens]
    tokens, found = _most_tokens(work.config, devices), []
    least = max(work.longest, FEWEST_TOKENS)
    while tokens >= least:
        found.append(tokens)
        tokens //= 2
    return found or [work.longest]


def _most_tokens(config: Config, devices: Devices) -> int:
    if isinstance(config, PretrainConfig):
        return WORD_TOKENS[devices.kind]
    return GPU_TOKENS if devices.kind == "cuda" else CPU_TOKENS


def _may_be(work: Workload, devices: Devices, layout: Layout) -> bool:
    """True if the trainer would keep, or cache, what this layout says: of texts at their longest."""
    if isinstance(work.config, PretrainConfig):
        return layout.cached  # each micro-batch has a loss of its own
    local = work.local_tokens(layout.processes)
    if layout.is_cut and local > layout.micro_batch_tokens:
        return layout.cached  # gathered weights serve one forward and one backward pass
    kept = work.kept_bytes(local, layout)
    if work.config.activation_bytes:
        return layout.cached == (kept > work.config.activation_bytes)
    return layout.cached or kept <= _most_kept(work.config, devices, layout)


def _activation_room(work: Workload, devices: Devices, layout: Layout, memory: Memory, room: float) -> int:
    """Activations that a batch may keep: as many as the configuration or the device's kind says, and as the memory leaves."""
    config = work.config
    if isinstance(config, PretrainConfig):
        return 0
    if config.activation_bytes:
        return config.activation_bytes
    beside = memory.total - memory.activations + work.backward_bytes(layout)
    left = max(1, int(room) - beside)
    return min(left, _most_kept(config, devices, layout))


def _most_kept(config: Config, devices: Devices, layout: Layout) -> int:
    """Activations that a device's kind allows, were there nothing beside them: a CPU's memory is other programs' too."""
    room = process_room(config, devices, layout)
    return room if devices.kind == "cuda" else max(CPU_ACTIVATION_BYTES, room // CPU_ACTIVATION_SHARE)


def _refusal(work: Workload, devices: Devices, processes: int, room: int) -> str:
    """Why a run does not fit, and each single change with which it would."""
    tried = [memory_of(work, layout) for layout in _candidates(work, devices, processes * work.config.nodes)]
    least: Memory = min(tried, key=lambda memory: memory.total)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("train.checkpoint_activations=true", {"checkpoint_activations": True}),
        ("train.micro_batch_tokens=null", {"micro_batch_tokens": None}),
        ("train.activation_bytes=null", {"activation_bytes": None}),
        ("train.parallel=auto and train.synchronise=auto", {"parallel": "auto", "synchronise": "auto"}),
    ]
    would = [name for name, change in changes if _would_fit(work, devices, processes, change)]
    if devices.kind == "cuda":
        counts = [1 << power for power in range(1, MOST_GPUS.bit_length()) if 1 << power > devices.count]
        enough = next((n for n in counts if _choose(_open(work), replace(devices, count=n), n, room)), None)
        would += [f"it needs about {enough:,} of them"] if enough else []
    elif processes > 1:
        enough = next((n for n in range(processes - 1, 0, -1) if _choose(work, devices, n, devices.memory_bytes // n)), None)
        would += [f"train.processes={enough}"] if enough else []
    hint = " or ".join(would) if would else "no number of them is enough" if devices.kind == "cuda" else "take a smaller model"
    needs = f"a process needs {least.total / 1e9:.1f} GB at the least ({least}) and has {room / 1e9:.1f} GB"
    what = f"{work.name} does not fit {devices.count:,} x {devices.name}"
    return f"{what}: {hint}; {needs}. train.memory_bytes plans in another amount"


def _open(work: Workload) -> Workload:
    """The same with its processes left open, for other numbers of devices."""
    return replace(work, config=work.config.model_copy(update={"processes": None, "gpus": None}))


def _would_fit(work: Workload, devices: Devices, processes: int, change: dict[str, Any]) -> bool:
    known = {name: value for name, value in change.items() if hasattr(work.config, name)}
    if all(getattr(work.config, name) == value for name, value in known.items()):
        return False
    changed = replace(work, config=work.config.model_copy(update=known))
    return _choose(changed, devices, processes, _room(work.config, devices, processes)) is not None


def workload_of(shards: Artifact, tokenizer: Artifact, start: str, config: Config, model: ModelConfig) -> Workload | None:
    """What a run whose artifacts are there will compute; None where the sizes of its start are not known.

    Args:
        start: folder of the model that it starts from; empty: a new one.
    """
    # whole documents are cut into sequences: no text has a length of its own
    lengths = ShardConfig() if isinstance(config, PretrainConfig) else ShardConfig.model_validate(shards.manifest.config)
    vocabulary = 0 if start else PairTokenizer.load(tokenizer.part_folder()).vocab_size
    try:
        shape = shape_of(model.model_copy(update={"init": start}), vocabulary)
    except UserError:
        return None
    shape = as_computed(shape, model)
    head = shape.vocabulary * shape.width if isinstance(config, PretrainConfig) and not _is_tied(start) else 0
    lora = LoraConfig() if isinstance(config, PretrainConfig) else model.lora
    return Workload(shape, config, lengths.max_x_tokens, lengths.max_y_tokens, head, lora=lora)


def _is_tied(start: str) -> bool:
    """True if a given language model's head is its table of embeddings; a new one's is apart."""
    if not start:
        return False
    fields = json.loads((Path(start) / "config.json").read_text(encoding="utf-8"))
    return bool(fields.get("tie_word_embeddings", True))
