"""Evaluation tasks: held-out suites on checkpoints and baselines of one split, and ablations, with their tables in the UI."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_contracts.check_evaluations import check_evaluations
from data_contracts.verdicts import verdict_rows
from pipeline_lib.config.evaluation import HELD_OUT_SUITES
from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.ablation import Measured, write_ablation
from pipeline_lib.evaluation.metrics import PRIMARY_METRIC, read_evaluations
from pipeline_lib.evaluation.report_data import by_dimension
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, Model
from pipeline_lib.evaluation.suites.registry import OPENERS, open_model
from pipeline_lib.index.recipes import KINDS, Kind, weight
from pipeline_lib.index.verified import read_json
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.suites import fits
from tasks.ui import StageProgress, show_markdown, show_table, stage_task

Evaluations = tuple[Artifact, ...]  # of one model, suite by suite
BASELINES = "baselines"  # among the checkpoints of an evaluation


@dataclass(frozen=True)
class HeldOutPart:
    """Held-out pairs of one split of a corpus, and which suites are drawn from them."""

    store: Store
    curated: Artifact
    split: str
    config: RunConfig
    suites: tuple[str, ...] = HELD_OUT_SUITES


@stage_task("evaluate-baselines")
def baselines_task(part: HeldOutPart) -> Evaluations:
    """BM25 and TF-IDF on the held-out suites of a split."""
    progress = StageProgress(f"baselines, {part.split}")
    found = _measured(part, [open_model(name) for name in OPENERS])
    progress.finish(headline(found))
    return found


@stage_task("evaluate-checkpoint")
def checkpoint_task(part: HeldOutPart, checkpoint: Checkpoint) -> Evaluations:
    """One checkpoint on the same queries and candidates."""
    evaluate = part.config.evaluate
    return _one_measured(part, CheckpointEncoder(checkpoint, evaluate.batch_tokens, evaluate.precision))


@stage_task("evaluate-model")
def model_task(part: HeldOutPart, model: Model) -> Evaluations:
    """A model that no run of ours made, on the same queries and candidates."""
    return _one_measured(part, model)


@stage_task("check-evaluations")
def check_evaluations_task(store: Store, evaluated: Sequence[Artifact]) -> Artifact:
    """Great Expectations over the figures, before anyone compares them."""
    progress = StageProgress("check evaluations")
    artifact = check_evaluations(store, evaluated)
    progress.finish(f"{artifact.manifest.counts.n_in:,} figures keep their contract")
    show_table("check-evaluations", verdict_rows(artifact), "The contract's verdict on each model's figures")
    return artifact


@stage_task("show-evaluations")
def show_evaluations_task(found: Mapping[str, Evaluations], split: str, name: str) -> None:
    """The table of all figures, with their intervals, under the name of the run.

    Args:
        found: checkpoint label, or "baselines", to its evaluations.
    """
    rows = read_evaluations(artifact for evaluations in found.values() for artifact in evaluations)
    show_table(f"evaluate-{split}-{name}", rows, f"Figures on {split}, 95 % intervals")


@stage_task("ablation-table")
def ablation_task(store: Store, measured: Sequence[Measured]) -> Artifact:
    """All runs as one table and one plot, shown in the UI."""
    progress = StageProgress("ablation")
    artifact = write_ablation(store, measured)
    folder = artifact.part_folder("ablation")
    picture = base64.b64encode((folder / "ablation.svg").read_bytes()).decode()
    table = (folder / "ablation.md").read_text()
    page = f"{table}\n![values of every seed](data:image/svg+xml;base64,{picture})\n\nFiles: `{folder}`\n"
    show_markdown("ablation", page, "The levers: mean and deviation over seeds, difference to each lever's base")
    progress.finish(str(folder))
    return artifact


def headline(evaluations: Evaluations) -> str:
    """The primary metric of each kind in one line; both models' for the baselines."""
    figures: dict[str, list[str]] = {}
    for row in read_evaluations(evaluations):
        if row["metric"] == PRIMARY_METRIC[row["kind"]]:
            figures.setdefault(row["kind"].replace("_", " "), []).append(f"{row['value']:.3f}")
    return ", ".join(f"{kind} {' / '.join(values)}" for kind, values in figures.items()) or "too little data for any task"


def _one_measured(part: HeldOutPart, model: Model) -> Evaluations:
    progress = StageProgress(f"{model.id.name}, {part.split}")
    found = _measured(part, [model], progress)
    progress.finish(headline(found))
    return found


def _measured(part: HeldOutPart, models: Sequence[Model], progress: Progress = silent) -> Evaluations:
    suites = held_out_suites(part.curated, part.config.evaluate, part.suites)
    return tuple(
        evaluate_suite(part.store, model, suite, part.split, progress)
        for model in models
        for suite in suites
        if fits(model, suite)
    )


def dimension_rows(found: Mapping[str, Evaluations], model: str, stages: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Quality and index bytes of a model by the dimensions that are kept of its vectors, for an index like the run's own.

    Args:
        found: evaluations of one split by the model's name.
        stages: artifacts of the run by the name of their stage.
    """
    facts, told = stages["export"].manifest.facts, read_json(stages["index"].part_folder() / "index.json")
    kind: Kind = told["kind"] if told.get("kind") in KINDS else "flat"
    figures = read_evaluations(artifact for evaluations in found.values() for artifact in evaluations)
    width = int(facts.get("whole_dim", facts["dim"]))
    return by_dimension(figures, model, width, lambda dim: weight(kind, int(told["count"]), dim).disk_bytes)
