"""Settings of a configuration: as layers, as words of --set, and what a preset becomes with them in place."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from pipeline_lib.config.model import check_dims, embedding_width
from pipeline_lib.config.optimizer import check_optimizer
from pipeline_lib.config.options import Option as Setting
from pipeline_lib.config.options import find, options
from pipeline_lib.config.overrides import in_yaml, parse_set
from pipeline_lib.config.presets import RANDOM, preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import FIRST_ROUND, check_divides, check_early_stopping, check_guide
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import start_embeds, start_weights, start_width
from pipeline_lib.runtime.machine import check_processes
from pipeline_lib.sources.dump_spec import read_spec

PLACE, PLACE_OR_NAME = "place", "place or name"  # what a field marked so holds: a path; a folder, or else a name
NAMES = (RANDOM, FIRST_ROUND, "published", "bm25", "tfidf")  # which are no folders, be there some of that name
# settings that name a place: their last part is told, though no output depends on the whole
PLACE_SETTINGS = {
    "source.folder": PLACE,
    "source.dump": PLACE,
    "contamination.folder": PLACE,
    "select.suite_data": PLACE,
    "model.init": PLACE_OR_NAME,
    "guide.model": PLACE_OR_NAME,
    "queries.file": PLACE,
}
TOLD = {*PLACE_SETTINGS, "name"}
NAME_CHARACTERS = 100  # of a source's name: what is put behind it to tell two apart has to fit as well
# options of commands to the settings that they give
DATASET_SHORTCUTS = {
    "dump": "source.dump",
    "contamination": "contamination.folder",
    "near_duplicates": "curate.near.threshold",
    "delimiters": "tokenizer.delimiters",
    "workers": "extract.workers",
    "scheduler": "extract.scheduler",
}
TRAIN_SHORTCUTS = DATASET_SHORTCUTS | {
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "pretrain_steps": "pretrain.steps",
    "pooling": "model.pooling",
    "directions": "train.directions",
    "seed": "train.seed",
    "processes": "train.processes",
    "gpus": "train.gpus",
}
RUN_SHORTCUTS = TRAIN_SHORTCUTS | {"select_suite": "select.suites", "suite_data": "select.suite_data"}
Values = dict[str, Any]  # dotted name of a setting to its value


def configure(name: str, layers: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset with settings in place.

    A given start brings a language model's rates, or an embedding model's. Steps that are set without a warm-up keep the
    preset's share of it. A run that is not named is called after its source.

    Args:
        name: of the preset.
        layers: settings, the later ones over the earlier.
        recipe: settings of the finished run whose checkpoint is the start, in place of a language model's.

    Raises:
        UserError: as `SourceParams.resolve` says.
    """
    values = {setting: value for layer in layers for setting, value in flat(RunConfig, layer).items()}
    folder, dump = (str(values.get(f"source.{kind}") or "") for kind in ("folder", "dump"))
    if folder and dump:
        raise UserError(f"source {folder} and dump {dump}: give one; a dump spec can list a folder")
    init = str(values.get("model.init") or "")
    keep_layers = values.get("model.keep_layers")
    n_weights, embeds = (None, False) if init == RANDOM or recipe else (start_weights(init, keep_layers), start_embeds(init))
    make = partial(preset, name, "", n_weights, embeds=embeds, recipe=recipe)
    config = make(layers=layers)
    last = _warm_ups(make, values)
    if "name" not in values and (folder or dump):
        last["name"] = name_of(folder or PurePath(dump).stem) or config.name
    config = make(layers=[*layers, last]) if last else config
    check_processes("extract.workers", 0 if config.extract.scheduler else config.extract.workers or 0)
    check_processes("train.processes", 0 if config.pools.gpu else config.train.n_processes)
    check_divides(config.train.batch_size, config.train.n_processes * config.train.nodes)
    for stage in (config.train, config.pretrain):
        check_optimizer(stage)
    check_early_stopping(config.train, config.shards.splits)
    check_guide(config.train, config.guide)
    if config.beside.trained:
        preset(config.beside.trained)  # before anything is made
    width = embedding_width(config.model) or start_width(config.model.init)
    check_dims(config.train.matryoshka.dims, width, "train.matryoshka.dims")
    check_dims(config.evaluate.dims, width, "evaluate.dims")
    check_dims([config.export.truncate_dim] if config.export.truncate_dim else [], width, "export.truncate_dim")
    return config


