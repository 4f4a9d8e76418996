"""How a training run came about: what is recorded of it, and the commands that make it again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from flows.finetune_parameters import FinetuneParams
from flows.options import public_place
from flows.parameters import DatasetRef, RunParams
from pipeline_lib.config.run import RunConfig
from pipeline_lib.model.checkpoint import Lineage, Origin, start_name
from pipeline_lib.sources.dump_spec import read_spec

STAGES = {"extracted": "extract", "validated": "validate", "curated": "curate", "tokenizer": "tokenizer", "shards": "shards"}


def origin_of(params: RunParams, config: RunConfig, dataset: DatasetRef) -> Origin:
    """What is to be recorded of a run with these parameters."""
    return Origin(
        params=params.model_dump(mode="json", include=set(RunParams.model_fields)),
        keys={stage: key for field, stage in STAGES.items() if (key := getattr(dataset, field))},
        base=start_name(config.model.init) or "a new causal transformer, trained on this corpus alone",
        data=_data_sentence(config),
    )


def origin_of_tuning(params: FinetuneParams, shards_key: str) -> Origin:
    """What is to be recorded of a fine-tuning run."""
    names = ", ".join(Path(config.path).name for config in params.training_sets())
    return Origin(
        tuning=params.model_dump(mode="json"),
        keys={"shards": shards_key},
        base=f"the checkpoint {params.checkpoint}",
        data=f"Tuned on {names}.",
    )


def recorded_params(lineage: Lineage) -> RunParams | None:
    """The parameters of the run, of a tuned one those of the run that it began as; None where they were not recorded."""
    while lineage.base is not None:
        lineage = lineage.base
    known = {name: value for name, value in lineage.origin.params.items() if name in RunParams.model_fields}
    try:
        return RunParams.model_validate(known) if known else None
    except ValidationError:  # by a version that took other values
        return None


def training_commands(lineage: Lineage, params: RunParams | None) -> list[str]:
    """What trains a run again, line by line; nothing where that was not recorded.

    Args:
        params: of the run, or of the one that it began as.
    """
    if lineage.base is None:
        return [params.command("cpt train")] if params else []
    before = training_commands(lineage.base, params)
    return [*before, FinetuneParams.model_validate(lineage.origin.tuning).command()] if before and lineage.origin.tuning else []


def publishing_commands(lineage: Lineage, params: RunParams | None, label: str, selected: bool) -> str:
    """What makes the published model again, line by line.

    Args:
        params: see `training_commands`.
        label: of the checkpoint.
        selected: whether selection chose it; else it was named.
    """
    if lineage.base is not None:
        before = training_commands(lineage, params)
        return "\n".join([*before, f"cpt publish --checkpoint {lineage.trained.manifest.key}/{label}"] if before else [])
    if params is None:
        return ""
    return params.command() if selected else f"{params.command('cpt publish')} --checkpoint {label}"


def whole_story(lineage: Lineage) -> tuple[str, str]:
    """The start of training and the data, in words, of a tuned run from its first run on."""
    if lineage.base is None:
        return lineage.origin.base or _start_in_words(lineage), lineage.origin.data
    start, data = whole_story(lineage.base)
    return f"{lineage.origin.base or 'a checkpoint'} (which started from {start})", f"{data} {lineage.origin.data}".strip()


def _start_in_words(lineage: Lineage) -> str:
    """The start as far as the manifest knows it."""
    given = lineage.trained.manifest.config.get("model", {}).get("init")
    return "a given causal language model" if given else "a new causal transformer, trained on this corpus alone"


def _data_sentence(config: RunConfig) -> str:
    if config.source.folder:
        return f"The folder {public_place(config.source.folder)}."
    if config.source.dump:
        return "; ".join(f"{source.name} ({source.licence})" for source in read_spec(config.source.dump)) + "."
    return "A Python installation: its standard library and the packages that this project depends on."
