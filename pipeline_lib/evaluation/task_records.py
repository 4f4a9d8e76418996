"""What a task is: texts, right answers, and the rows that may not be held against each other.

Q queries, C candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

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
        """What the report says of the task."""
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
        """What the report says of the task."""
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
        """What the report says of the task."""
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
        """What the report says of the task."""
        return {
            "split": self.split,
            "tasks": {task.name: task.facts() for task in self.tasks},
            "skipped": dict(sorted(self.skipped.items())),
        }


class TooFewError(ValueError):
    """The split has too little for a task; the message is the reason that the report shows."""


def at_most_per_group(pairs: Iterable[Pair], most: int) -> list[Pair]:
    """The pairs in the order of their ids, each group's first `most`."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in sorted(pairs):
        seen[pair.group] += 1
        if seen[pair.group] <= most:
            kept.append(pair)
    return kept
