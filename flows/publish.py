"""Selected checkpoint to exported model, index and promotion; only here is the test split opened."""

from __future__ import annotations

from prefect import flow

from flows.evaluate import evaluate, evaluate_labels, require_trained
from flows.parameters import DatasetRef, EvaluatedRef, EvaluateParams, PublishedRef, PublishParams, TrainParams
from flows.workspace import Workspace, open_workspace
from pipeline_lib.artifact import Artifact
from pipeline_lib.model.checkpoint import Checkpoint
from tasks.publishing import export_task, index_task, negatives_task, promote_task, select_task


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
    tested, baselines = (work.store.open("evaluate", key) for key in (test.checkpoints[label], test.baselines))
    exported = export_task(work.store, checkpoint, tested, baselines, work.config)
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
    evaluations = [work.store.open("evaluate", validation.checkpoints[label]) for label in sorted(validation.checkpoints)]
    return validation, select_task(work.store, evaluations, work.config)
