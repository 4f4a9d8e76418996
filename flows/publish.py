"""Selected checkpoint to exported model, index and promotion; only here is the test split opened."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.checkpoints import TrainedRun, find_run
from flows.evaluate import checkpoint_encoders, evaluate, evaluate_labels, open_evaluations
from flows.origins import publishing_commands, whole_story
from flows.parameters import BASELINES, EvaluatedRef, EvaluateParams, PublishedRef, PublishParams
from pipeline_lib.export.card import model_folder
from pipeline_lib.store.store import Artifact
from tasks.publishing import Tested, card_task, export_task, index_task, negatives_task, promote_task, select_task
from tasks.suites import open_suites_task, suite_task


@flow(name="publish", flow_run_name="publish-{params.subject}")
def publish(params: PublishParams) -> PublishedRef:
    """Choose a checkpoint on validation, measure it once on test, export and index it, and let search use it.

    Args:
        params: which run; a checkpoint named by hand skips the selection.
    """
    run, label = find_run(params)
    work, curated = run.work, run.lineage.curated
    validation, selection = (None, None) if label else select_checkpoint(run)
    if selection is not None:
        label = str(selection.manifest.facts["chosen"])
    test = evaluate_labels(run, [label], "test")
    checkpoint = run.lineage.checkpoint(label)
    exported = export_task(work.store, checkpoint, work.config)
    tested = Tested(curated, *(open_evaluations(work.store, test.checkpoints[name]) for name in (label, BASELINES)))
    card = card_task(work.store, exported, checkpoint, work.config, _said(run, label, selection is not None), tested)
    index = index_task(work.store, exported, curated, checkpoint, work.config)
    negatives = negatives_task(work.store, curated, checkpoint)
    promote_task(work.home, exported, index, work.config.name)
    return PublishedRef(
        dataset=run.dataset,
        trained=run.key,
        checkpoint=label,
        selection=selection.manifest.key if selection else "",
        validation=validation,
        test=test,
        export=exported.manifest.key,
        card=card.manifest.key,
        folder=str(model_folder(exported, card)),
        index=index.manifest.key,
        negatives=negatives.manifest.key,
    )


def _said(run: TrainedRun, label: str, selected: bool) -> dict[str, str]:
    """What the card says of the run in words."""
    base, data = whole_story(run.lineage)
    command = publishing_commands(run.lineage, run.params, label, selected)
    return {"name": run.work.config.name, "base": base, "data": data, "command": command}


def select_checkpoint(run: TrainedRun) -> tuple[EvaluatedRef, Artifact]:
    """Evaluate every checkpoint on validation and choose one by the declared weights."""
    store, labels = run.work.store, run.lineage.labels
    validation = evaluate(run.again(EvaluateParams, split="validation"))
    evaluations = [found for label in labels for found in open_evaluations(store, validation.checkpoints[label])]
    evaluations += suites_on_validation(run, labels)
    return validation, select_task(store, evaluations, run.work.config)


def suites_on_validation(run: TrainedRun, labels: Sequence[str]) -> list[Artifact]:
    """The suites that selection shall count, on their validation splits, for each checkpoint."""
    config = run.work.config.select
    if not config.suites:
        return []
    suites, _ = open_suites_task(config.suites, config.suite_data, "validation", config.quick_suites, skip_missing=False)
    models = checkpoint_encoders(run, labels)
    return [suite_task(run.work.store, model, suite, "validation") for model in models for suite in suites]
