"""Classification without training: zero-shot by the nearest label text, and k nearest neighbours (paper: SST-2, k = 256).

Texts, labels and neighbours are embedded on the x side: nothing here is a passage that answers a query.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.labelled_sets import SST2, Example, LabelledSet, given_set
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import find_file, read_lines
from pipeline_lib.evaluation.suites.searching import NO_ROW, Document, search
from pipeline_lib.evaluation.suites.suite import (
    Families,
    Figure,
    Groups,
    Kind,
    Suite,
    SuiteResult,
    Suites,
    SuiteText,
    sample_rows,
)
from pipeline_lib.runtime.progress import Progress, silent

SST2_PROMPTS = {
    "words": {"0": "negative", "1": "positive"},
    "prompts": {
        "0": "this is an example of a negative movie review.",
        "1": "this is an example of a positive movie review.",
    },
}


class LabelSuite(Suite):
    """What zero-shot and k-NN share: the examples that are judged."""

    kind: Kind = "classification"
    splits: tuple[str, ...] = ("validation", "test")

    def __init__(self, labelled: LabelledSet, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.labelled = labelled

    def paths(self, split: str) -> tuple[Path, ...]:
        """The judged split's file."""
        return self.labelled.paths(self.data, split)

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The texts that are judged."""
        for example in self.labelled.examples(self.data, split):
            yield SuiteText(example.id, example.text)

    def judged(self, split: str) -> list[Example]:
        """The examples of the split, or a sample of them."""
        found = self.labelled.examples(self.data, split)
        return [found[row] for row in sample_rows(len(found), self.config.max_test_texts, self.config.seed)]

    def figures(self, task: str, judged: Sequence[Example], predicted: Sequence[str]) -> tuple[Figure, Figure]:
        """Accuracy and macro F1; no prediction is a wrong one."""
        true_N, predicted_N = np.array([example.label for example in judged]), np.array(predicted)
        right_N = (true_N == predicted_N).astype(np.float64)
        bootstrap = (self.config.bootstrap, self.config.seed)
        ids = [example.id for example in judged]
        return (
            Figure(task, "accuracy", metrics.mean_interval(right_N, *bootstrap), ids, right_N),
            Figure(task, "macro_f1", metrics.macro_f1_interval(predicted_N, true_N, *bootstrap)),
        )


class ZeroShot(LabelSuite):
    """Each text gets the label whose text is nearest. The headline is the last way of naming labels: the prompts."""

    needs_encoder: ClassVar[bool] = True

    def __init__(self, labelled: LabelledSet, data: Path, config: SuiteConfig) -> None:
        super().__init__(labelled, data, config)
        self.name = f"{labelled.name}-zero-shot" if labelled is SST2 else f"zero-shot/{labelled.name}"

    def paths(self, split: str) -> tuple[Path, ...]:
        """The judged split's file, and the prompts of a given set."""
        prompts = () if self.labelled is SST2 else (self._prompts_file(),)
        return (*super().paths(split), *prompts)

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Accuracy for each way of naming the labels."""
        judged = self.judged(split)
        figures: list[Figure] = []
        facts = {}
        for way, texts in self._prompts().items():
            labels = sorted(texts)
            unknown = {example.label for example in judged} - set(labels)
            if unknown:
                raise UserError(f"{self.name}: no prompt for the labels {', '.join(sorted(unknown))}; add them to prompts.json")
            corpus = partial(iter, [Document(label, texts[label]) for label in labels])
            found = search(model, [example.text for example in judged], corpus, self.config, "x", progress)
            predicted = [labels[row] if row != NO_ROW else "" for row in found.hits.rows_QK[:, 0]]
            task = self.task if way == "prompts" else f"{self.task}:{way}"
            figures += self.figures(task, judged, predicted)
            facts[way] = texts
        return SuiteResult(tuple(figures), {"labels": facts})

    def _prompts(self) -> dict[str, dict[str, str]]:
        if self.labelled is SST2:
            return SST2_PROMPTS
        path = self._prompts_file()
        content = "\n".join(read_lines(path, "utf-8-sig"))
        try:
            texts = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error}); expected one object, label to its text") from error
        if not (isinstance(texts, dict) and texts and all(isinstance(text, str) for text in texts.values())):
            raise UserError(f"{path}: expected one object, label to its text")
        return {"prompts": texts}

    def _prompts_file(self) -> Path:
        source = "your own: one object, label to its text"
        return find_file(self.data, self.labelled.places, f"{self.labelled.name}/prompts.json", source)


class Neighbours(LabelSuite):
    """The majority among the k nearest training texts; of equal counts the label of the larger sum of cosines."""

    def __init__(self, labelled: LabelledSet, data: Path, config: SuiteConfig) -> None:
        super().__init__(labelled, data, config)
        self.name = f"{labelled.name}-knn" if labelled is SST2 else f"knn/{labelled.name}"

    def paths(self, split: str) -> tuple[Path, ...]:
        """The judged split's file, and the training file."""
        return (*self.labelled.paths(self.data, "train"), *super().paths(split))

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Accuracy of the vote."""
        judged, train = self.judged(split), self.labelled.examples(self.data, "train")
        train = [train[row] for row in sample_rows(len(train), self.config.max_train_texts, self.config.seed)]
        config = self.config.model_copy(update={"depth": self.config.neighbours})
        corpus = [Document(example.id, example.text) for example in train]
        found = search(model, [example.text for example in judged], partial(iter, corpus), config, "x", progress)
        labels = [example.label for example in train]
        predicted = [_vote(rows, scores, labels) for rows, scores in zip(*found.hits, strict=True)]
        return SuiteResult(self.figures(self.task, judged, predicted), {"k": config.depth, "neighbours_among": len(train)})


def _vote(rows: np.ndarray, scores: np.ndarray, labels: Sequence[str]) -> str:
    votes: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        if row != NO_ROW:
            votes[labels[row]].append(float(score))
    return max(sorted(votes), key=lambda label: (len(votes[label]), sum(votes[label])), default="")


SUITES: Suites = {"sst2-zero-shot": partial(ZeroShot, SST2), "sst2-knn": partial(Neighbours, SST2)}
FAMILIES: Families = {
    "zero-shot": lambda folder, data, config: ZeroShot(given_set(folder), data, config),
    "knn": lambda folder, data, config: Neighbours(given_set(folder), data, config),
}
GROUPS: Groups = {"sst2-all": ("sst2", *SUITES)}
