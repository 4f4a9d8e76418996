"""Held-out pairs of the corpus as four suites: code search, text search, a linear probe of prose, graded similarity.

The tasks are drawn from the curated pairs of one split (held_out_tasks.py). The texts of all four are embedded together by the
suite that is run first; the others find them in the cache of vectors.
Q queries, C candidates, N texts, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.config.base import StageConfig, added
from pipeline_lib.config.evaluation import HELD_OUT_SUITES, EvaluateConfig, SuiteConfig
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.held_out_tasks import (
    ProbeTask,
    SearchTask,
    SimilarityTask,
    Task,
    TaskSet,
    draw_tasks,
    kinds_of_few_groups,
)
from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.evaluation.suites.linear_probe import MAX_ITERATIONS, fit
from pipeline_lib.evaluation.suites.models import (
    COSINE_DECIMALS,
    SIDES,
    HybridModel,
    Model,
    TextEncoder,
    WordModel,
    embedded,
    probe_features,
)
from pipeline_lib.evaluation.suites.suite import Figure, Suite, SuiteResult, SuiteText
from pipeline_lib.runtime.progress import Progress, embedding, silent
from pipeline_lib.store.artifact import Artifact

PROBE_C = 0.1  # some 1,000 samples for 256 standardised dimensions: weaker regularisation overfits
PROBE_C_OF_WORDS = 100.0  # unit-length sparse rows: accuracy 0.74 at 1, 0.84 at 100, 0.85 at 1,000


class HeldOutConfig(StageConfig):
    """All choices that the figures of held-out pairs depend on."""

    evaluate: EvaluateConfig
    few_groups: tuple[str, ...] = added((), description="Kinds of pairs whose `max_per_group` gives way.")


class HeldOutPairs:
    """The curated pairs of a corpus, from which the four suites draw their tasks, each split's once.

    Args:
        curated: pairs by split; no part but the split's is opened.
        config: sizes of the tasks.
    """

    def __init__(self, curated: Artifact, config: EvaluateConfig) -> None:
        self.curated, self.config = curated, config
        self.tasks = lru_cache(self._tasks)
        self._last: tuple[tuple[str, str], tuple[_Vectors, _Vectors]] | None = None

    def _tasks(self, split: str) -> TaskSet:
        return draw_tasks(self.curated.only(split), split, self.config)

    def vectors(self, model: TextEncoder, split: str, progress: Progress) -> tuple[_Vectors, _Vectors]:
        """Both sides of all tasks of the split; the last model's are kept for its next suite."""
        wanted = (model.id.fingerprint, split)
        if self._last is None or self._last[0] != wanted:
            x_texts, y_texts = (self.tasks(split).texts(side) for side in SIDES)
            total = len(x_texts) + len(y_texts)
            x = _Vectors(model, x_texts, "x", embedding(progress, 0, total))
            self._last = wanted, (x, _Vectors(model, y_texts, "y", embedding(progress, len(x_texts), total)))
        return self._last[1]


