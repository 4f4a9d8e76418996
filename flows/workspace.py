"""Workspace of a run, its datasets and training runs as artifacts, and how each came about. Imports no Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.params import CheckpointParams, FinetuneParams, SourceParams, TrainParams
from flows.runs import (
    PUBLISHED,
    as_tuned,
    asked_digest,
    check_guide_model,
    check_start,
    find_checkpoint,
    find_given_start,
    input_of,
    published_checkpoint,
    split_checkpoint,
    with_settings,
    working_store,
)
from flows.settings import Values, data_sentence, find_setting, flat, without_section, words_of
from pipeline_lib.config.overrides import parse_set
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint, Companion, Lineage, Origin, find_start, lineage_of, start_name
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.model.starts import check_fits
from pipeline_lib.runtime.machine import writable_home
from pipeline_lib.search.registry_log import Home
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.job import checkpoint_label, checkpoint_steps
from pipeline_lib.train.memory import check_lora

NEW_TRANSFORMER = "a new causal transformer, trained on this corpus alone"
# sections that training does not depend on
AFTER_TRAINING = ("name", "sample_queries", "read", "beside", "evaluate", "select", "export", "index", "promote")


@dataclass(frozen=True)
class Workspace:
    """The artifact root of this machine, the store, and the whole configuration of a run.

    Attributes:
        start: the finished run's checkpoint that training starts or goes on from; None: it begins otherwise.
        asked: digest of what was asked for, the data aside: equal for all runs of one name and configuration.
        companion: the model that stands beside this run's, where its vectors are read.
    """

    home: Path
    store: Store
    config: RunConfig
    start: Checkpoint | None = None
    asked: str = ""
    companion: Companion | None = None

    @property
    def registry(self) -> Home:
        """Where the registry of models is: the store's bucket, else this artifact root."""
        return self.store.remote or self.home

    @property
    def report_folder(self) -> Path:
        """Folder of report.json and report.html of this run."""
        return self.home / "reports" / self.config.name


