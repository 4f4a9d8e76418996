"""Models without their weights, on the meta device, and these weights one tensor, or some rows of one, at a time.

A model that is cut over processes is built in each of them from its outline: none holds it whole. The weights are those of
`Encoder.build` to the bit: random ones are drawn in the same order, given ones are read by name from the folder's files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.model.encoder import Encoder, gpt2_config
from pipeline_lib.model.given import cut_config
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer

Weights = Iterator[tuple[str, Any]]  # names, and what gives rows when it is sliced: a tensor, or a place in a file


def outline_encoder(config: ModelConfig, tokenizer: PairTokenizer, seed: int) -> tuple[Encoder, Weights | None]:
    """`Encoder.build` without its weights, and those of its backbone; a model of sentence-transformers whole, and None.

    Raises:
        UserError, CorruptArtifact: see `Encoder.build`.
    """
    if not config.init:
        made = gpt2_config(config, tokenizer)
        backbone, weights = draw(lambda: AutoModel.from_config(made, attn_implementation="sdpa"), seed)
        return Encoder(backbone, config.pooling), weights
    folder = Path(config.init)
    if is_sentence_transformer(folder):  # small ones, whose layers behind the transformer no process is without
        return Encoder.build(config, tokenizer, seed), None

    def build(layers: int | None) -> PreTrainedModel:
        return Encoder.build(config.model_copy(update={"keep_layers": layers}), tokenizer, seed).backbone

    backbone, weights = read(folder, config.keep_layers, AutoModel, build)
    encoder = Encoder(backbone, config.pooling)
    encoder.take_token_weights(folder)
    return encoder, weights


@dataclass(frozen=True)
class Drawing:
    """A model within the model, or the whole, that was initialised while it was built, and the random state before."""

    model: PreTrainedModel
    state: Tensor


def draw(make: Callable[[], PreTrainedModel], seed: int) -> tuple[PreTrainedModel, Weights]:
    """The outline of what `make` makes with that seed, and the weights that it would have.

    Modules are made for real, and let go of their weights as they are attached; where a model initialises them, that is done
    to one block after the other. So as many random numbers are drawn as by a whole model, and once more when the weights are
    asked for.
    """
    with torch.random.fork_rng(devices=[]), _weights_on_meta() as drawings:
        torch.manual_seed(seed)
        model = make()
    return model, _drawn(copy.deepcopy([drawing.model for drawing in drawings]), [drawing.state for drawing in drawings])


@contextmanager
def _weights_on_meta() -> Iterator[list[Drawing]]:
    """Modules that are attached to another lose their weights' storage, and keep their buffers."""
    drawings: list[Drawing] = []

    def let_go(_: nn.Module, __: str, attached: nn.Module | None) -> None:
        for module in attached.modules() if attached is not None else ():
            for name, weight in module._parameters.items():
                if weight is not None and not weight.is_meta:
                    module._parameters[name] = nn.Parameter(weight.to("meta"), weight.requires_grad)

    def initialise(model: PreTrainedModel) -> None:
        before = {drawing.model for drawing in drawings}
        drawings.append(Drawing(model, torch.get_rng_state()))
        for _ in _initialised(model, model, before, ""):  # so that what is made after it draws what it would
            pass

    hook = register_module_module_registration_hook(let_go)
    whole, PreTrainedModel.initialize_weights = PreTrainedModel.initialize_weights, initialise
    try:
        yield drawings
    finally:
        PreTrainedModel.initialize_weights = whole
        hook.remove()


@torch.no_grad()
def _drawn(models: list[PreTrainedModel], states: list[Tensor]) -> Weights:
    """The weights of models one of which holds the other, the innermost first."""
    with torch.random.fork_rng(devices=[]):
        for number, (model, state) in enumerate(zip(models, states, strict=True)):
            torch.set_rng_state(state)
            prefix = next((f"{name}." for name, module in models[-1].named_modules() if module is model and name), "")
            yield from _initialised(model, model, set(models[:number]), prefix)


