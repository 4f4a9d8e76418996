"""Held-out tasks, drawn from the curated pairs of one split: two searches, a linear probe, graded similarity.

Every choice is in the order of ids, which are hashes, or drawn with a fixed seed: the same part gives the same tasks. No part
but the split that is asked for is opened: selection on validation cannot see the test.
Q queries, C candidates, N texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq

from data_contracts.schemas import row_id
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.config.queries import QUERIES_VIEW
from pipeline_lib.store.artifact import Artifact

T = TypeVar("T")

MIN_QUERIES = 10  # with fewer the 95 % interval of an MRR is wider than the differences one looks for
FOLDS = 3  # of the probe; a class needs a document in each
TEXTS_PER_DOCUMENT = 20  # one long manual would else be its whole class
GRADES = (3, 2, 1, 0)


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

    def texts_of(self, side: str) -> Sequence[str]:
        """What is embedded on side "x" or "y"."""
        return self.queries[: self.asked] if side == "x" else self.candidates

    def facts(self) -> dict[str, Any]:
        """Sizes that the report shows."""
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

    def texts_of(self, side: str) -> Sequence[str]:
        """What is embedded on side "x" or "y"."""
        return self.texts if side == "x" else ()

    def facts(self) -> dict[str, Any]:
        """Sizes that the report shows."""
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

    def texts_of(self, side: str) -> Sequence[str]:
        """What is embedded on side "x" or "y"."""
        return (*self.left, *self.right) if side == "x" else ()

    def facts(self) -> dict[str, Any]:
        """Sizes that the report shows."""
        grades, counts = np.unique(self.grades.astype(int), return_counts=True)
        return {
            "kind": self.kind,
            "n": len(self.ids),
            "grades": {str(g): int(n) for g, n in zip(grades, counts, strict=True)},
        }


Task = SearchTask | ProbeTask | SimilarityTask


@dataclass(frozen=True)
class TaskSet:
    """The tasks of one split, and for each kind that could not be drawn the reason."""

    tasks: tuple[Task, ...]
    skipped: dict[str, str]

    def of_kind(self, kind: str) -> Task | None:
        """The task of that kind; None where the split has too little for it."""
        return next((task for task in self.tasks if task.kind == kind), None)

    def texts(self, side: str) -> list[str]:
        """All tasks' texts of side "x" or "y", each once."""
        return list(dict.fromkeys(text for task in self.tasks for text in task.texts_of(side)))


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


def draw_tasks(curated: Artifact, split: str, config: EvaluateConfig) -> TaskSet:
    """All tasks that the split has enough for.

    Args:
        curated: the curated pairs, one part a split.
        split: "validation" or "test".
        config: `max_queries` holds for validation only; the test takes all.
    """
    pairs = read_split(curated, split)
    code = [pair for pair in pairs if pair.kind == "code" and pair.view == "docstring"]
    text = [pair for pair in pairs if pair.kind == "text" and pair.view != QUERIES_VIEW]
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
    return TaskSet(tuple(tasks), skipped)


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


def probe_task(pairs: Sequence[Pair], config: EvaluateConfig, name: str = "package_of_prose") -> ProbeTask:
    """Pieces of prose labelled with their group, cut into three folds by document.

    Raises:
        TooFewError: fewer than two groups have enough pieces and documents.
    """
    by_group: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs):
        by_group[pair.group].append(pair)
    classes = []
    for group in sorted(by_group, key=lambda name: row_id(str(config.seed), name)):
        pieces = _cut_by_document(by_group[group], config)
        if pieces:
            classes.append(pieces)
    rows = [row for pieces in islice(classes, config.max_classes) for row in pieces]
    if len(classes) < 2:
        raise TooFewError(f"{len(classes)} groups with {config.min_class_texts} pieces of {FOLDS} documents, 2 are needed")
    return ProbeTask(
        name=name,
        ids=tuple(pair.id for pair, _ in rows),
        texts=tuple(pair.x for pair, _ in rows),
        labels=tuple(pair.group for pair, _ in rows),
        folds=np.array([fold for _, fold in rows]),
    )


def _cut_by_document(pairs: Sequence[Pair], config: EvaluateConfig) -> list[tuple[Pair, int]]:
    by_document: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if len(by_document[pair.document_id]) < TEXTS_PER_DOCUMENT:
            by_document[pair.document_id].append(pair)
    fold_of = {document: number % FOLDS for number, document in enumerate(sorted(by_document))}
    kept = [pair for pair in pairs if pair in by_document[pair.document_id]][: config.max_class_texts]
    rows = [(pair, fold_of[pair.document_id]) for pair in kept]
    enough = len(rows) >= config.min_class_texts and len({fold for _, fold in rows}) == FOLDS
    return rows if enough else []


def similarity_task(pairs: Sequence[Pair], config: EvaluateConfig) -> SimilarityTask:
    """Each anchor piece with one partner of every grade, so that the grades are balanced.

    Grades that the split cannot give (with one document a group there is no grade 1) are left out for all anchors.

    Raises:
        TooFewError: fewer than two grades, or fewer than 10 anchors that have a partner of each.
    """
    partners = _Partners(pairs, np.random.default_rng(config.seed))
    found = [(pair, partners.of(pair)) for pair in at_most_per_group(pairs, config.max_per_group)]
    grades = [grade for grade in GRADES if sum(grade in texts for _, texts in found) >= MIN_QUERIES]
    anchors = [(pair, texts) for pair, texts in found if all(grade in texts for grade in grades)]
    if len(grades) < 2 or len(anchors) < MIN_QUERIES:
        raise TooFewError(f"{len(anchors)} pieces with partners of {len(grades)} grades, 10 pieces and 2 are needed")
    rows = [(pair, grade, texts[grade]) for pair, texts in anchors[: config.similarity_pairs] for grade in grades]
    return SimilarityTask(
        name="graded_prose",
        ids=tuple(f"{pair.id}:{grade}" for pair, grade, _ in rows),
        groups=tuple(pair.group for pair, _, _ in rows),
        left=tuple(pair.x for pair, _, _ in rows),
        right=tuple(text for _, _, text in rows),
        grades=np.array([grade for _, grade, _ in rows], np.float64),
    )


class _Partners:
    """Draws, for a piece, one other piece of each grade."""

    def __init__(self, pairs: Sequence[Pair], random: np.random.Generator) -> None:
        self.random = random
        self.documents: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
        for pair in sorted(pairs):
            self.documents[pair.group][pair.document_id].append(pair)
        self.groups = sorted(self.documents)

    def of(self, anchor: Pair) -> dict[int, str]:
        """Partner's text by grade; a grade without a partner is missing."""
        own = self.documents[anchor.group]
        distant = [pair for pair in own[anchor.document_id] if abs(pair.position - anchor.position) > 1]
        siblings = [document for document in own if document != anchor.document_id]
        strangers = [group for group in self.groups if group != anchor.group]
        drawn = {3: anchor.y}
        if distant:
            drawn[2] = self._one(distant).x
        if siblings:
            drawn[1] = self._one(own[self._one(siblings)]).x
        if strangers:
            documents = self.documents[self._one(strangers)]
            drawn[0] = self._one(documents[self._one(list(documents))]).x
        return {grade: text for grade, text in drawn.items() if text != anchor.x and (grade == 3 or text != anchor.y)}

    def _one(self, items: Sequence[T]) -> T:
        return items[int(self.random.integers(len(items)))]