def _warm_ups(make: Callable[..., RunConfig], values: Values) -> Values:
    """The warm-ups of stages whose steps are set and whose warm-ups are not."""
    steps = {stage: values.get(f"{stage}.steps") for stage in ("train", "pretrain")}
    asked = {stage: n for stage, n in steps.items() if isinstance(n, int) and n > 0 and f"{stage}.warmup_steps" not in values}
    if not asked:
        return {}
    rest = {name: value for name, value in values.items() if name not in [f"{stage}.steps" for stage in asked]}
    as_planned = make(layers=[rest])
    return {f"{stage}.warmup_steps": getattr(as_planned, stage).lasting(n).warmup_steps for stage, n in asked.items()}


def flat(root: type[BaseModel], layer: Mapping[str, Any], above: str = "") -> Values:
    """A layer of a configuration by the dotted names of its settings."""
    values: Values = {}
    for name, value in layer.items():
        dotted = f"{above}{name}"
        is_section = not isinstance(find(root, tuple(dotted.split("."))), Setting)
        values |= flat(root, value, f"{dotted}.") if is_section else {dotted: value}
    return values


def without_section(root: type[BaseModel], layer: Mapping[str, Any], section: str) -> Values:
    """A layer's settings but for those of one section."""
    return {name: value for name, value in flat(root, layer).items() if name.partition(".")[0] != section}


def words_of(root: type[BaseModel], values: Values) -> tuple[str, ...]:
    """The words of --set that give these settings, in the order of the configuration."""
    return tuple(word_of(root, setting.name, values[setting.name]) for setting in options(root) if setting.name in values)


def find_setting(root: type[BaseModel], name: str) -> Setting:
    """The setting of that dotted name.

    Raises:
        UserError: there is none, or it is a section.
    """
    found = find(root, tuple(name.split(".")))
    if not isinstance(found, Setting):
        raise UserError(f"{name} is a section: name one of its settings, {', '.join(found.model_fields)}")
    return found


def word_of(root: type[BaseModel], name: str, value: Any) -> str:
    """NAME=VALUE; a text stands as it is unless it would be read as something else."""
    if isinstance(value, str):
        try:
            if flat(root, parse_set([f"{name}={value}"], root)) == {name: value}:
                return f"{name}={value}"
        except UserError:
            pass
    return f"{name}={in_yaml(value)}"


def public_place(path: str) -> str:
    """The last part of an absolute path, links resolved as reading it does; anything else as it is."""
    return (PurePath(os.path.realpath(path)).name or path) if path.startswith("/") else path


def absolute_place(path: str, kind: str) -> str:
    """A place of this machine from its root on: another process may stand elsewhere."""
    if "://" in path or (kind == PLACE_OR_NAME and (path in NAMES or not Path(path).expanduser().exists())):
        return path
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - a string for JSON, links kept


def name_of(place: str) -> str:
    """What a source's last part gives as a name: its letters without accents; of another script their code in ASCII."""
    last = place.rstrip("/").rsplit("/", 1)[-1].lower()
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    if not any(map(str.isalnum, plain)):
        plain = last.encode("punycode", "replace").decode()
    return "".join(c if c.isalnum() or c in "_.-" else "-" for c in plain).lstrip("_.-")[:NAME_CHARACTERS]


def data_sentence(config: RunConfig) -> str:
    """What a run is trained on, as cards say it."""
    if config.source.folder:
        return f"The folder {public_place(config.source.folder)}."
    if config.source.dump:
        return "; ".join(f"{source.name} ({source.licence})" for source in read_spec(config.source.dump)) + "."
    return "A Python installation: its standard library and the packages that this project depends on."