class DatasetRef(BaseModel):
    """A finished dataset by the keys of its artifacts; None for what is no longer there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extracted: str | None = Field(None, description="Key of the `extract` artifact.")
    validated: str | None = Field(None, description="Key of the `validate` artifact.")
    curated: str = Field(description="Key of the `curate` artifact.")
    tokenizer: str = Field(description="Key of the `tokenizer` artifact.")
    shards: str = Field(description="Key of the `shards` artifact.")
    checked: str | None = Field(None, description="Key of the `check_shards` artifact.")
    guide: str | None = Field(None, description="Key of the `guide` artifact, where training goes by a guide's scores.")
    consistent: str | None = Field(None, description="Key of the `consistent` artifact, where it leaves pairs out.")


@dataclass(frozen=True)
class Dataset:
    """A finished dataset. Each field is named by its stage, in the order of the run.

    Attributes:
        guide: a model's vectors of the training texts; `consistent`: the pairs that it agrees with, where others are left out.
        start: the checkpoint that its training starts from, with whose tokenizer it was made; None: that has none.
    """

    extract: Artifact | None
    validate: Artifact | None
    curate: Artifact
    tokenizer: Artifact
    shards: Artifact
    check_shards: Artifact | None = None
    start: Checkpoint | None = None
    guide: Artifact | None = None
    consistent: Artifact | None = None

    @property
    def stages(self) -> dict[str, Artifact]:
        """What is there, by the name of its stage."""
        return {stage: artifact for stage, artifact in vars(self).items() if isinstance(artifact, Artifact)}

    @property
    def ref(self) -> DatasetRef:
        """Its keys."""
        named = {"extract": "extracted", "validate": "validated", "curate": "curated", "check_shards": "checked"}
        return DatasetRef(**{named.get(stage, stage): artifact.manifest.key for stage, artifact in self.stages.items()})


@dataclass(frozen=True)
class TrainedRun:
    """A training run, what it was made from, and the configuration that it is measured and published with.

    Attributes:
        params: that made the run; None where they were not recorded.
        start: the artifact that training began from, where that was made here.
        note: what a user is told of the run: that other parameters were given beside its key.
    """

    work: Workspace
    params: TrainParams | None
    dataset: Dataset
    lineage: Lineage
    start: Artifact | None = None
    note: str = ""

    @property
    def trained(self) -> Artifact:
        """The `train` artifact."""
        return self.lineage.trained

    @property
    def key(self) -> str:
        """The key of the `train` artifact."""
        return self.trained.manifest.key

    def checkpoint(self, label: str) -> Checkpoint:
        """One checkpoint, with the lengths that it is to read.

        Raises:
            UserError: there is none of that label; the message lists those that there are.
        """
        return replace(self.lineage.checkpoint(label).reading(*self.work.config.read.lengths), companion=self.work.companion)

    @property
    def stages(self) -> dict[str, Artifact]:
        """Its artifacts by the name of their stage."""
        return {**self.dataset.stages, **({"start": self.start} if self.start else {}), "train": self.trained}


def open_workspace(params: SourceParams) -> Workspace:
    """The workspace of these parameters, whose configuration is resolved here and nowhere else.

    Raises:
        UserError: the artifact root cannot be written to, this machine is too small, or there is no such start or guide.
    """
    home, store = writable_home(), working_store(params.machine.artifacts)
    lengthened, given = params.lengthened, params.start
    start = find_given_start(store, given, lengthened)
    folder = find_start(given, params.machine.download) if start is None else str(weights_folder(start))
    config = params.resolve()  # once a start is here: rates go by its size
    if start is None:
        check_fits(folder, config)
    check_lora(config, folder)
    check_guide_model(store, config.train, config.guide)
    asked = asked_digest(config, start)
    if start is not None and lengthened:
        config = with_settings(config, "train", continue_from=start.name)
    elif folder:
        config = with_settings(config, "model", init=folder)
    if start is not None:
        check_start(start, config)
    return Workspace(home, store, config, start, asked, companion_of(store, config))


def companion_of(store: Store, config: RunConfig) -> Companion | None:
    """The second model, with the lengths that its own run reads; None where none is named.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    if not (name := config.beside.model):
        return None
    if (found := find_checkpoint(store, name)) is None:
        raise UserError(f"beside.model is {name!r}, expected RUN/step-000240, or the key or name of a finished run")
    own = recorded_params(lineage_of(store, found.trained))
    return Companion(found.reading(*own.resolve().read.lengths) if own else found, config.beside.share)


def named_checkpoint(store: Store, name: str) -> tuple[str, str]:
    """The run's key, empty where parameters name it, and the checkpoint's label, empty for a whole run.

    Raises:
        UserError: it is no such name, or nothing is published.
    """
    return split_checkpoint(published_checkpoint(store) if name == PUBLISHED else name)


def named_run(params: CheckpointParams, key: str) -> TrainedRun:
    """The finished training run of that key, with its own corpus, tokenizer, lengths and parameters; nothing is made.

    Raises:
        UserError: there is no such run (the message lists those that there are), or what belongs to it is gone or does not fit.
    """
    home, store = writable_home(), working_store(params.machine.artifacts)
    lineage = lineage_of(store, store.open("train", key))
    recorded = recorded_params(lineage)
    own, note = _own_params(params, recorded, lineage.trained.manifest.key)
    config = as_tuned(own.resolve(), lineage)
    work = Workspace(home, store, config, companion=companion_of(store, config))
    return TrainedRun(work, recorded, _dataset_of(store, lineage), lineage, note=note)


