"""The task sets that models are measured on, drawn from the curated pairs of one split.

Every choice is in the order of ids, which are hashes, or drawn with a fixed seed: the same part gives the same tasks. Only
the part of the split that is asked for is opened, so that selection on validation cannot see the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact
from pipeline_lib.config import EvaluateConfig

MIN_QUERIES = 10  # with fewer the 95 % interval of an MRR is wider than the differences one looks for


class Pair(NamedTuple):
    """The columns of a curated pair that the tasks need."""

    id: str
    kind: str
    view: str
    x: str
    y: str
    x_hash: int
    y_hash: int
    document_id: str
    group: str
    position: int


@dataclass(frozen=True)
class SearchTask:
    """Rankings: each query's own candidate among those of its batch.

    Query i and candidate i belong together; candidates i of one batch are consecutive.
    """

    name: str
    kind: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    queries: tuple[str, ...]
    candidates: tuple[str, ...]
    query_hashes: np.ndarray
    candidate_hashes: np.ndarray
    batch_size: int
    asked: int  # the first so many rows are queries; all are candidates
    left_out: int  # rows of the incomplete last batch

    def batches(self) -> Iterator[tuple[slice, slice]]:
        """The rows of each batch that are queries, and those that are candidates."""
        for at in range(0, self.asked, self.batch_size):
            yield slice(at, min(at + self.batch_size, self.asked)), slice(at, at + self.batch_size)

    def masked(self, queries: slice, candidates: slice) -> np.ndarray:
        """True where a candidate is the query's own text or the text of its right answer, shape (Q, C)."""
        candidate_hashes_C = self.candidate_hashes[candidates]
        right_Q1 = self.candidate_hashes[queries][:, None]
        own_Q1 = self.query_hashes[queries][:, None]
        return (candidate_hashes_C == right_Q1) | (candidate_hashes_C == own_Q1)

    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "n": self.asked,
            "candidates": self.batch_size,
            "groups": len(set(self.groups[: self.asked])),
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class ProbeTask:
    """Which group does this piece of prose come from: cross-validation whose folds no document is cut by."""

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    folds: np.ndarray
    kind: str = "classification"

    def facts(self) -> dict[str, Any]:
        sizes = Counter(self.labels)
        n = len(self.labels)
        return {"kind": self.kind, "n": n, "classes": len(sizes), "largest_class_share": max(sizes.values()) / n}


@dataclass(frozen=True)
class SimilarityTask:
    """Pairs of pieces of prose with a grade: 3 adjacent, 2 the same document, 1 the same group, 0 another."""

    name: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    left: tuple[str, ...]
    right: tuple[str, ...]
    grades: np.ndarray
    kind: str = "similarity"

    def facts(self) -> dict[str, Any]:
        grades, counts = np.unique(self.grades.astype(int), return_counts=True)
        return {
            "kind": self.kind,
            "n": len(self.ids),
            "grades": {str(g): int(n) for g, n in zip(grades, counts, strict=True)},
        }


Task = SearchTask | ProbeTask | SimilarityTask


@dataclass(frozen=True)
class TaskSet:
    """The tasks of one split, and why the others could not be built."""

    split: str
    tasks: tuple[Task, ...]
    skipped: dict[str, str]

    def facts(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "tasks": {task.name: task.facts() for task in self.tasks},
            "skipped": dict(sorted(self.skipped.items())),
        }


class TooFewError(ValueError):
    """The split has too little for a task; the message is the reason that the report shows."""


def only_part(artifact: Artifact, label: str) -> Artifact:
    """The artifact reduced to one part, so that reading, verifying and naming it touch no other.

    Raises:
        UserError: there is no such part.
    """
    return Artifact(artifact.root, artifact.manifest.model_copy(update={"parts": (artifact.part(label),)}))


def read_split(curated: Artifact, split: str) -> list[Pair]:
    """The pairs of one split in the order of their ids; no other part is opened."""
    path = curated.part_folder(split) / "pairs.parquet"
    with path.open("rb") as stream:
        columns = pq.read_table(stream, columns=list(Pair._fields)).to_pydict()
    return sorted(Pair(*row) for row in zip(*(columns[name] for name in Pair._fields), strict=True))


def build_tasks(curated: Artifact, split: str, config: EvaluateConfig) -> TaskSet:
    """All tasks that the split has enough for.

    Args:
        curated: the curated pairs, one part a split.
        split: "validation" or "test".
        config: `max_queries` holds for validation only; the test takes all.
    """
    from pipeline_lib.evaluation.prose_tasks import probe_task, similarity_task  # it builds on this module's records

    pairs = read_split(curated, split)
    code = [pair for pair in pairs if pair.kind == "code" and pair.view == "docstring"]
    text = [pair for pair in pairs if pair.kind == "text"]
    most = None if split == "test" else config.max_queries
    makers: dict[str, Callable[[], Task]] = {
        "code_search": lambda: search_task("code_search", code, config, most),
        "text_search": lambda: search_task("text_search", text, config, most),
        "classification": lambda: probe_task(text, config),
        "similarity": lambda: similarity_task(text, config),
    }
    tasks: list[Task] = []
    skipped = {}
    for kind, make in makers.items():
        try:
            tasks.append(make())
        except TooFewError as reason:
            skipped[kind] = str(reason)
    return TaskSet(split, tuple(tasks), skipped)


def search_task(kind: str, pairs: Iterable[Pair], config: EvaluateConfig, max_queries: int | None) -> SearchTask:
    """Rankings of each x over the y of its batch.

    Raises:
        TooFewError: fewer than 10 pairs.
    """
    rows = at_most_per_group(pairs, config.max_per_group)
    if len(rows) < MIN_QUERIES:
        raise TooFewError(f"{len(rows)} pairs in this split, {MIN_QUERIES} are needed")
    size = min(config.candidates, len(rows))
    wanted = len(rows) if max_queries is None else max_queries
    batches = min(len(rows) // size, max(1, wanted // size))
    used = rows[: batches * size]
    return SearchTask(
        name=f"{kind}_{_short(size)}",
        kind=kind,
        ids=tuple(pair.id for pair in used),
        groups=tuple(pair.group for pair in used),
        queries=tuple(pair.x for pair in used),
        candidates=tuple(pair.y for pair in used),
        query_hashes=np.array([pair.x_hash for pair in used], np.int64),
        candidate_hashes=np.array([pair.y_hash for pair in used], np.int64),
        batch_size=size,
        asked=min(len(used), wanted),
        left_out=len(rows) % size,
    )


def at_most_per_group(pairs: Iterable[Pair], most: int) -> list[Pair]:
    """The pairs in the order of their ids, each group's first `most`."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in sorted(pairs):
        seen[pair.group] += 1
        if seen[pair.group] <= most:
            kept.append(pair)
    return kept


def _short(n: int) -> str:
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)
