"""Named runs: a built-in preset (built_in.py) or a user's, a YAML file in CPT_HOME/presets, with what is asked for in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline_lib.config.built_in import OF_OWN_START, PRESETS, SIZES, STARTS, in_precision
from pipeline_lib.config.model import HUB_MODELS, depth_and_width, hub_weights
from pipeline_lib.config.overrides import Layer, apply, in_yaml, read_config
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import artifact_home, has_fast_bfloat16, resolve_precision

RANDOM = "random"  # in place of a start's folder or id
FOLDER = "presets"  # of a user's own, below the artifact root: NAME.yaml
OF_A_PRESET = ("base", "description")  # what such a file may say beside its options


def users_presets() -> dict[str, Path]:
    """The user's own presets by name, each a YAML file in CPT_HOME/presets."""
    return {path.stem: path for path in sorted((artifact_home() / FOLDER).glob("*.yaml"))}


def preset_names() -> tuple[str, ...]:
    """The names that `preset` knows: the built-in ones, then the user's own."""
    return (*PRESETS, *(name for name in users_presets() if name not in PRESETS))


def preset(
    name: str,
    init: str = "",
    n_weights: int | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    embeds: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of that name, with what is to be otherwise in place.

    A start, be it the preset's own or another one, brings a language model's rates; what a user's preset or a layer says of
    rates wins over them.

    Args:
        name: a built-in preset, or a user's.
        init: folder or hub id of a causal language model, in place of the preset's start; "random": random weights and the
            preset's own rates, even where it names a start; empty: what the layers say, or the preset.
        n_weights: weights of the given start, where known: the learning rate goes by it.
        layers: overrides, as `read_config` and `parse_set` give them; later ones win.
        embeds: the given start is an embedding model already; of a folder that is here it is found out.
        recipe: overrides below all of these, of the finished run whose checkpoint is the start; a language model's rates are
            not brought then.

    Raises:
        UserError: there is no such preset, or its file or a layer is wrong; the message says what there is.
    """
    _check_free(name)
    built_in, own = _chain(name)
    given = [{"name": name}, *own, *layers] if own else list(layers)
    if recipe is not None:
        return _warm(name, built_in, [recipe, *given])
    return _made(name, built_in, given, init, n_weights, embeds)


def preset_of_file(path: Path) -> RunConfig:
    """The configuration that a file makes wherever it lies: over its own `base`, or over the defaults of all options.

    Raises:
        UserError: the file is wrong.
    """
    content = _read(path)
    built_in, own = _chain(content["base"]) if content.get("base") else ("", [])
    return _made(str(content.get("preset", "")), built_in, [*own, content.without(OF_A_PRESET)])


def start_of(name: str, layers: Sequence[Mapping[str, Any]] = ()) -> str:
    """The causal language model that a preset with these layers starts from: a folder or a hub id; empty: none.

    Raises:
        UserError: as `preset`.
    """
    return preset(name, layers=layers).model.init


def description(name: str) -> str:
    """What a preset says of itself, in one line.

    Raises:
        UserError: there is none of that name, or its file is wrong.
    """
    if name not in PRESETS:
        return str(_own(name, ()).get("description", ""))
    maker = PRESETS[name]
    if isinstance(maker, partial):
        kind, size = maker.args
        row, start = SIZES[size], STARTS.get((kind, size), "random weights")
        sizes = f"{row.layers} layers of {row.width}, {row.batch_size:,} pairs a batch"
        return f"The paper's cpt-{kind} {size.upper()}: {sizes}; from {start}."
    return str(maker.__doc__).split("\n")[0]


def _made(
    name: str,
    built_in: str,
    given: Sequence[Mapping[str, Any]],
    init: str = "",
    n_weights: int | None = None,
    embeds: bool = False,
) -> RunConfig:
    """What these layers make of a built-in preset, or of the defaults, with the rates that its start asks for."""
    config = apply(PRESETS[built_in]() if built_in else RunConfig(), *given)
    start = init or config.model.init
    if config.pretrain.steps and start in ("", RANDOM):  # of a given model the tokenizer is its own
        config = apply(config.model_copy(update={"tokenizer": config.tokenizer.for_language_model()}), *given)
    if start == RANDOM:
        return _named(config, name, init="", start="random")
    if start and start != OF_OWN_START.get(built_in):
        n_weights = hub_weights(start) or n_weights
        if config.train.precision == "float32":  # fixed for a small new model's figures, which these will not be
            config = in_precision(config, "auto")
        update = {
            "pretrain": config.pretrain.for_language_model(n_weights),
            "train": config.train.for_language_model(n_weights, embeds or _embeds(start)),
        }
        config = apply(config.model_copy(update=update), *given)
    return _named(config, name, init=start)


def _embeds(start: str) -> bool:
    """True of a folder of sentence-transformers."""
    return bool(start) and (Path(start) / "modules.json").is_file()


def _warm(name: str, built_in: str, given: Sequence[Mapping[str, Any]]) -> RunConfig:
    """What these layers make, the start being a checkpoint that brought the first of them."""
    return _named(apply(PRESETS[built_in]() if built_in else RunConfig(), *given), name)


def _named(config: RunConfig, name: str, **model: str) -> RunConfig:
    return config.model_copy(update={"preset": name, "model": config.model.model_copy(update=model)})


def _chain(name: str) -> tuple[str, list[dict[str, Any]]]:
    """The built-in preset that a preset is built on, empty where there is none, and the layers over it, the lowest first."""
    names: list[str] = []
    layers: list[dict[str, Any]] = []
    while name not in PRESETS:
        if name in names:
            raise UserError(f"preset {names[0]}: its bases go in a circle: {' -> '.join([*names, name])}")
        content = _own(name, names)
        names.append(name)
        layers.insert(0, content.without(OF_A_PRESET))
        if not content.get("base"):
            return "", layers
        name = content["base"]
    return name, layers


def _own(name: str, asked: Sequence[str]) -> Layer:
    """The file of a user's preset.

    Args:
        asked: the presets whose bases led to it, from the one that was asked for on.

    Raises:
        UserError: there is no such file, or it is wrong.
    """
    files = users_presets()
    if name not in files:
        led = f"preset {asked[0]!r}: its base" if asked else "preset"
        own = f"; your own in {artifact_home() / FOLDER}: {', '.join(files) or 'none'}"
        raise UserError(f"{led} {name!r} is unknown; choose one of: {', '.join(sorted(PRESETS))}{own}")
    return _read(files[name])


def _read(path: Path) -> Layer:
    content = read_config(path, besides=OF_A_PRESET)
    for word in OF_A_PRESET:
        if not isinstance(content.get(word, ""), str):
            raise UserError(f"{content.where((word,))}{word}: got {in_yaml(content[word])}, expected text")
    return content


def _check_free(name: str) -> None:
    """Refuse a user's preset that stands in the place of a built-in one.

    Raises:
        UserError: there is such a file.
    """
    if name in PRESETS and (file := users_presets().get(name)):
        raise UserError(f"{file}: {name} is a built-in preset; give yours another name, and `base: {name}` to build on it")


def _depth_and_width(init: str) -> tuple[int, int]:
    if init in HUB_MODELS:
        return HUB_MODELS[init]["num_hidden_layers"], HUB_MODELS[init]["hidden_size"]
    return depth_and_width(Path(init))


def describe(config: RunConfig, name: str) -> str:
    """What a run is about to do, in a few lines for the terminal."""
    train, model = config.train, config.model
    given = config.source.folder or config.source.dump
    source = given or "this machine's own Python: its standard library and a tracked list of packages"
    precision: str = train.precision
    if train.precision == "auto":
        depth = _depth_and_width(model.init) if model.init else (model.layers, model.width)
        precision = f"{resolve_precision(train.precision, *depth)} (auto)"
    elif train.precision == "float32" and not has_fast_bfloat16():
        precision = "float32 (this processor has no fast bfloat16; the preset is sized for that)"
    new = f"{model.layers} layers of {model.width}, vocabulary {config.tokenizer.vocab_size:,}"
    blocks = f"the first {model.keep_layers} blocks of " if model.keep_layers else ""
    sizes = f"from {blocks}{model.init}, with its tokenizer" if model.init else new
    whose = "the preset's"
    if model.init and model.init != OF_OWN_START.get(name):
        whose = "an embedding model's" if _embeds(model.init) else "a language model's"
    lines = [
        f"preset {name}: {source}",
        f"  model     {sizes}, {precision}",
        f"  training  {train.steps:,} steps of {train.batch_size:,} pairs: {train.batch_size - 1:,} negatives a pair",
        f"  rates     {whose}: {train.rates()}",
    ]
    if config.beside.is_wanted:
        second = f"preset {config.beside.trained}'s, trained first" if config.beside.trained else config.beside.model
        lines.append(f"  beside    {second}: {config.beside.share:g} of a cosine")
    if config.tests_plumbing:
        lines.append("  purpose   tests the plumbing; its figures mean nothing")
    return "\n".join(lines)
