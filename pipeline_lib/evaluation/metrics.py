"""Metrics of ranking, classification and similarity, with bootstrap intervals, and paired differences of two models.

Q queries, C candidates, N samples, R resamples. Ranks start from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact

# of the kinds that a checkpoint is selected by, in the order of tables
PRIMARY_METRIC = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
HYBRID = "hybrid"  # the chosen model's vectors and BM25 as one, among the models of a table
FEW_QUERIES = 200  # the 95 % interval of an MRR of 0.5 is then some 0.1 wide
SHOWN_CHARACTERS = 60  # of a text in a message
_CHUNK_NUMBERS = 4_000_000  # resampled values held at once: 32 MB
_ROUNDING = 1e-7  # float32 cosines of equal texts differ by so much


class NotFiniteError(UserError):
    """An embedding, a score or a figure is NaN or infinite."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


def require_finite(values_N: np.ndarray, where: str, what: str, names: Sequence[str]) -> None:
    """Refuse what would rank, or be averaged, as if it were a figure.

    Args:
        values_N: numbers, or rows of numbers.
        where: the model and the task.
        what: they are.
        names: of the rows: the texts' ids, or the texts.

    Raises:
        NotFiniteError: a value is NaN or infinite: where, the first row, and how many there are.
    """
    values_N = np.asarray(values_N)
    is_finite_N = np.isfinite(values_N.reshape(len(values_N), -1)).all(axis=1) if values_N.size else np.ones(0, dtype=bool)
    bad = np.flatnonzero(~is_finite_N)
    if len(bad):
        row = int(bad[0])
        first = f"row {row}, {str(names[row])[:SHOWN_CHARACTERS]!r}"
        raise NotFiniteError(
            f"{where}: {what} of {first}, and {len(bad) - 1} more of {len(values_N)} are not finite: the training diverged; "
            "take an earlier checkpoint, or train with a lower learning rate"
        )


def ranks(scores_QC: np.ndarray, right_Q: np.ndarray, masked_QC: np.ndarray | None = None) -> np.ndarray:
    """Rank of each query's right candidate: 1 + those strictly better + half of those that tie with it.

    A constant score thus ranks the right one in the middle: ties earn nothing.

    Args:
        scores_QC: higher is better.
        right_Q: column of the right candidate.
        masked_QC: True where a candidate is not in the ranking; the right one is never left out.

    Returns:
        float64, shape (Q,).

    Raises:
        ValueError: a score is NaN or infinite; comparisons with NaN would rank the right one first.
    """
    if not np.isfinite(scores_QC).all():
        raise ValueError(f"{int((~np.isfinite(scores_QC)).sum())} of {scores_QC.size} scores are not finite")
    rows = np.arange(len(scores_QC))
    right_scores_Q1 = scores_QC[rows, right_Q][:, None]
    counted_QC = np.ones(scores_QC.shape, bool) if masked_QC is None else ~masked_QC
    counted_QC[rows, right_Q] = False
    better_Q = ((scores_QC > right_scores_Q1) & counted_QC).sum(1)
    tied_Q = ((scores_QC == right_scores_Q1) & counted_QC).sum(1)
    return 1.0 + better_Q + tied_Q / 2


def reciprocal_ranks(ranks_Q: np.ndarray) -> np.ndarray:
    """1 / rank of each query; their mean is the MRR."""
    return 1.0 / ranks_Q


