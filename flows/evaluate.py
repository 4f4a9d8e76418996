"""Evaluation of checkpoints and other models, on what was held out of the corpus or on public suites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.params import EvaluateParams
from flows.pools import artifact_of, measured_on_pool
from flows.roots import admit
from flows.train import find_run
from flows.workspace import TrainedRun, Workspace, open_store
from pipeline_lib.config.evaluation import HELD_OUT_SUITES, parted_suites
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, Model
from pipeline_lib.evaluation.suites.registry import OPENERS, open_model
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.machine import writable_home
from pipeline_lib.store.artifact import Artifact
from tasks.evaluation import (
    BASELINES,
    Evaluations,
    HeldOutPart,
    baselines_task,
    check_evaluations_task,
    checkpoint_task,
    model_task,
    show_evaluations_task,
)
from tasks.suites import fits, open_suites_task, show_suites_task, suite_task


class EvaluatedRef(BaseModel):
    """Finished evaluations of models on one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    checkpoints: dict[str, tuple[str, ...]] = Field(
        description="Checkpoint label, name of another model, or `baselines`, to the keys of its `evaluate_suite` artifacts"
        " on held-out pairs."
    )
    suites: tuple[str, ...] = Field((), description="Keys of `evaluate_suite` artifacts, in the order of models and suites.")
    checked: str | None = Field(None, description="Key of the `check_evaluations` artifact.")
    skipped: dict[str, str] = Field(default_factory=dict, description="Suite to the reason why it was passed over.")


@flow(name="evaluate", flow_run_name="evaluate-{params.subject}-{params.split}")
def evaluate(params: EvaluateParams) -> EvaluatedRef:
    """Measure models on the same queries and candidates, held out of a run's corpus or of public suites.

    Args:
        params: what is evaluated, on what, and how thoroughly.
    """
    admit(params)
    of_corpus, public = parted_suites(params.suites)
    found = evaluate_suites(params, public) if public else None
    if not of_corpus:
        assert found is not None, "no suite is neither public nor held out"
        return found
    run, labels = runs_of(params)
    others = [open_model(name) for name in params.others if name not in OPENERS]  # the baselines are measured in any case
    measured = held_out(run, labels, params.split, others, of_corpus).ref(params.split)
    return measured.model_copy(update={"suites": found.suites, "skipped": found.skipped}) if found else measured


def evaluate_suites(params: EvaluateParams, names: Sequence[str]) -> EvaluatedRef:
    """Run public suites on checkpoints and other models, and show the table in the UI.

    Raises:
        UserError: no data folder, or an unknown suite or model.
        MissingData: files of a suite are not there, and `skip_missing` was not asked for.
    """
    run, labels = runs_of(params) if params.checkpoints else (None, [])
    work = run.work if run else workspace_without_run(params)
    given = (names, params.suite_data or "", params.split, params.quick, params.skip_missing)
    suites, skipped = open_suites_task(*given, work.config.suites)
    models: list[Model] = [open_model(name) for name in params.others]
    if run:
        models = [*checkpoint_encoders(run, labels), *models]
    found = [suite_task(work.store, model, suite, params.split) for model in models for suite in suites if fits(model, suite)]
    checked = check_evaluations_task(work.store, found).manifest.key if found else None
    show_suites_task(work.report_folder, found, params.split, skipped)
    keys = tuple(artifact.manifest.key for artifact in found)
    return EvaluatedRef(split=params.split, checkpoints={}, suites=keys, checked=checked, skipped=skipped)


def runs_of(params: EvaluateParams) -> tuple[TrainedRun, list[str]]:
    """The run whose corpus is measured on, and the labels of its checkpoints that are; none where only other models are named.

    Raises:
        UserError: they are of several runs.
    """
    if not params.checkpoints:
        return find_run(params, params.corpus)[0], []
    found = [find_run(params, name) for name in params.checkpoints]
    run = found[0][0]
    if len({other.key for other, _ in found}) > 1:
        raise UserError(f"{', '.join(params.checkpoints)}: checkpoints of several runs; evaluate one run at a time")
    labels = [label for _, label in found]
    return run, run.lineage.labels if "" in labels else labels


def workspace_without_run(params: EvaluateParams) -> Workspace:
    """Workspace of models that no run of ours made."""
    config = params.resolve() if params.preset else apply(RunConfig(name="models"), *params.layers())
    return Workspace(writable_home(), open_store(params.machine.artifacts), config)


def checkpoint_encoders(run: TrainedRun, labels: Sequence[str]) -> list[Model]:
    """Checkpoints of a run as models that suites are put to."""
    precision = run.work.config.suites.precision
    return [CheckpointEncoder(run.lineage.checkpoint(label), precision=precision) for label in labels]


def suites_on_validation(run: TrainedRun, models: Sequence[Model]) -> list[Artifact]:
    """The suites that selection shall count, on their validation splits, for each model."""
    config = run.work.config.select
    if not config.suites:
        return []
    given = (config.suites, config.suite_data or "", "validation", config.quick_suites)
    suites, _ = open_suites_task(*given, skip_missing=False, config=run.work.config.suites)
    return [suite_task(run.work.store, model, suite, "validation") for model in models for suite in suites]


def measured_on_validation(run: TrainedRun, checkpoints: Sequence[Checkpoint]) -> tuple[list[Evaluations], Artifact]:
    """What selection reads of each checkpoint, of whatever run, on the validation of this run's corpus; and its contract."""
    if run.work.config.pools.gpu:
        made = measured_on_pool(run, [checkpoint.name for checkpoint in checkpoints])
        opened = {name: tuple(artifact_of(run.work.store, ref) for ref in refs) for name, refs in made.items()}
        return [opened[checkpoint.name] for checkpoint in checkpoints], opened["checked"][0]
    part = HeldOutPart(run.work.store, run.lineage.curated, "validation", run.work.config)
    precision = run.work.config.suites.precision
    found = [
        (*checkpoint_task(part, checkpoint), *suites_on_validation(run, [CheckpointEncoder(checkpoint, precision=precision)]))
        for checkpoint in checkpoints
    ]
    return found, check_evaluations_task(run.work.store, [artifact for evaluations in found for artifact in evaluations])


@dataclass(frozen=True)
class HeldOutEvaluations:
    """Checkpoints, other models, and the baselines as one more, on one split of a run's corpus."""

    checkpoints: dict[str, Evaluations]
    checked: Artifact

    def ref(self, split: str) -> EvaluatedRef:
        """Their keys."""
        keys = {label: tuple(artifact.manifest.key for artifact in found) for label, found in self.checkpoints.items()}
        return EvaluatedRef(split=split, checkpoints=keys, checked=self.checked.manifest.key)


def held_out(
    run: TrainedRun, labels: Sequence[str], split: str, others: Sequence[Model] = (), suites: Sequence[str] = HELD_OUT_SUITES
) -> HeldOutEvaluations:
    """Evaluate checkpoints, other models and the baselines on one split of the run's corpus, and show the table in the UI."""
    store, config = run.work.store, run.work.config
    part = HeldOutPart(store, run.lineage.curated, split, config, tuple(suites))
    baselines = baselines_task(part)
    found = {label: checkpoint_task(part, run.lineage.checkpoint(label)) for label in labels}
    found |= {model.id.name: model_task(part, model) for model in others}
    found[BASELINES] = baselines
    checked = check_evaluations_task(store, [artifact for evaluations in found.values() for artifact in evaluations])
    show_evaluations_task(found, split, config.name)
    return HeldOutEvaluations(found, checked)
