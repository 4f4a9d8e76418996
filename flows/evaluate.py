"""Checkpoints and baselines on held-out packages; people start this one from the UI."""

from __future__ import annotations

from prefect import flow

from flows.parameters import CheckpointParams, DatasetRef, EvaluatedRef, EvaluateParams, TrainParams, split_checkpoint
from flows.train import train
from flows.workspace import Workspace, open_workspace
from pipeline_lib.artifact import Artifact
from pipeline_lib.model.checkpoint import Checkpoint
from tasks.evaluation import baselines_task, checkpoint_task, show_evaluations_task


@flow(name="evaluate", flow_run_name="evaluate-{params.preset}-{params.split}")
def evaluate(params: EvaluateParams) -> EvaluatedRef:
    """Measure checkpoints and the baselines beside them on the same queries and candidates.

    Args:
        params: which checkpoints, and on which split.
    """
    work = open_workspace(params)
    dataset, trained, label = require_trained(work, params)
    labels = [label] if label else checkpoint_labels(trained)
    return evaluate_labels(work, dataset, trained, labels, params.split)


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
    show_evaluations_task(found, baselines, split)
    return EvaluatedRef(
        split=split,
        checkpoints={label: artifact.manifest.key for label, artifact in found.items()},
        baselines=baselines.manifest.key,
    )