class HeldOutSuite(Suite):
    """One kind of task over held-out pairs; a split that has too little for it gives no figure, and the reason.

    Args:
        pairs: shared by the four suites.
    """

    splits = ("train", "validation", "test")

    def __init__(self, pairs: HeldOutPairs) -> None:
        super().__init__(Path(), SuiteConfig(bootstrap=pairs.config.bootstrap, seed=pairs.config.seed))
        self.pairs = pairs

    def inputs(self, split: str) -> Mapping[str, Artifact]:
        """The pairs of the split alone."""
        return {"curated": self.pairs.curated.only(split)}

    def settings(self, split: str) -> StageConfig:
        """Sizes of the tasks, and what the corpus makes of them."""
        return HeldOutConfig(evaluate=self.pairs.config, few_groups=kinds_of_few_groups(self.pairs.curated, split))

    def paths(self, split: str) -> tuple[Path, ...]:
        """Nothing was downloaded."""
        return ()

    def texts(self, split: str) -> Iterator[SuiteText]:
        """Nothing to decontaminate: the split keeps these out of training already."""
        return iter(())

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Measure one model; texts of all held-out tasks are embedded once a side."""
        tasks = self.pairs.tasks(split)
        task = tasks.of_kind(self.kind)
        if task is None:
            return SuiteResult((), {"skipped": {self.kind: tasks.skipped[self.kind]}})
        encoder = model.encoder if isinstance(model, HybridModel) else model
        vectors = self.pairs.vectors(encoder, split, progress) if isinstance(encoder, TextEncoder) else None
        figures = self._figures(_Scores(model, vectors), task)
        facts = {"headline": task.name, "tasks": {task.name: {**task.facts(), "primary": figures[0].metric}}}
        return SuiteResult(figures, facts)

    def _figures(self, scores: _Scores, task: Any) -> tuple[Figure, ...]:
        raise NotImplementedError

    def _mean(self, task: Task, metric: str, values_N: np.ndarray, groups: tuple[str, ...]) -> Figure:
        interval = metrics.mean_interval(values_N, self.config.bootstrap, self.config.seed)
        return Figure(task.name, metric, interval, task.ids[: len(values_N)], values_N, groups=groups[: len(values_N)])


class _Scores:
    """One model's scores: of its vectors on both sides where it is an encoder."""

    def __init__(self, model: Model, vectors: tuple[_Vectors, _Vectors] | None) -> None:
        self.model = model
        if vectors:
            self._x, self._y = vectors

    def search(self, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
        """Scores of one batch, (Q, C); higher is better."""
        if isinstance(self.model, WordModel):
            return _word_scores(self.model, task, queries, candidates)
        scores_QC = np.round(self._x.of(task.queries[queries]) @ self._y.of(task.candidates[candidates]).T, COSINE_DECIMALS)
        if isinstance(self.model, HybridModel):
            return self.model.fused(scores_QC, _word_scores(Bm25Model(), task, queries, candidates))
        return scores_QC

    def similarity(self, task: SimilarityTask) -> np.ndarray:
        """A score of each pair, (N,)."""
        if isinstance(self.model, WordModel):
            return self.model.similarity(task.left, task.right)
        return np.round((self._x.of(task.left) * self._x.of(task.right)).sum(1), COSINE_DECIMALS).astype(np.float64)

    def features(self, task: ProbeTask, fold: int) -> tuple[Any, Any, float]:
        """Rows of all other folds and of this one for the linear probe, in the task's order, and its C."""
        inside, outside = (np.flatnonzero(rows_N).tolist() for rows_N in (task.folds != fold, task.folds == fold))
        train, test = ([task.texts[row] for row in rows] for rows in (inside, outside))
        if isinstance(self.model, WordModel):
            return *probe_features(self.model, train, test), PROBE_C_OF_WORDS
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(self._x.of(train))
        return scaler.transform(self._x.of(train)), scaler.transform(self._x.of(test)), PROBE_C


def _word_scores(model: WordModel, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
    return np.concatenate(list(model.scores(task.queries[queries], task.candidates[candidates])))


class _Vectors:
    """Vectors of distinct texts on one side, looked up by text."""

    def __init__(self, model: TextEncoder, texts: list[str], side: Any, progress: Progress) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._emb_ND = embedded(model, texts, side, progress) if texts else np.zeros((0, 1), np.float32)

    def of(self, texts: Any) -> np.ndarray:
        return self._emb_ND[[self._row[text] for text in texts]]


class SearchHeldOut(HeldOutSuite):
    """Rankings of each pair's y among those of its batch."""

    def _figures(self, scores: _Scores, task: SearchTask) -> tuple[Figure, ...]:
        ranks = []
        for queries, candidates in task.batches():
            scores_QC = scores.search(task, queries, candidates)
            metrics.require_finite(scores_QC, f"{scores.model.id.name} on {task.name}", "a score", task.ids[queries])
            right_Q = np.arange(queries.stop - queries.start)
            ranks.append(metrics.ranks(scores_QC, right_Q, task.masked(queries, candidates)))
        ranks_Q = np.concatenate(ranks)
        values = {"mrr": metrics.reciprocal_ranks(ranks_Q), "recall@1": metrics.hits_at(ranks_Q, 1)}
        values["recall@10"] = metrics.hits_at(ranks_Q, 10)
        return tuple(self._mean(task, metric, values_Q, task.groups) for metric, values_Q in values.items())


class CodeSearchHeldOut(SearchHeldOut):
    """Functions by their docstrings."""

    name = "code_search_held_out"
    kind = "code_search"
    views = ("docstring",)


class TextSearchHeldOut(SearchHeldOut):
    """Passages by the passages before them."""

    name = "text_search_held_out"
    kind = "text_search"
    views = ("neighbour",)


class ClassificationHeldOut(HeldOutSuite):
    """The group that a piece of prose comes from, by a linear probe; no document is on both sides of a fold."""

    name = "classification_held_out"
    kind = "classification"

    def _figures(self, scores: _Scores, task: ProbeTask) -> tuple[Figure, ...]:
        true_N = np.array(task.labels)
        predicted_N = np.empty_like(true_N)
        for fold in np.unique(task.folds).tolist():
            held_out_N = task.folds == fold
            train_features, test_features, c = scores.features(task, fold)
            for features, rows_N in ((train_features, ~held_out_N), (test_features, held_out_N)):
                dense = features if isinstance(features, np.ndarray) else np.asarray(features.sum(axis=1))
                names = [task.ids[row] for row in np.flatnonzero(rows_N)]
                metrics.require_finite(dense, f"{scores.model.id.name} on {task.name}", "a feature", names)
            from sklearn.linear_model import LogisticRegression

            probe = fit(train_features, true_N[~held_out_N], c, LogisticRegression(max_iter=MAX_ITERATIONS))
            predicted_N[held_out_N] = probe.predict(test_features)
        right_N = (predicted_N == true_N).astype(np.float64)
        f1 = metrics.macro_f1_interval(predicted_N, true_N, self.config.bootstrap, self.config.seed)
        return (self._mean(task, "accuracy", right_N, task.labels), Figure(task.name, "macro_f1", f1))


class SimilarityHeldOut(HeldOutSuite):
    """Cosines of pieces of prose against how near to each other they stand in the corpus."""

    name = "similarity_held_out"
    kind = "similarity"

    def _figures(self, scores: _Scores, task: SimilarityTask) -> tuple[Figure, ...]:
        cosines_N = scores.similarity(task)
        metrics.require_finite(cosines_N, f"{scores.model.id.name} on {task.name}", "the similarity", task.ids)
        found = metrics.statistic_interval("spearman", cosines_N, task.grades, self.config.bootstrap, self.config.seed)
        return (Figure(task.name, "spearman", found, task.ids, cosines_N, task.grades, task.groups),)


HELD_OUT: tuple[type[HeldOutSuite], ...] = (CodeSearchHeldOut, TextSearchHeldOut, ClassificationHeldOut, SimilarityHeldOut)


def held_out_suites(curated: Artifact, config: EvaluateConfig, names: Sequence[str] = HELD_OUT_SUITES) -> list[Suite]:
    """The suites of these names over the curated pairs of a corpus; texts of all four are embedded together."""
    pairs = HeldOutPairs(curated, config)
    return [suite(pairs) for suite in HELD_OUT if suite.name in names]
