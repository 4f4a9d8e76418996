"""Tasks over pieces of prose: the linear probe's classes, and graded similarity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from data_contracts.schemas import row_id
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.evaluation.task_records import MIN_QUERIES, Pair, ProbeTask, SimilarityTask, TooFewError, at_most_per_group

T = TypeVar("T")

_FOLDS = 3  # a class needs a document in each
_TEXTS_PER_DOCUMENT = 20  # one long manual would else be its whole class
_GRADES = (3, 2, 1, 0)


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
        raise TooFewError(f"{len(classes)} groups with {config.min_class_texts} pieces of {_FOLDS} documents, 2 are needed")
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
        if len(by_document[pair.document_id]) < _TEXTS_PER_DOCUMENT:
            by_document[pair.document_id].append(pair)
    fold_of = {document: number % _FOLDS for number, document in enumerate(sorted(by_document))}
    kept = [pair for pair in pairs if pair in by_document[pair.document_id]][: config.max_class_texts]
    rows = [(pair, fold_of[pair.document_id]) for pair in kept]
    enough = len(rows) >= config.min_class_texts and len({fold for _, fold in rows}) == _FOLDS
    return rows if enough else []


def similarity_task(pairs: Sequence[Pair], config: EvaluateConfig) -> SimilarityTask:
    """Each anchor piece with one partner of every grade, so that the grades are balanced.

    Grades that the split cannot give (with one document a group there is no grade 1) are left out for all anchors.

    Raises:
        TooFewError: fewer than two grades, or fewer than 10 anchors that have a partner of each.
    """
    partners = _Partners(pairs, np.random.default_rng(config.seed))
    found = [(pair, partners.of(pair)) for pair in at_most_per_group(pairs, config.max_per_group)]
    grades = [grade for grade in _GRADES if sum(grade in texts for _, texts in found) >= MIN_QUERIES]
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
