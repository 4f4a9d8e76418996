"""Checkpoints and baselines on what was held out of the corpus; people start this one from the UI."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.checkpoints import TrainedRun, find_run
from flows.parameters import EvaluatedRef, EvaluateParams
from flows.workspace import open_workspace
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation.suites.encoders import CheckpointEncoder, open_model
from pipeline_lib.evaluation.suites.models import Model
from tasks.evaluation import baselines_task, check_evaluations_task, checkpoint_task, show_evaluations_task
from tasks.suites import fits, open_suites_task, show_suites_task, suite_task


@flow(name="evaluate", flow_run_name="evaluate-{params.subject}-{params.split}")
def evaluate(params: EvaluateParams) -> EvaluatedRef:
    """Measure checkpoints and the baselines beside them on the same queries and candidates, or on public suites.

    Args:
        params: which checkpoints, on which split, and of which suites.
    """
    if params.suites:
        return evaluate_suites(params)
    run, label = find_run(params)
    return evaluate_labels(run, [label] if label else run.lineage.labels, params.split)


def evaluate_suites(params: EvaluateParams) -> EvaluatedRef:
    """Run suites on checkpoints and other models, and show the table in the UI.

    Raises:
        UserError: no data folder, or an unknown suite or model.
        MissingData: files of a suite are not there, and `skip_missing` was not asked for.
    """
    given = (params.suites, params.data, params.split, params.quick, params.skip_missing)
    suites, skipped = open_suites_task(*given, params.resolve().suites if params.preset else SuiteConfig())
    models: list[Model] = [open_model(name) for name in params.models]
    if params.checkpoint or params.trained or not models:
        run, label = find_run(params)
        work = run.work
        models = [*checkpoint_encoders(run, [label] if label else run.lineage.labels), *models]
    else:
        work = open_workspace(params)
    found = [suite_task(work.store, model, suite, params.split) for model in models for suite in suites if fits(model, suite)]
    checked = check_evaluations_task(work.store, found).manifest.key if found else ""
    show_suites_task(work.report_folder, found, params.split, skipped)
    keys = tuple(artifact.manifest.key for artifact in found)
    return EvaluatedRef(split=params.split, checkpoints={}, suites=keys, checked=checked, skipped=skipped)


def checkpoint_encoders(run: TrainedRun, labels: Sequence[str]) -> list[Model]:
    """Checkpoints of a run as models that suites are put to."""
    return [CheckpointEncoder(run.lineage.checkpoint(label)) for label in labels]


def evaluate_labels(run: TrainedRun, labels: Sequence[str], split: str) -> EvaluatedRef:
    """Evaluate these checkpoints and the baselines on one split of the run's corpus, and show the table in the UI."""
    store, config, curated = run.work.store, run.work.config, run.lineage.curated
    baselines = baselines_task(store, curated, split, config)
    found = {label: checkpoint_task(store, curated, run.lineage.checkpoint(label), split, config) for label in labels}
    checked = check_evaluations_task(store, [*found.values(), baselines])
    show_evaluations_task(found, baselines, split, config.name)
    return EvaluatedRef(
        split=split,
        checkpoints={label: artifact.manifest.key for label, artifact in found.items()},
        baselines=baselines.manifest.key,
        checked=checked.manifest.key,
    )
