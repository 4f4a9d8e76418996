"""Two models on the same queries: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.measure import PRIMARY_METRIC
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
    metric: str = ""

    @property
    def of_metric(self) -> str:
        """The metric that the values are of: its kind's primary one where none is named."""
        return self.metric or PRIMARY_METRIC[self.kind]


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
        artifact: of stage "evaluate" or "evaluate_suite".
        metric: of which metric; empty: each task's primary one. Tasks without it are left out.
    """
    split = str(artifact.manifest.config["split"])
    facts = artifact.manifest.facts.get("tasks", {})
    found = {}
    for part in artifact.manifest.parts:
        model = part.label.removesuffix(f"-{split}")
        with (artifact.folder_of(part) / "per_query.parquet").open("rb") as stream:
            table = pq.read_table(stream).to_pydict()
        tasks = np.array(table["task"])
        metrics_of = np.array(table["metric"] if "metric" in table else [PRIMARY_METRIC[kind] for kind in table["kind"]])
        for task in dict.fromkeys(table["task"]):
            rows = np.flatnonzero(tasks == task)
            wanted = metric or facts.get(task, {}).get("primary") or metrics_of[rows[0]]
            rows = rows[metrics_of[rows] == wanted]
            if not len(rows):
                continue
            found[model, task] = Queries(
                model=model,
                task=task,
                kind=table["kind"][rows[0]],
                ids=tuple(table["query_id"][row] for row in rows),
                values=np.array(table["value"])[rows],
                targets=np.array(table["target"])[rows],
                metric=str(wanted),
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
    if a.of_metric in metrics.STATISTICS:
        return metrics.statistic_difference(a.of_metric, a.values, b.values, a.targets, resamples, seed)
    return metrics.paired_difference(a.values, b.values, resamples, seed)


def differences(evaluation: Artifact, baselines: Artifact, resamples: int = 1000, seed: int = 1) -> list[dict[str, Any]]:
    """The checkpoint minus each baseline, a row for every task that both were measured on, by its primary metric.

    Returns:
        Rows with split, kind, task, metric, model, baseline, mean, low, high, n: what the report takes.
    """
    split = str(evaluation.manifest.config["split"])
    others = read_queries(baselines)
    rows = []
    for (model, task), mine in read_queries(evaluation).items():
        for (baseline, other_task), theirs in others.items():
            if other_task != task:
                continue
            found = difference(mine, theirs, resamples, seed)
            row = {"split": split, "kind": mine.kind, "task": task, "metric": mine.of_metric}
            row |= {"model": model, "baseline": baseline}
            rows.append(row | {"mean": found.value, "low": found.low, "high": found.high, "n": found.n})
    return rows
