"""Measure checkpoints and baselines on the tasks of one split.

One artifact for each (checkpoint, split), one for the baselines of a split; a part holds evaluations.parquet and
per_query.parquet. N texts, Q queries, C candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from pipeline_lib.config.base import StageConfig, added
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.measure import PRIMARY_METRIC, Scorer, measure, write_measurements
from pipeline_lib.evaluation.task_records import ProbeTask, SearchTask, SimilarityTask, Task, TaskSet
from pipeline_lib.evaluation.tasks import build_tasks, kinds_of_few_groups, only_part
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.progress import Progress, embedding, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="evaluate", version=1)

Side = Literal["x", "y"]
Embed = Callable[[Sequence[str], Side, Progress], np.ndarray]  # (N, D) float32, unit length

_COSINE_DECIMALS = 6  # float32 products of equal vectors differ by 1e-7, and must tie


class EvaluationRun(StageConfig):
    """What an evaluation's key holds beside the digests of its inputs."""

    model: str
    split: str
    max_x_tokens: int = 0
    max_y_tokens: int = 0
    evaluate: EvaluateConfig
    few_groups: tuple[str, ...] = added((), description="Kinds of pairs whose `max_per_group` gives way.")


class EmbeddingScorer:
    """A model that embeds; every distinct text is embedded once a side, before the first task."""

    kinds = tuple(PRIMARY_METRIC)
    probe_c = 0.1  # some 1,000 samples for 256 standardised dimensions: weaker regularisation overfits

    def __init__(self, name: str, step: int, embed: Embed, tasks: TaskSet, progress: Progress = silent) -> None:
        self.name = name
        self.step = step
        texts = {"x": _texts_of(tasks, "x"), "y": _texts_of(tasks, "y")}
        self.texts_embedded = sum(map(len, texts.values()))
        self._row = {side: {text: row for row, text in enumerate(distinct)} for side, distinct in texts.items()}
        self._x_ND = _embed_side(embed, texts["x"], "x", embedding(progress, 0, self.texts_embedded))
        shift = len(texts["x"])
        self._y_ND = _embed_side(embed, texts["y"], "y", embedding(progress, shift, self.texts_embedded))
        for task in tasks.tasks:
            self._require_finite(task)

    def search(self, task: SearchTask, queries: slice, candidates: slice) -> np.ndarray:
        x_QD = self._x(task.queries[queries])
        y_CD = self._y_ND[[self._row["y"][text] for text in task.candidates[candidates]]]
        return np.round(x_QD @ y_CD.T, _COSINE_DECIMALS)

    def features(self, task: ProbeTask, fold: int) -> tuple[Any, Any]:
        """Standardised x-side embeddings of a fold's training and held-out texts."""
        from sklearn.preprocessing import StandardScaler

        x_ND = self._x(task.texts)
        train_ND, test_ND = x_ND[task.folds != fold], x_ND[task.folds == fold]
        scaler = StandardScaler().fit(train_ND)
        return scaler.transform(train_ND), scaler.transform(test_ND)

    def similarity(self, task: SimilarityTask) -> np.ndarray:
        return np.round((self._x(task.left) * self._x(task.right)).sum(1), _COSINE_DECIMALS)

    def _x(self, texts: Sequence[str]) -> np.ndarray:
        return self._x_ND[[self._row["x"][text] for text in texts]]

    def _require_finite(self, task: Task) -> None:
        """Raises UserError where the embedding of one of the task's texts is not."""
        for side, vectors_ND in (("x", self._x_ND), ("y", self._y_ND)):
            texts = _texts_of_task(task, "x" if side == "x" else "y")
            rows = [self._row[side][text] for text in texts]
            metrics.require_finite(vectors_ND[rows], f"{self.name} on {task.name}", f"the embedding on the {side} side", texts)


