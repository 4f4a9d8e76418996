"""Checkpoints and baselines on what was held out of the corpus; people start this one from the UI."""

from __future__ import annotations

from prefect import flow

from flows.parameters import CheckpointParams, DatasetRef, EvaluatedRef, EvaluateParams, TrainParams, split_checkpoint
from flows.train import train
from flows.workspace import Workspace, open_workspace
from pipeline_lib.artifact import Artifact
from pipeline_lib.evaluation.suites.encoders import CheckpointEncoder, open_model
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.model.checkpoint import Checkpoint
from tasks.evaluation import baselines_task, check_evaluations_task, checkpoint_task, show_evaluations_task
from tasks.suites import fits, open_suites_task, show_suites_task, suite_task


@flow(name="evaluate", flow_run_name="evaluate-{params.preset}-{params.split}")
def evaluate(params: EvaluateParams) -> EvaluatedRef:
    """Measure checkpoints and the baselines beside them on the same queries and candidates, or on public suites.

    Args:
        params: which checkpoints, on which split, and of which suites.
    """
    work = open_workspace(params)
    if params.suites:
        return evaluate_suites(work, params)
    dataset, trained, label = require_trained(work, params)
    labels = [label] if label else checkpoint_labels(trained)
    return evaluate_labels(work, dataset, trained, labels, params.split)


def evaluate_suites(work: Workspace, params: EvaluateParams) -> EvaluatedRef:
    """Run suites on checkpoints and other models, and show the table in the UI.

    Raises:
        UserError: no data folder, or an unknown suite or model.
        MissingData: files of a suite are not there, and `skip_missing` was not asked for.
    """
    suites, skipped = open_suites_task(params.suites, params.data, params.split, params.quick, params.skip_missing)
    models: list[Model] = [open_model(name) for name in params.models]
    if params.checkpoint or not models:
        dataset, trained, label = require_trained(work, params)
        tokenizer = work.store.open("tokenizer", dataset.tokenizer)
        labels = [label] if label else checkpoint_labels(trained)
        models = [CheckpointEncoder(Checkpoint(trained, name, tokenizer, work.config.shards)) for name in labels] + models
    found = [suite_task(work.store, model, suite, params.split) for model in models for suite in suites if fits(model, suite)]
    checked = check_evaluations_task(work.store, found).manifest.key if found else ""
    show_suites_task(work.report_folder, found, params.split, skipped)
    keys = tuple(artifact.manifest.key for artifact in found)
    return EvaluatedRef(split=params.split, checkpoints={}, suites=keys, checked=checked, skipped=skipped)


def require_trained(work: Workspace, params: CheckpointParams) -> tuple[DatasetRef, Artifact, str]:
    """The dataset, the training run and the checkpoint (or "") that are named, made first where they are not there.

    Raises:
        UserError: there is no such run or checkpoint; the message lists those that there are.
    """
    key, label = split_checkpoint(params.checkpoint) if params.checkpoint else ("", "")
    key, dataset = key or params.trained, params.dataset
    if not (key and dataset.shards):
        found = train(TrainParams.model_validate(params.model_dump(include=set(TrainParams.model_fields))))
        key, dataset = key or found.trained, found.dataset
    trained = work.store.open("train", key)
    if label:
        trained.part(label)
    return dataset, trained, label


def checkpoint_labels(trained: Artifact) -> list[str]:
    """The checkpoints of a training run, earliest first."""
    return sorted(part.label for part in trained.manifest.parts if part.label.startswith("step-"))


def evaluate_labels(work: Workspace, dataset: DatasetRef, trained: Artifact, labels: list[str], split: str) -> EvaluatedRef:
    """Evaluate these checkpoints and the baselines on one split, and show the table in the UI."""
    curated = work.store.open("curate", dataset.curated)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    baselines = baselines_task(work.store, curated, split, work.config)
    checkpoints = {label: Checkpoint(trained, label, tokenizer, work.config.shards) for label in labels}
    found = {
        label: checkpoint_task(work.store, curated, checkpoint, split, work.config) for label, checkpoint in checkpoints.items()
    }
    checked = check_evaluations_task(work.store, [*found.values(), baselines])
    show_evaluations_task(found, baselines, split, work.config.name)
    return EvaluatedRef(
        split=split,
        checkpoints={label: artifact.manifest.key for label, artifact in found.items()},
        baselines=baselines.manifest.key,
        checked=checked.manifest.key,
    )