@torch.no_grad()
def _initialised(model: PreTrainedModel, module: nn.Module, done: Container[nn.Module], prefix: str) -> Weights:
    """Weights of a module's children in the order in which the model initialises them, a block or what lies apart at a time."""
    blocks = set(blocks_of(model))
    for name, child in module.named_children():
        if child in done:
            continue
        if child not in blocks and not blocks.isdisjoint(child.modules()):
            yield from _initialised(model, child, done, f"{prefix}{name}.")
            continue
        real = copy.deepcopy(child).to_empty(device="cpu")
        real.apply(model._init_weights)  # children first, as the model does
        yield from ((f"{prefix}{name}.{below}", weight.detach()) for below, weight in real.named_parameters())


def read(
    folder: Path, layers: int | None, kind: Any, build: Callable[[int | None], PreTrainedModel]
) -> tuple[PreTrainedModel, Weights]:
    """The outline of a given model, and its weights from the folder's files.

    What is done to a given model (rows for new delimiters, dropout) is done to its first block with table and norm, which is
    built; the other blocks are as that one, with their own weights. A folder whose names are others is built whole.

    Args:
        layers: blocks that are kept; None: all.
        kind: class of transformers.
        build: the model of so many blocks.
    """
    with _no_report():
        head = build(1)
    config = cut_config(folder, layers)
    counts = {"num_hidden_layers", config.attribute_map.get("num_hidden_layers", "")}
    for name, value in head.config.to_dict().items():  # what was changed of it: the vocabulary, dropout, pooling
        if name not in counts and isinstance(value, int | float | str):
            setattr(config, name, value)
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config, attn_implementation="sdpa")
    places = _places(folder)
    near = dict(head.named_parameters())
    names = {name: _name_in(places, name, model.base_model_prefix) for name, _ in model.named_parameters() if name not in near}
    if not all(names.values()):
        whole = build(layers)
        _liken(model, whole)
        return model, ((name, weight.detach()) for name, weight in whole.named_parameters())
    _liken(model, head)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    return model, _read(near, shapes, {name: (places[own], own) for name, own in names.items() if own})


@contextmanager
def _no_report() -> Iterator[None]:
    """Nothing is said of weights that are left out on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _read(near: dict[str, nn.Parameter], shapes: dict[str, torch.Size], places: dict[str, tuple[Path, str]]) -> Weights:
    for name, shape in shapes.items():
        if name in near:
            yield name, near[name].detach()
            continue
        path, own = places[name]
        with safe_open(path, framework="pt") as file:  # one at a time: pages of a mapped file count as this process's
            rows = file.get_slice(own)
            if list(rows.get_shape()) != list(shape):
                raise CorruptArtifact(f"{path}: {own} is {rows.get_shape()}, the model has {list(shape)}")
            yield name, rows


def _places(folder: Path) -> dict[str, Path]:
    """The files that hold a folder's tensors, by name."""
    places: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    return places


def _name_in(places: dict[str, Path], name: str, prefix: str) -> str:
    """A weight's name in the files: with or without the prefix that a model has below a head; empty where it is not there."""
    names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((own for own in names if own in places), "")


@torch.no_grad()
def _liken(model: PreTrainedModel, near: PreTrainedModel) -> None:
    """Give an outline what a built model of fewer blocks has beside weights: buffers, and what its modules were set to."""
    model.config.name_or_path = ""
    first = dict(near.named_modules())
    block = next((name for name, module in near.named_modules() if module in blocks_of(near)), "")
    stem = block.rpartition(".")[0]
    for name, module in model.named_modules():
        number, _, rest = name.removeprefix(f"{stem}.").partition(".") if name.startswith(f"{stem}.") else ("", "", "")
        peer = first.get(name) or first.get(f"{stem}.0.{rest}".rstrip(".") if number.isdigit() else name)
        if peer is None:
            continue
        for attribute, value in vars(peer).items():
            if isinstance(value, float):  # dropout
                setattr(module, attribute, value)
        for buffer, value in peer._buffers.items():
            module._buffers[buffer] = None if value is None else value.clone()


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: the outermost list of modules that is as long as its config says."""
    config = getattr(backbone, "config", None)
    n_layers = getattr(config, "num_hidden_layers", 0)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return list(module)
    return []
