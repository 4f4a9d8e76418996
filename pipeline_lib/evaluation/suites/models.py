"""What can be measured: anything that turns texts into vectors, and the lexical baselines that compare words.

N texts, D width, Q queries, K hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from pipeline_lib.progress import Progress, silent

Side = Literal["x", "y"]  # x: queries and symmetric tasks; y: passages and code


@dataclass(frozen=True)
class ModelId:
    """Who a model is: its name in tables, its training step (-1 without one), and what its vectors depend on."""

    name: str
    fingerprint: str  # hexadecimal, over weights, tokenizer and lengths: equal ones give equal vectors
    step: int = -1


@runtime_checkable
class TextEncoder(Protocol):
    """A model that embeds texts."""

    @property
    def id(self) -> ModelId: ...

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D), in the order of the texts."""
        ...


class Hits(NamedTuple):
    """The best documents of each query, best first: their row numbers (-1: no more) and scores, both (Q, K)."""

    rows_QK: np.ndarray
    scores_QK: np.ndarray


@runtime_checkable
class WordModel(Protocol):
    """A model that compares words, its statistics from the texts at hand."""

    @property
    def id(self) -> ModelId: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of suite that it can be put through."""
        ...

    def search(self, queries: Sequence[str], documents: Sequence[str], depth: int) -> Hits:
        """The best `depth` documents of each query."""
        ...

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """A score of each pair, (N,)."""
        ...

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """Rows for a linear probe; the vocabulary is that of `fitted`."""
        ...


Model = TextEncoder | WordModel
