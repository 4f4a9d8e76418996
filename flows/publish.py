"""Selected checkpoint to exported model, index and promotion; only here is the test split opened."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.evaluate import evaluate, evaluate_labels, require_trained
from flows.parameters import DatasetRef, EvaluatedRef, EvaluateParams, PublishedRef, PublishParams, TrainParams
from flows.workspace import Workspace, open_workspace
from pipeline_lib.artifact import Artifact
from pipeline_lib.evaluation.suites.encoders import CheckpointEncoder
from pipeline_lib.model.checkpoint import Checkpoint
from tasks.publishing import export_task, index_task, negatives_task, promote_task, select_task
from tasks.suites import open_suites_task, suite_task


@flow(name="publish", flow_run_name="publish-{params.preset}")
def publish(params: PublishParams) -> PublishedRef:
    """Choose a checkpoint on validation, measure it once on test, export and index it, and let search use it.

    Args:
        params: which run; a checkpoint named by hand skips the selection.
    """
    work = open_workspace(params)
    dataset, trained, label = require_trained(work, params)
    validation, selection = (None, None) if label else select_checkpoint(work, params, dataset, trained)
    if selection is not None:
        label = str(selection.manifest.facts["chosen"])
    test = evaluate_labels(work, dataset, trained, [label], "test")
    curated = work.store.open("curate", dataset.curated)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    checkpoint = Checkpoint(trained, label, tokenizer, work.config.shards)
    measured = {"tested": test.checkpoints[label], "baselines": test.baselines}
    found = {"curated": curated} | {name: work.store.open("evaluate", key) for name, key in measured.items()}
    exported = export_task(work.store, checkpoint, work.config, params.command(), found)
    index = index_task(work.store, exported, curated, checkpoint, work.config)
    negatives = negatives_task(work.store, curated, checkpoint)
    promote_task(work.home, exported, index, work.config.name)
    return PublishedRef(
        dataset=dataset,
        trained=trained.manifest.key,
        checkpoint=label,
        selection=selection.manifest.key if selection else "",
        validation=validation,
        test=test,
        export=exported.manifest.key,
        index=index.manifest.key,
        negatives=negatives.manifest.key,
    )


def select_checkpoint(
    work: Workspace, params: PublishParams, dataset: DatasetRef, trained: Artifact
) -> tuple[EvaluatedRef, Artifact]:
    """Evaluate every checkpoint on validation and choose one by the declared weights."""
    fields = params.model_dump(include=set(TrainParams.model_fields) - {"dataset"})
    validation = evaluate(EvaluateParams(**fields, dataset=dataset, trained=trained.manifest.key, split="validation"))
    labels = sorted(validation.checkpoints)
    evaluations = [work.store.open("evaluate", validation.checkpoints[label]) for label in labels]
    evaluations += suites_on_validation(work, dataset, trained, labels)
    return validation, select_task(work.store, evaluations, work.config)


def suites_on_validation(work: Workspace, dataset: DatasetRef, trained: Artifact, labels: Sequence[str]) -> list[Artifact]:
    """The suites that selection shall count, on their validation splits, for each checkpoint."""
    config = work.config.select
    if not config.suites:
        return []
    suites, _ = open_suites_task(config.suites, config.suite_data, "validation", config.quick_suites, skip_missing=False)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    models = [CheckpointEncoder(Checkpoint(trained, label, tokenizer, work.config.shards)) for label in labels]
    return [suite_task(work.store, model, suite, "validation") for model in models for suite in suites]
