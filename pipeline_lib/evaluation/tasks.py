"""The task sets that models are measured on, drawn from the curated pairs of one split.

Every choice is in the order of ids, which are hashes, or drawn with a fixed seed: the same part gives the same tasks. Only
the part of the split that is asked for is opened, so that selection on validation cannot see the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.config.evaluation import EvaluateConfig
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
from pipeline_lib.store.artifact import Artifact


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


def kinds_of_few_groups(curated: Artifact, split: str) -> tuple[str, ...]:
    """Kinds of pairs whose `max_per_group` gives way, for it would leave little of one project but its first 50 functions.

    All kinds where documents were held out, whose few groups are in every split; else a kind of which the split has one group.
    """
    facts = curated.manifest.facts
    sizes = facts.get("splits", {}).get(split, {})
    return tuple(kind for kind in sorted(sizes) if facts["split_unit"] == "document" or sizes[kind]["groups"] == 1)


def raised_cap(pairs: Sequence[Pair], config: EvaluateConfig) -> EvaluateConfig:
    """The config with a `max_per_group` raised for all groups alike, until `candidates` pairs are left or all are."""
    sizes = Counter(pair.group for pair in pairs).values()
    cap = config.max_per_group
    while cap < max(sizes, default=0) and sum(min(size, cap) for size in sizes) < config.candidates:
        cap += 1
    return config.model_copy(update={"max_per_group": cap})


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
    few = kinds_of_few_groups(curated, split)
    of_code, of_text = (raised_cap(rows, config) if kind in few else config for kind, rows in (("code", code), ("text", text)))
    by_group = curated.manifest.facts.get("split_unit", "group") == "group"
    makers: dict[str, Callable[[], Task]] = {
        "code_search": lambda: search_task("code_search", code, of_code, most),
        "text_search": lambda: search_task("text_search", text, of_text, most),
        "classification": lambda: probe_task(text, config, "package_of_prose" if by_group else "group_of_prose"),
        "similarity": lambda: similarity_task(text, of_text),
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
