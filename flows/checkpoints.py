"""A finished training run with all that belongs to it: named by its key, or by parameters, which train it if need be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from flows.origins import origin_of, recorded_params
from flows.parameters import CheckpointParams, DatasetRef, RunParams, TrainParams, run_options, split_checkpoint
from flows.train import train
from flows.workspace import Workspace, open_store, open_workspace
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Lineage, check_fit, lineage_of
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.job import checkpoint_label, checkpoint_steps
from tasks.ui import say

Params = TypeVar("Params", bound=CheckpointParams)

ASKED_NOW = ("name", "select_suites", "suite_data")  # no choices of training: the run's own stand in where they are not given


@dataclass(frozen=True)
class TrainedRun:
    """A training run, what it was made from, and the configuration that it is measured and published with.

    Attributes:
        params: that made the run; None where they were not recorded.
        asked: what finds this very run again, as it was asked for.
    """

    work: Workspace
    params: RunParams | None
    dataset: DatasetRef
    lineage: Lineage
    asked: dict[str, Any]

    @property
    def key(self) -> str:
        """The key of the `train` artifact."""
        return self.lineage.trained.manifest.key

    def again(self, model: type[Params], **more: Any) -> Params:
        """The parameters by which another flow finds this run."""
        return model.model_validate({**self.asked, "trained": self.key, **more})


def find_run(params: CheckpointParams) -> tuple[TrainedRun, str]:
    """The training run and the checkpoint (or "") that are named.

    A run that is named by its key brings its own corpus, tokenizer, lengths and parameters, and nothing is made. One that is
    named by parameters is trained where it is not there.

    Raises:
        UserError: there is no such run or checkpoint (the message lists those that there are), or what belongs to it is gone
            or does not fit.
    """
    key, label = split_checkpoint(params.checkpoint) if params.checkpoint else ("", "")
    if key and params.trained and key != params.trained:
        raise UserError(
            f"checkpoint {params.checkpoint} is not of the run {params.trained} that is given too; give one of them"
        )
    by_key = params.key and not params.dataset.shards
    run = _named(params) if by_key else _of_parameters(params, label)
    if label:
        run.lineage.checkpoint(label)
    return run, label


def _named(params: CheckpointParams) -> TrainedRun:
    store = open_store(params.artifacts)
    lineage = lineage_of(store, store.open("train", params.key))
    recorded = recorded_params(lineage)
    own = _own_params(params, recorded)
    work = open_workspace(own, trains=False)
    asked = params.model_dump(include=set(RunParams.model_fields))
    return TrainedRun(work, recorded, _dataset_of(store, lineage), lineage, asked)


def _own_params(params: CheckpointParams, recorded: RunParams | None) -> RunParams:
    """The run's own parameters, with what is asked for of this machine and this time."""
    given = params.model_dump(include=set(RunParams.model_fields))
    if recorded is None:
        if params.preset is None:
            raise UserError(
                f"train {params.key}: its parameters were not recorded; give the preset that it shall be measured as"
            )
        say(f"  {params.key}: its parameters were not recorded; it is measured as preset {params.preset} says, on its own data")
        return RunParams.model_validate(given)
    if params.preset is not None and RunParams.model_validate(given).command() != recorded.command():
        say(f"  {params.key} comes with its own data and parameters, and not those given beside it: {recorded.command()}")
    asked = {name: given[name] for name in ASKED_NOW if given[name]}
    machine = {name: given[name] for name in (option.path[0] for option in run_options() if option.is_operational)}
    return RunParams.model_validate(recorded.model_dump() | asked | machine)


def _of_parameters(params: CheckpointParams, label: str) -> TrainedRun:
    if params.preset is None:
        raise UserError(f"train {params.key} is given with a dataset: give its preset too, or the key alone")
    work = open_workspace(params)
    key, dataset = params.key, params.dataset
    if not key:
        planned = [checkpoint_label(step) for step in checkpoint_steps(work.config.train.steps, work.config.train.checkpoints)]
        if label and label not in planned:
            others = ", ".join(_having(work.store, label)) or "none"
            raise UserError(
                f"a run with these parameters has no checkpoint {label!r}; it has: {', '.join(planned)}."
                f" Finished runs that do: {others}"
            )
        found = train(TrainParams.model_validate(params.model_dump(include=set(TrainParams.model_fields))))
        key, dataset = found.trained, found.dataset
    store = work.store
    trained = store.open("train", key)
    shards, tokenizer = store.open("shards", dataset.shards), store.open("tokenizer", dataset.tokenizer)
    curated = store.open("curate", dataset.curated)
    lineage = Lineage(trained, shards, tokenizer, curated, origin_of(params, work.config, dataset))
    check_fit(lineage)
    asked = params.model_dump(include=set(RunParams.model_fields))
    return TrainedRun(work, RunParams.model_validate(asked), dataset, lineage, {**asked, "dataset": dataset})


def _having(store: Store, label: str) -> list[str]:
    """The checkpoints of that label, by their whole names."""
    runs = store.artifacts("train")
    return [f"{run.manifest.key}/{label}" for run in runs if any(part.label == label for part in run.manifest.parts)]


def _dataset_of(store: Store, lineage: Lineage) -> DatasetRef:
    """The keys of what a run was made from, as far back as it is there."""
    validated = _found(store, "validate", lineage.curated, "validated")
    extracted = _found(store, "extract", validated, "extracted") if validated else None
    return DatasetRef(
        extracted=extracted.manifest.key if extracted else "",
        validated=validated.manifest.key if validated else "",
        curated=lineage.curated.manifest.key,
        tokenizer=lineage.tokenizer.manifest.key,
        shards=lineage.shards.manifest.key,
    )


def _found(store: Store, stage: str, made: Artifact, name: str) -> Artifact | None:
    digest = made.manifest.inputs.get(name)
    return next((found for found in store.artifacts(stage) if found.digest == digest), None)