def check_planned(params: SourceParams, store: Store, label: str) -> None:
    """Look for a checkpoint among those that a run with these parameters leaves.

    Raises:
        UserError: it leaves none of that label; the message lists those that it does, and finished runs that have one.
    """
    train = params.resolve().train
    lengthened = find_checkpoint(store, params.lengthened) if params.lengthened else None
    steps = checkpoint_steps(train.steps, train.checkpoints, lengthened.step if lengthened else 0)
    planned = [checkpoint_label(step) for step in steps]
    if label and label not in planned and train.when_grown == "restart":
        runs = store.artifacts("train")
        others = [f"{run.manifest.key}/{label}" for run in runs if any(part.label == label for part in run.manifest.parts)]
        raise UserError(
            f"a run with these parameters has no checkpoint {label!r}; it has: {', '.join(planned)}."
            f" Finished runs that do: {', '.join(others) or 'none'}"
        )


def origin_of(params: SourceParams, work: Workspace, dataset: Dataset) -> Origin:
    """What is to be recorded of a run with these parameters."""
    start, own = dataset.start, _train_params(params)
    base, data = start_name(work.config.model.init) or NEW_TRANSFORMER, data_sentence(work.config)
    if start is not None:
        base, data = _story_before(work.store, start, data)
    # as it was meant when it was found, whatever is named so later
    if start is not None and work.start and start.name == work.start.name:
        own = _named_start(params, own, start.name)
    return Origin(
        params=own.model_dump(mode="json", exclude={"machine"}, exclude_none=True),
        keys={stage: artifact.manifest.key for stage, artifact in dataset.stages.items() if stage != "check_shards"},
        base=base,
        data=data,
        parent=start.name if start else "",
    )


def _story_before(store: Store, start: Checkpoint, data: str) -> tuple[str, str]:
    """The start and the data in words, with those of the run that a checkpoint is of."""
    try:
        before, earlier = whole_story(lineage_of(store, start.trained))
    except UserError:  # what it was made from is gone
        return f"the checkpoint {start.name}", data
    return f"the checkpoint {start.name} (which started from {before})", " ".join(dict.fromkeys([earlier, data])).strip()


def _named_start(params: SourceParams, own: TrainParams, name: str) -> TrainParams:
    """The parameters with the checkpoint's whole name in place of the one that was given."""
    if not params.lengthened:
        return own.model_copy(update={"init": name})
    values = flat(RunConfig, parse_set(own.set)) | {"train.continue_from": name}
    return own.model_copy(update={"set": words_of(RunConfig, values)})


def origin_of_tuning(params: FinetuneParams, shards_key: str) -> Origin:
    """What is to be recorded of a fine-tuning run."""
    names = ", ".join(Path(config.path).name for config in params.training_sets())
    return Origin(
        tuning=params.folded().model_dump(mode="json", exclude={"machine"}, exclude_none=True),
        keys={"shards": shards_key},
        base=f"the checkpoint {params.checkpoint}",
        data=f"Tuned on {names}.",
    )


def recorded_params(lineage: Lineage) -> TrainParams | None:
    """The parameters of the run, of a tuned one those of the run that it began as; None where they were not recorded."""
    while lineage.base is not None:
        lineage = lineage.base
    try:
        return TrainParams.model_validate(_of_earlier_versions(lineage.origin.params)) if lineage.origin.params else None
    except ValidationError:  # by a version that took other values
        return None


def training_commands(lineage: Lineage, params: TrainParams | None) -> list[str]:
    """What trains a run again, line by line; nothing where that was not recorded.

    Args:
        params: of the run, or of the one that it began as.
    """
    if lineage.base is None:
        return [params.command()] if params else []
    before = training_commands(lineage.base, params)
    try:
        return [*before, FinetuneParams.model_validate(lineage.origin.tuning).command()] if before else []
    except ValidationError:  # see recorded_params
        return []


def publishing_commands(run: TrainedRun, label: str, selected: bool) -> str:
    """What makes the published model again, line by line.

    Args:
        label: of the checkpoint.
        selected: whether selection chose it; else it was named.
    """
    if run.lineage.base is not None:
        before = training_commands(run.lineage, run.params)
        return "\n".join([*before, f"cpt publish --checkpoint {run.key}/{label}"] if before else [])
    if run.params is None:
        return ""
    command = run.params.command().removeprefix("cpt train")
    return f"cpt run{command}" if selected else f"cpt publish{command} --checkpoint {label}"


