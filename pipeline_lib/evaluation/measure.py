"""One model on one task: figures with intervals, and the value of every query behind them.

Q queries, C candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from data_contracts.schemas import EVALUATIONS
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.metrics import Interval
from pipeline_lib.evaluation.task_records import ProbeTask, SearchTask, SimilarityTask, TaskSet

PRIMARY_METRIC = {
    "code_search": "mrr",
    "text_search": "mrr",
    "classification": "accuracy",
    "similarity": "spearman",
}

PER_QUERY = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),  # reciprocal rank; 1 or 0 for a class; cosine for a pair
        pa.field("target", pa.float64(), nullable=False),  # the grade of a pair; 1 elsewhere
    ]
)

_MAX_ITERATIONS = 1000


class Scorer(Protocol):
    """A model that can be measured; it may leave kinds of task out."""

    @property
    def name(self) -> str: ...

    @property
    def step(self) -> int: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def probe_c(self) -> float:
        """Inverse regularisation of the linear probe, which depends on the scale of the features."""
        ...

    def search(self, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
        """Scores of one batch, shape (Q, C); higher is better."""
        ...

    def features(self, task: ProbeTask, fold: int) -> tuple[Any, Any]:
        """Rows of all other folds and of this one for the linear probe, dense or sparse, in the task's order."""
        ...

    def similarity(self, task: SimilarityTask) -> np.ndarray:
        """Cosine of each pair, shape (N,)."""
        ...


@dataclass(frozen=True)
class Measurement:
    """A task's figures by metric, and per query (id, group, value, target)."""

    task: str
    kind: str
    figures: dict[str, Interval]
    ids: Sequence[str]
    groups: Sequence[str]
    values: np.ndarray
    targets: np.ndarray


def measure(scorer: Scorer, tasks: TaskSet, config: EvaluateConfig, done: Callable[[str], None]) -> list[Measurement]:
    """The scorer on every task of its kinds; `done` hears each task's name when it is measured."""
    results = []
    for task in tasks.tasks:
        if task.kind not in scorer.kinds:
            continue
        if isinstance(task, SearchTask):
            results.append(_measure_search(scorer, task, config))
        elif isinstance(task, ProbeTask):
            results.append(_measure_probe(scorer, task, config))
        else:
            results.append(_measure_similarity(scorer, task, config))
        done(task.name)
    return results


def _measure_search(scorer: Scorer, task: SearchTask, config: EvaluateConfig) -> Measurement:
    ranks = []
    for queries, candidates in task.batches():
        scores_QC = scorer.search(task, queries, candidates)
        metrics.require_finite(scores_QC, f"{scorer.name} on {task.name}", "a score", task.ids[queries])
        right_Q = np.arange(queries.stop - queries.start)
        ranks.append(metrics.ranks(scores_QC, right_Q, task.masked(queries, candidates)))
    ranks_Q = np.concatenate(ranks)
    values_Q = metrics.reciprocal_ranks(ranks_Q)
    figures = {
        "mrr": metrics.mean_interval(values_Q, config.bootstrap, config.seed),
        "recall@1": metrics.mean_interval(metrics.hits_at(ranks_Q, 1), config.bootstrap, config.seed),
        "recall@10": metrics.mean_interval(metrics.hits_at(ranks_Q, 10), config.bootstrap, config.seed),
    }
    asked = slice(task.asked)
    return Measurement(task.name, task.kind, figures, task.ids[asked], task.groups[asked], values_Q, np.ones(task.asked))


def _measure_probe(scorer: Scorer, task: ProbeTask, config: EvaluateConfig) -> Measurement:
    true_N = np.array(task.labels)
    predicted_N = np.empty_like(true_N)
    for fold in np.unique(task.folds):
        held_out_N = task.folds == fold
        train_features, test_features = scorer.features(task, int(fold))
        for features, rows_N in ((train_features, ~held_out_N), (test_features, held_out_N)):
            dense = features if isinstance(features, np.ndarray) else np.asarray(features.sum(axis=1))
            names = [task.ids[row] for row in np.flatnonzero(rows_N)]
            metrics.require_finite(dense, f"{scorer.name} on {task.name}", "a feature", names)
        probe = LogisticRegression(C=scorer.probe_c, max_iter=_MAX_ITERATIONS)
        predicted_N[held_out_N] = probe.fit(train_features, true_N[~held_out_N]).predict(test_features)
    right_N = (predicted_N == true_N).astype(np.float64)
    figures = {
        "accuracy": metrics.mean_interval(right_N, config.bootstrap, config.seed),
        "macro_f1": metrics.macro_f1_interval(predicted_N, true_N, config.bootstrap, config.seed),
    }
    return Measurement(task.name, task.kind, figures, task.ids, task.labels, right_N, np.ones(len(true_N)))


def _measure_similarity(scorer: Scorer, task: SimilarityTask, config: EvaluateConfig) -> Measurement:
    cosines_N = scorer.similarity(task).astype(np.float64)
    metrics.require_finite(cosines_N, f"{scorer.name} on {task.name}", "the similarity", task.ids)
    figure = metrics.statistic_interval("spearman", cosines_N, task.grades, config.bootstrap, config.seed)
    return Measurement(task.name, task.kind, {"spearman": figure}, task.ids, task.groups, cosines_N, task.grades)


def write_measurements(folder: Path, scorer: Scorer, split: str, measurements: Iterable[Measurement]) -> dict[str, int]:
    """Write evaluations.parquet (schemas.EVALUATIONS) and per_query.parquet (PER_QUERY); returns the rows of each.

    Raises:
        UserError: a figure is not finite.
    """
    figures, queries = [], []
    for m in measurements:
        for metric, interval in m.figures.items():
            bounds = np.array([interval.value, interval.low, interval.high])
            metrics.require_finite(bounds, f"{scorer.name} on {m.task}", metric, ("the figure", "its low", "its high"))
            row = (scorer.name, scorer.step, split, m.kind, m.task, metric)
            figures.append((*row, interval.value, interval.low, interval.high, interval.n))
        for id_, group, value, target in zip(m.ids, m.groups, m.values, m.targets, strict=True):
            queries.append((m.task, m.kind, id_, group, float(value), float(target)))
    return {
        name: _write_rows(folder / name, schema, rows)
        for name, schema, rows in (
            ("evaluations.parquet", EVALUATIONS, figures),
            ("per_query.parquet", PER_QUERY, queries),
        )
    }


def _write_rows(path: Path, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> int:
    columns = [[row[i] for row in rows] for i in range(len(schema))]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
    return len(rows)
