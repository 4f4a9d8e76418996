"""Retraining, the whole life: raw dump in, searchable index out."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed

from flows.approval import recalled
from flows.build_dataset import dataset_of
from flows.candidate import Published, publish_run
from flows.hooks import FLOW_OPTIONS, in_subflow
from flows.nightly import Night, Seen, decided, dry_run, night
from flows.params import RunParams
from flows.promotion import promoted
from flows.roots import admit
from flows.train import train_on
from flows.workspace import Workspace, open_workspace
from pipeline_lib.runtime.cost import Meter
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from tasks.reporting import RunArtifacts, report_task
from tasks.training import batch_advice_task


@flow(name="retrain", **FLOW_OPTIONS)
def retrain(params: RunParams) -> dict[str, Any]:
    """Build the dataset, train, evaluate, select, export, index, promote and report. Finished work is not repeated.

    Under a policy of nights only what is new is done; the run's state says what came of it.

    Args:
        params: what to run, and on what.
    """
    admit(params)
    work = open_workspace(params)
    name = work.config.name
    if params.dry_run:
        return _ended(dry_run(work, params))
    with Meter(work.home / "runs" / f"{name}.json", of=name_of_work(work)) as meter:

        def report(published: Published) -> dict[str, Any]:
            advice = batch_advice_task(work.store, published.run.trained, published.checkpoint)
            return report_task(work.home, work.config, run_artifacts(published, advice), meter)

        is_night = work.config.nightly.policy != "whole"
        if (kept := recalled()) is not None:  # somebody has answered
            published = Published.recalled(work, kept)
            return _ended(decided(work, Seen(**kept["more"]), published, report)) if is_night else report(promoted(published))
        if is_night:
            return _ended(night(work, params, report))
        dataset = in_subflow("build-dataset", name, dataset_of, work)
        run = in_subflow("train", name, train_on, work, params, dataset)
        return report(promoted(in_subflow("publish", name, publish_run, run)))


def _ended(done: Night) -> Any:
    """The state of a run that says what came of it; whoever calls the flow gets its data."""
    return Completed(message=done.sentence, data=done.data)


def name_of_work(work: Workspace) -> str:
    """A digest of what a run was asked to do: attempts at the same are one run, and their costs add up."""
    source = work.config.source
    return digest_of([work.config.key_fields(), source.folder, source.dump])


def run_artifacts(published: Published, advice: Artifact) -> RunArtifacts:
    """Everything that a run left, as the report takes it."""
    evaluated = {"validation": published.validation, "test": published.test}
    checks = {f"check {split}": found.checked for split, found in evaluated.items() if found}
    validation, test = (found.checkpoints if found else {} for found in evaluated.values())
    stages = {**published.run.stages, **published.stages, **checks, "batch_advice": advice}
    return RunArtifacts(stages, validation, test, published.checkpoint, published.promotion)