def whole_story(lineage: Lineage) -> tuple[str, str]:
    """The start of training and the data, in words, of a tuned run from its first run on."""
    if lineage.base is None:
        return lineage.origin.base or _start_in_words(lineage), lineage.origin.data
    start, data = whole_story(lineage.base)
    return f"{lineage.origin.base or 'a checkpoint'} (which started from {start})", f"{data} {lineage.origin.data}".strip()


def _own_params(params: CheckpointParams, recorded: TrainParams | None, key: str) -> tuple[SourceParams, str]:
    """The run's own parameters with what is asked for of this machine and this time; and what is to be said of them."""
    if recorded is None:
        if params.preset is None:
            raise UserError(f"train {key}: its parameters were not recorded; give the preset that it shall be measured as")
        said = f"{key}: its parameters were not recorded; it is measured as preset {params.preset} says, on its own data"
        return params, said
    asked = params.settings()
    now = {name: value for name, value in asked.items() if _is_asked_now(name)}
    ignored = {**asked, "preset": params.preset}.keys() - now.keys() if params.preset else asked.keys() - now.keys()
    is_other = bool(ignored) and (params.preset is None or _train_params(params).command() != recorded.command())
    said = f"{key} comes with its own data and parameters, and not those given beside it: {recorded.command()}"
    own = flat(RunConfig, parse_set(recorded.set))
    words = words_of(RunConfig, own | now)
    return recorded.model_copy(update={"set": words, "machine": params.machine}), said if is_other else ""


def _is_asked_now(name: str) -> bool:
    """True if a setting is no choice of training: it is taken as it is given now."""
    section = name.partition(".")[0]
    return section in AFTER_TRAINING or (section != "source" and find_setting(RunConfig, name).is_operational)


def _train_params(params: SourceParams) -> TrainParams:
    """The parameters that train the same run, without a file of this machine."""
    folded = params.folded()
    fields = {name: getattr(folded, name) for name in TrainParams.model_fields if name in type(folded).model_fields}
    values = without_section(RunConfig, parse_set(folded.set), "notify")  # whom to tell makes no other run, and may be a secret
    for field, setting in TrainParams.FIELDS.items():
        if field not in type(folded).model_fields and setting in values:
            fields[field] = values.pop(setting)
    return TrainParams.model_validate(fields | {"set": words_of(RunConfig, values)})


def _of_earlier_versions(given: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded parameters as they are written now; before, each setting had a field, unset at 0, -1 or an empty text."""
    fields = {name: value for name, value in given.items() if name in TrainParams.model_fields and name != "machine"}
    unset: tuple[Any, ...] = ("", [], None, -1)
    values: Values = {
        setting: given[name]
        for name, setting in {**TrainParams.SHORTCUTS, "select_suites": "select.suites"}.items()
        if given.get(name) not in unset and (given[name] or name in ("near_duplicates", "pretrain_steps"))
    }
    if given.get("temperature"):
        values["train.train_temperature"] = given["temperature"] == "trained"
    if given.get("pairs"):
        batch_size = given.get("batch_size") or TrainParams(preset=given["preset"]).resolve().train.batch_size
        values["train.steps"] = round(given["pairs"] / batch_size)
    return {**fields, "set": [*words_of(RunConfig, values), *given.get("set", ())]}


def _dataset_of(store: Store, lineage: Lineage) -> Dataset:
    """What a run was made from, as far back as it is there."""
    validated = input_of(store, lineage.curated, "validate", "validated")
    with_queries = input_of(store, validated, "queries", "extracted") if validated else None
    extracted = input_of(store, with_queries or validated, "extract", "extracted") if validated else None
    return Dataset(extracted, validated, lineage.curated, lineage.tokenizer, lineage.shards)


def _start_in_words(lineage: Lineage) -> str:
    """The start as far as the manifest knows it."""
    given = lineage.trained.manifest.config.get("model", {}).get("init")
    return "a given causal language model" if given else NEW_TRANSFORMER