def hits_at(ranks_Q: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the right candidate is among the first k, else 0.0; their mean is Recall@k."""
    return (ranks_Q <= k).astype(np.float64)


def mean_interval(values_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean, and its percentile bootstrap interval (2.5 %, 97.5 %) over the samples."""
    return _interval(float(values_N.mean()), _resampled_means(values_N, resamples, seed), len(values_N))


def paired_difference(a_N: np.ndarray, b_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of a - b on the same samples, with its paired bootstrap interval.

    Raises:
        ValueError: the two have not the same number of samples.
    """
    if a_N.shape != b_N.shape:
        raise ValueError(f"paired samples must be as many: {a_N.shape} against {b_N.shape}")
    return mean_interval(a_N - b_N, resamples, seed)


def spearman(values_N: np.ndarray, grades_N: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either side is constant, and so orders nothing."""
    if np.ptp(values_N) == 0 or np.ptp(grades_N) == 0:
        return 0.0
    from scipy.stats import spearmanr  # half a second, which names of suites need not wait for

    return float(spearmanr(values_N, grades_N).statistic)


def pearson(values_N: np.ndarray, grades_N: np.ndarray) -> float:
    """Pearson's correlation; 0 where either side is constant."""
    if np.ptp(values_N) == 0 or np.ptp(grades_N) == 0:
        return 0.0
    from scipy.stats import pearsonr

    return float(pearsonr(values_N, grades_N).statistic)


def effect_size(values_N: np.ndarray, groups_N: np.ndarray) -> float:
    """The first value's group's mean less that of the others, over the standard deviation of all; of one group its mean.

    0 where nothing differs.
    """
    return float(_effect_sizes(values_N[None], groups_N)[0])


CORRELATIONS = {"spearman": spearman, "pearson": pearson}
STATISTICS = CORRELATIONS | {"effect_size": effect_size}  # what is no mean of the values, but depends on their targets too


def statistic_interval(metric: str, values_N: np.ndarray, targets_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """One of STATISTICS with its bootstrap interval over the samples; ranks are taken anew in each resample."""
    drawn_R = resampled(metric, values_N, targets_N, resamples, seed)
    return _interval(STATISTICS[metric](values_N, targets_N), drawn_R, len(values_N))


def statistic_difference(
    metric: str, a_N: np.ndarray, b_N: np.ndarray, targets_N: np.ndarray, resamples: int, seed: int
) -> Interval:
    """Difference of one of STATISTICS between two models with the same targets, with its paired bootstrap interval."""
    a_R, b_R = (resampled(metric, values_N, targets_N, resamples, seed) for values_N in (a_N, b_N))
    of = STATISTICS[metric]
    return _interval(of(a_N, targets_N) - of(b_N, targets_N), a_R - b_R, len(targets_N))


def resampled(metric: str, values_N: np.ndarray, targets_N: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """A figure on each resample of the samples (R,): one of STATISTICS by its name, else the mean.

    The same seed and number of samples draw the same ones, so that figures of two models can be subtracted.
    """
    statistic = _RESAMPLED.get(metric)
    return _resampled_means(values_N, resamples, seed) if statistic is None else statistic(values_N, targets_N, resamples, seed)


def macro_f1_interval(
    predicted_N: np.ndarray, true_N: np.ndarray, resamples: int, seed: int, of_classes: Sequence[object] = ()
) -> Interval:
    """Unweighted mean over the true classes of F1 = 2 TP / (predicted + true), with its bootstrap interval.

    Args:
        of_classes: over these classes only; one gives the plain F1 of that class.
    """
    classes = np.array(of_classes) if len(of_classes) else np.unique(true_N)
    predicted_NC = (predicted_N[:, None] == classes).astype(np.float64)
    true_NC = (true_N[:, None] == classes).astype(np.float64)

    def f1(weights_RN: np.ndarray) -> np.ndarray:
        hits_RC = weights_RN @ (predicted_NC * true_NC)
        total_RC = weights_RN @ (predicted_NC + true_NC)
        return (2 * hits_RC / np.maximum(total_RC, 1)).sum(1) / np.maximum((weights_RN @ true_NC > 0).sum(1), 1)

    drawn_R = np.concatenate([f1(_times_drawn(rows_RN, len(true_N))) for rows_RN in _resamples(len(true_N), resamples, seed)])
    return _interval(float(f1(np.ones((1, len(true_N))))[0]), drawn_R, len(true_N))


def _interval(value: float, drawn_R: np.ndarray, n: int) -> Interval:
    low, high = (float(bound) for bound in np.percentile(drawn_R, [2.5, 97.5]))
    # resampled macro F1 and correlations lean low, so that with few samples the interval can miss the value itself
    return Interval(value, min(low, value), max(high, value), n)


def _resamples(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK_NUMBERS // n)
    for at in range(0, resamples, step):
        yield random.integers(0, n, (min(step, resamples - at), n))


def _times_drawn(rows_RN: np.ndarray, n: int) -> np.ndarray:
    return np.stack([np.bincount(rows_N, minlength=n) for rows_N in rows_RN]).astype(np.float64)


def _resampled_means(values_N: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate([values_N[rows_RN].mean(1) for rows_RN in _resamples(len(values_N), resamples, seed)])


def _resampled_spearman(values_N: np.ndarray, grades_N: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    sides = [np.unique(side_N, return_inverse=True)[1].ravel() for side_N in (values_N, grades_N)]
    chunks = _resamples(len(values_N), resamples, seed)
    return np.concatenate([_row_products(*(_row_ranks(side_N, rows_RN) for side_N in sides)) for rows_RN in chunks])


def _resampled_pearson(values_N: np.ndarray, grades_N: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    chunks = _resamples(len(values_N), resamples, seed)
    return np.concatenate([_row_products(values_N[rows_RN], grades_N[rows_RN]) for rows_RN in chunks])


def _row_ranks(level_N: np.ndarray, rows_RN: np.ndarray) -> np.ndarray:
    """Ranks of each resample, ties at their mean: of values that are sorted once, counting is 5 times as fast as sorting."""
    ranks_RN = np.empty(rows_RN.shape)
    for rows_N, ranks_N in zip(rows_RN, ranks_RN, strict=True):
        drawn_N = level_N[rows_N]
        times = np.bincount(drawn_N)
        ranks_N[:] = (np.cumsum(times) - (times - 1) / 2)[drawn_N]
    return ranks_RN


def _row_products(a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
    a_RN, b_RN = (side_RN - side_RN.mean(1, keepdims=True) for side_RN in (a_RN, b_RN))
    norm_R = np.sqrt((a_RN**2).sum(1) * (b_RN**2).sum(1))
    return np.divide((a_RN * b_RN).sum(1), norm_R, out=np.zeros(len(norm_R)), where=norm_R > 0)


def _resampled_effect_size(values_N: np.ndarray, groups_N: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Each group drawn from itself: how many it has is no chance."""
    random = np.random.default_rng(seed)
    drawn_RN = np.empty((resamples, len(values_N)))
    for group in np.unique(groups_N):
        rows = np.flatnonzero(groups_N == group)
        drawn_RN[:, rows] = values_N[random.choice(rows, (resamples, len(rows)))]
    return _effect_sizes(drawn_RN, groups_N)


def _effect_sizes(values_RN: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    first_N = groups_N == groups_N[0]
    gap_R = values_RN[:, first_N].mean(1)
    if not first_N.all():
        gap_R -= values_RN[:, ~first_N].mean(1)
    spread_R = values_RN.std(1)
    return np.divide(gap_R, spread_R, out=np.zeros(len(gap_R)), where=spread_R > _ROUNDING)


_RESAMPLED = {"spearman": _resampled_spearman, "pearson": _resampled_pearson, "effect_size": _resampled_effect_size}


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
    if a.metric in STATISTICS:
        return statistic_difference(a.metric, a.values, b.values, a.targets, resamples, seed)
    return paired_difference(a.values, b.values, resamples, seed)


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
