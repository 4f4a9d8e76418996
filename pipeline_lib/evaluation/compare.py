"""Tables of figures read back, and paired differences of two models on the same queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.metrics import Interval
from pipeline_lib.store.artifact import Artifact


@dataclass(frozen=True)
class Queries:
    """One model's value for every query of one task."""

    model: str
    task: str
    kind: str
    ids: tuple[str, ...]
    values: np.ndarray
    targets: np.ndarray
    metric: str


def read_evaluations(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """The rows of schemas.EVALUATIONS of all these artifacts, in their order."""
    rows = []
    for artifact in artifacts:
        for path in artifact.paths("evaluations.parquet"):
            with path.open("rb") as stream:
                rows.extend(pq.read_table(stream).to_pylist())
    return rows


def read_queries(artifact: Artifact, metric: str = "") -> dict[tuple[str, str], Queries]:
    """The queries of an evaluation by (model, task).

    Args:
        artifact: of stage "evaluate_suite".
        metric: of which metric; empty: each task's primary one. Tasks without it are left out.
    """
    model, facts = str(artifact.manifest.config["model"]), artifact.manifest.facts["tasks"]
    found = {}
    for path in artifact.paths("per_query.parquet"):
        with path.open("rb") as stream:
            table = pq.read_table(stream).to_pydict()
        tasks, metrics_of = np.array(table["task"]), np.array(table["metric"])
        for task in dict.fromkeys(table["task"]):
            wanted = metric or facts[task]["primary"]
            rows = np.flatnonzero((tasks == task) & (metrics_of == wanted))
            if not len(rows):
                continue
            found[model, task] = Queries(
                model=model,
                task=task,
                kind=table["kind"][rows[0]],
                ids=tuple(table["query_id"][row] for row in rows),
                values=np.array(table["value"])[rows],
                targets=np.array(table["target"])[rows],
                metric=wanted,
            )
    return found


def difference(a: Queries, b: Queries, resamples: int, seed: int) -> Interval:
    """The primary metric of a minus that of b, with its paired bootstrap interval.

    Raises:
        UserError: the two were not measured on the same queries.
    """
    if a.ids != b.ids:
        raise UserError(
            f"{a.model} and {b.model} were measured on different queries of {a.task} ({len(a.ids)} and {len(b.ids)}); "
            "evaluate both on the same curated pairs with the same configuration"
        )
    if a.metric in metrics.STATISTICS:
        return metrics.statistic_difference(a.metric, a.values, b.values, a.targets, resamples, seed)
    return metrics.paired_difference(a.values, b.values, resamples, seed)


def differences(
    mine: Sequence[Artifact], others: Sequence[Artifact], resamples: int = 1000, seed: int = 1
) -> list[dict[str, Any]]:
    """One model minus each other, a row for every task that both were measured on, by its primary metric.

    Args:
        mine: evaluations of one model on one split.
        others: evaluations of the models that it is compared with, on the same split.

    Returns:
        Rows with split, kind, task, metric, model, baseline, mean, low, high, n: what the report takes.
    """
    theirs = [queries for artifact in others for queries in read_queries(artifact).items()]
    rows = []
    for artifact in mine:
        split = str(artifact.manifest.config["split"])
        for (model, task), queries in read_queries(artifact).items():
            for (baseline, other_task), other in theirs:
                if other_task != task:
                    continue
                found = difference(queries, other, resamples, seed)
                row = {"split": split, "kind": queries.kind, "task": task, "metric": queries.metric}
                row |= {"model": model, "baseline": baseline}
                rows.append(row | {"mean": found.value, "low": found.low, "high": found.high, "n": found.n})
    return rows