def evaluate_checkpoint(
    store: Store,
    curated: Artifact,
    checkpoint: Checkpoint,
    split: str,
    config: EvaluateConfig,
    progress: Progress = silent,
) -> Artifact:
    """Measure one checkpoint on the tasks of one split.

    Args:
        curated: pairs by split; only the part `split` is opened.
        split: "validation" or "test".

    Returns:
        An artifact with one part, labelled "LABEL-SPLIT"; `facts` holds the tasks and why others were left out.

    Raises:
        UserError: no such checkpoint or split, or the checkpoint's embeddings are not finite.
    """
    run = EvaluationRun(
        model=checkpoint.label,
        split=split,
        max_x_tokens=checkpoint.shards.max_x_tokens,
        max_y_tokens=checkpoint.shards.max_y_tokens,
        evaluate=config,
        few_groups=kinds_of_few_groups(curated, split),
    )
    inputs = {
        "curated": only_part(curated, split),
        "model": only_part(checkpoint.trained, checkpoint.label),
        "tokenizer": checkpoint.tokenizer,
    }

    def make(key: str) -> Outcome:
        tasks = build_tasks(inputs["curated"], split, config)
        embed_texts = load_embedder(checkpoint, config.batch_tokens)
        voice = _named(progress, checkpoint.label)
        scorer = EmbeddingScorer(checkpoint.label, checkpoint.step, embed_texts, tasks, voice)
        part = _measured_part(store, key, scorer, tasks, config)
        return Outcome(parts=(part,), facts={**tasks.facts(), "texts_embedded": scorer.texts_embedded})

    return store.build(STAGE, run, inputs, make)


def evaluate_baselines(
    store: Store, curated: Artifact, split: str, config: EvaluateConfig, progress: Progress = silent
) -> Artifact:
    """Measure BM25 and TF-IDF on the tasks of one split, in full length.

    Returns:
        An artifact with the parts "bm25-SPLIT" and "tfidf-SPLIT".
    """
    inputs = {"curated": only_part(curated, split)}

    def make(key: str) -> Outcome:
        from pipeline_lib.evaluation.baselines import Bm25, Tfidf

        tasks = build_tasks(inputs["curated"], split, config)
        scorers: tuple[Scorer, ...] = (Bm25(), Tfidf())
        total = sum(task.kind in scorer.kinds for scorer in scorers for task in tasks.tasks)
        finished: list[str] = []

        def done(name: str) -> None:
            finished.append(name)
            progress(len(finished), total, f"{len(finished)} of {total} baseline tasks")

        parts = []
        for scorer in scorers:
            part_key = digest_of([key, scorer.name])[: len(key)]
            parts.append(store.find_part(STAGE.name, part_key) or _measured_part(store, part_key, scorer, tasks, config, done))
        return Outcome(parts=tuple(parts), facts=tasks.facts())

    run = EvaluationRun(model="baselines", split=split, evaluate=config, few_groups=kinds_of_few_groups(curated, split))
    return store.build(STAGE, run, inputs, make)


def _measured_part(
    store: Store,
    key: str,
    scorer: Scorer,
    tasks: TaskSet,
    config: EvaluateConfig,
    done: Callable[[str], None] = lambda name: None,
) -> Part:
    measurements = measure(scorer, tasks, config, done)
    scratch = store.scratch(STAGE.name)
    rows = write_measurements(scratch, scorer, tasks.split, measurements)
    return store.commit_part(draft_part(STAGE, key, f"{scorer.name}-{tasks.split}", rows=rows), scratch)


def load_embedder(checkpoint: Checkpoint, batch_tokens: int) -> Embed:
    """The checkpoint as a function from texts and side to unit vectors, cut to the lengths of training."""
    import torch

    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.micro_batches import embed_ids
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

    encoder = Encoder.load(checkpoint.trained.part_folder(checkpoint.label))
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = PairTokenizer.load(checkpoint.tokenizer.part_folder())

    def embed_texts(texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        return embed_ids(encoder, tokenizer.encode(texts, side, checkpoint.max_tokens(side)), batch_tokens, progress)

    return embed_texts


def _embed_side(embed: Embed, texts: Sequence[str], side: Side, progress: Progress) -> np.ndarray:
    return embed(texts, side, progress) if texts else np.zeros((0, 1), np.float32)


def _texts_of(tasks: TaskSet, side: Side) -> list[str]:
    """All tasks' texts of a side, each once."""
    return list(dict.fromkeys(text for task in tasks.tasks for text in _texts_of_task(task, side)))


def _texts_of_task(task: Task, side: Side) -> Sequence[str]:
    if isinstance(task, SearchTask):
        return task.queries[: task.asked] if side == "x" else task.candidates
    if side == "y":
        return ()
    return task.texts if isinstance(task, ProbeTask) else (*task.left, *task.right)


def _named(progress: Progress, label: str) -> Progress:
    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{label}: {note}")

    return report
