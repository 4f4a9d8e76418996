"""The declared score of each checkpoint, and how far two scores are apart beyond the noise of their queries.

A task counts by its value divided by the best value that any checkpoint has on it: one per cent below the best costs one per
cent of the task's weight, whatever the metric's scale, so that no task rules by its size. A kind's weight is shared among its
tasks, so that none rules by the number of its tasks. Scaling by the range instead would blow up noise where all are nearly
equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline_lib.config.evaluation import SelectConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.compare import Queries, read_evaluations, read_queries
from pipeline_lib.evaluation.metrics import PRIMARY_METRIC, Interval
from pipeline_lib.store.artifact import Artifact

Weights = dict[str, float]


@dataclass(frozen=True)
class TaskResult:
    """One checkpoint on one task, by its primary metric."""

    kind: str
    value: float
    queries: Queries


class Standing:
    """One checkpoint's results on all tasks that may be selected on.

    Args:
        label: of the checkpoint.
        evaluations: of stage "evaluate_suite", all on one split.
    """

    def __init__(self, label: str, evaluations: Sequence[Artifact]) -> None:
        self.label = label
        self.step = max(int(evaluation.manifest.config["step"]) for evaluation in evaluations)
        self.tasks: dict[str, TaskResult] = {}
        for evaluation in evaluations:
            if not evaluation.manifest.facts.get("reported_only"):
                self.tasks |= _results(evaluation)

    @cached_property
    def kinds(self) -> dict[str, float]:
        """The mean value of each kind's tasks, for curves and tables."""
        found: dict[str, list[float]] = {}
        for result in self.tasks.values():
            found.setdefault(result.kind, []).append(result.value)
        return {kind: float(np.mean(found[kind])) for kind in PRIMARY_METRIC if kind in found}


def task_weights(standings: Sequence[Standing], config: SelectConfig) -> Weights:
    """What each task counts for, summing to 1: its kind's weight, shared by the kind's tasks in proportion to their own.

    Tasks that a checkpoint was not measured on do not count.
    """
    of_kind = {str(kind): weight for kind, weight in config.weights.items() if weight > 0}
    shares: dict[str, Weights] = {}
    for name in sorted(set.intersection(*(set(standing.tasks) for standing in standings))):
        kind, share = standings[0].tasks[name].kind, config.task_weights.get(name, 1.0)
        if kind in of_kind and share > 0:
            shares.setdefault(kind, {})[name] = share
    total = sum(of_kind[kind] for kind in shares)
    return {
        name: of_kind[kind] / total * share / sum(tasks.values())
        for kind, tasks in shares.items()
        for name, share in tasks.items()
    }


def kind_weights(standings: Sequence[Standing], weights: Mapping[str, float]) -> Weights:
    """The tasks' weights summed by kind, in the order of the kinds."""
    found = dict.fromkeys(PRIMARY_METRIC, 0.0)
    for name, weight in weights.items():
        found[standings[0].tasks[name].kind] += weight
    return {kind: weight for kind, weight in found.items() if weight > 0}


def best_values(standings: Sequence[Standing], weights: Mapping[str, float]) -> dict[str, float]:
    """The best value of each task, where it is above zero: a correlation that none gets above zero tells none apart."""
    best = {name: max(standing.tasks[name].value for standing in standings) for name in weights}
    return {name: value for name, value in best.items() if value > 0}


def score(standing: Standing, weights: Mapping[str, float], best: Mapping[str, float]) -> float:
    """The weighted mean of value / best value, from 0 to 1."""
    return sum(weights[name] * max(standing.tasks[name].value, 0.0) / value for name, value in best.items())


def score_difference(
    a: Standing, b: Standing, weights: Mapping[str, float], best: Mapping[str, float], config: SelectConfig
) -> Interval:
    """Score of a less score of b with its 95 % interval.

    Raises:
        UserError: the two were measured on different queries.
    """
    factors = {name: weights[name] / value for name, value in best.items()}
    return _difference(a, b, factors, score(a, weights, best) - score(b, weights, best), config)


def kind_difference(a: Standing, b: Standing, kind: str, weights: Mapping[str, float], config: SelectConfig) -> Interval:
    """Mean over the kind's tasks of a's value less b's with its 95 % interval.

    Raises:
        UserError: the two were measured on different queries.
    """
    names = [name for name in weights if a.tasks[name].kind == kind]
    mean = float(np.mean([a.tasks[name].value - b.tasks[name].value for name in names]))
    return _difference(a, b, dict.fromkeys(names, 1 / len(names)), mean, config)


def _difference(a: Standing, b: Standing, factors: Mapping[str, float], found: float, config: SelectConfig) -> Interval:
    """A sum over tasks with its 95 % interval: queries drawn again, the same for both; tasks independently."""
    drawn_R = np.zeros(config.bootstrap)
    for number, (name, factor) in enumerate(sorted(factors.items())):
        mine, theirs = a.tasks[name].queries, b.tasks[name].queries
        if mine.ids != theirs.ids:
            raise UserError(
                f"{a.label} and {b.label} were measured on different queries of {name}; evaluate both on the same data"
            )
        seed = config.seed + number
        drawn_R += factor * (_drawn(mine, config.bootstrap, seed) - _drawn(theirs, config.bootstrap, seed))
    low, high = (float(bound) for bound in np.percentile(drawn_R, [2.5, 97.5]))
    return Interval(found, min(low, found), max(high, found), sum(len(a.tasks[name].queries.ids) for name in factors))


def _drawn(queries: Queries, resamples: int, seed: int) -> np.ndarray:
    return metrics.resampled(queries.metric, queries.values, queries.targets, resamples, seed)


def _results(evaluation: Artifact) -> dict[str, TaskResult]:
    """The headline tasks by their primary metrics; a suite's parts (SUITE:PART) are inside its headline already.

    Raises:
        UserError: a value is not finite.
    """
    queries = {task: found for (_, task), found in read_queries(evaluation).items() if ":" not in task}
    results = {
        row["task"]: TaskResult(row["kind"], row["value"], queries[row["task"]])
        for row in read_evaluations([evaluation])
        if row["task"] in queries and row["metric"] == queries[row["task"]].metric
    }
    for task, result in results.items():  # a NaN would rank below nothing and above nothing
        where = f"{evaluation.manifest.config['model']} on {task}"
        metrics.require_finite(result.queries.values, where, "the value", result.queries.ids)
        metrics.require_finite(np.array([result.value]), where, result.queries.metric, ("the figure",))
    return results
