"""Evaluation suite: a set that any model is run on, to figures with the value of every query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation.metrics import Interval
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact

Kind = Literal["text_search", "code_search", "classification", "similarity", "bias"]


@dataclass(frozen=True)
class Figure:
    """One metric of one task, and what is behind it.

    Attributes:
        task: the suite's name for its headline; "SUITE:PART" for a part of it.
        ids: of the queries, texts or pairs behind the figure.
        values: what each of them got; a correlation's predicted side.
        targets: a correlation's other side; empty where the figure is the mean of the values.
        groups: of each of them, where the set has groups (packages, repositories).
    """

    task: str
    metric: str
    interval: Interval
    ids: Sequence[str] = ()
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    targets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class SuiteResult:
    """The figures of one run, a task's primary metric first, and what a reader must know of how they came about."""

    figures: tuple[Figure, ...]
    facts: dict[str, Any] = field(default_factory=dict)


class SuiteText(NamedTuple):
    """A text that no training pair may hold."""

    id: str
    text: str
    is_code: bool = False


class Suite(ABC):
    """One evaluation set.

    Args:
        data: the folder that holds the downloads.
        config: sizes and protocol numbers.
    """

    name: str
    kind: Kind
    splits: tuple[str, ...]
    reported_only: ClassVar[bool] = False  # True: never selected on
    views: ClassVar[tuple[str, ...]] = ()  # of pairs that its texts are of, whose prompts they get
    needs_encoder: ClassVar[bool] = False  # True: no task for a model that compares words

    def __init__(self, data: Path, config: SuiteConfig) -> None:
        self.data = data
        self.config = config
        self.left_out: dict[str, int] = {}  # rows of its files by the reason why they are in no figure, once they were read

    @property
    def task(self) -> str:
        """The headline task's name; the quick variant's figures never go under the full one's name."""
        return f"{self.name}-quick" if self.config.quick else self.name

    def inputs(self, split: str) -> Mapping[str, Artifact]:
        """The artifacts that a run on this split reads; none where the set was downloaded."""
        return {}

    def settings(self, split: str) -> StageConfig:
        """All choices that the figures depend on, for the artifact's key."""
        return self.config

    @abstractmethod
    def paths(self, split: str) -> tuple[Path, ...]:
        """The files that a run on this split reads.

        Raises:
            MissingData: what is missing, and where to get it.
        """

    @abstractmethod
    def texts(self, split: str) -> Iterator[SuiteText]:
        """The texts that training must not have seen, for decontamination."""

    @abstractmethod
    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Measure one model.

        Raises:
            MissingData: what is missing, and where to get it.
            UserError: a file is not of the official layout: which, and where.
        """


# what a suite's file names its suites in; registry.py finds every such file
Suites = Mapping[str, Callable[[Path, SuiteConfig], Suite]]  # name to what makes the suite from the data's folder
Families = Mapping[str, Callable[[str, Path, SuiteConfig], Suite]]  # of members that are folders of the data: "FAMILY/FOLDER"
Groups = Mapping[str, Sequence[str]]  # name to the names of suites


def sample_rows(n: int, most: int | None, seed: int) -> np.ndarray:
    """At most so many row numbers in rising order, the same ones every time; None: all."""
    if not most or n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
