"""The task sets that models are measured on, drawn from the curated pairs of one split.

Every choice is in the order of ids, which are hashes, or drawn with a fixed seed: the same part gives the same tasks. Only
the part of the split that is asked for is opened, so that selection on validation cannot see the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact
from pipeline_lib.config import EvaluateConfig
from pipeline_lib.evaluation.prose_tasks import probe_task, similarity_task
from pipeline_lib.evaluation.task_records import (
    MIN_QUERIES,
    Pair,
    SearchTask,
    Task,
    TaskSet,
    TooFewError,
    at_most_per_group,
)


def only_part(artifact: Artifact, label: str) -> Artifact:
    """The artifact reduced to one part, so that reading, verifying and naming it touch no other.

    Raises:
        UserError: there is no such part.
    """
    return artifact.with_parts([artifact.part(label)])


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


def _short(n: int) -> str:
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)
