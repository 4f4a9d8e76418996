"""Checkpoints and baselines on one split, with the table in the UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_contracts.check_evaluations import check_evaluations
from data_contracts.verdicts import verdict_rows
from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.compare import read_evaluations
from pipeline_lib.evaluation.evaluate import evaluate_baselines, evaluate_checkpoint
from pipeline_lib.evaluation.measure import PRIMARY_METRIC
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.ui import StageProgress, show_table, stage_task


@stage_task("evaluate-baselines")
def baselines_task(store: Store, curated: Artifact, split: str, config: RunConfig) -> Artifact:
    """BM25 and TF-IDF on the queries and candidates of a split."""
    progress = StageProgress(f"baselines, {split}")
    artifact = evaluate_baselines(store, curated, split, config.evaluate, progress)
    progress.finish(headline(artifact))
    return artifact


@stage_task("evaluate-checkpoint")
def checkpoint_task(store: Store, curated: Artifact, checkpoint: Checkpoint, split: str, config: RunConfig) -> Artifact:
    """One checkpoint on the same queries and candidates."""
    progress = StageProgress(f"{checkpoint.label}, {split}")
    artifact = evaluate_checkpoint(store, curated, checkpoint, split, config.evaluate, progress)
    progress.finish(headline(artifact))
    return artifact


@stage_task("check-evaluations")
def check_evaluations_task(store: Store, evaluated: Sequence[Artifact]) -> Artifact:
    """Great Expectations over the figures, before anyone compares them."""
    progress = StageProgress("check evaluations")
    artifact = check_evaluations(store, evaluated)
    progress.finish(f"{artifact.manifest.counts.n_in:,} figures keep their contract")
    show_table("check-evaluations", verdict_rows(artifact), "The contract's verdict on each model's figures")
    return artifact


@stage_task("show-evaluations")
def show_evaluations_task(found: Mapping[str, Artifact], baselines: Artifact, split: str, name: str) -> None:
    """The table of all figures, with their intervals, under the name of the run."""
    rows = read_evaluations([*found.values(), baselines])
    show_table(f"evaluate-{split}-{name}", rows, f"Figures on {split}, 95 % intervals")


def headline(artifact: Artifact) -> str:
    """The primary metric of each kind in one line; both models' for the baselines."""
    figures: dict[str, list[str]] = {}
    for row in read_evaluations([artifact]):
        if row["metric"] == PRIMARY_METRIC[row["kind"]]:
            figures.setdefault(row["kind"].replace("_", " "), []).append(f"{row['value']:.3f}")
    return ", ".join(f"{kind} {' / '.join(values)}" for kind, values in figures.items()) or "too little data for any task"
