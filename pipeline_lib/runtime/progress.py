"""Progress callback: how far a long piece of work is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

WARNING = "warning: "  # begins a line for people that they should see wherever they look, and not in a log alone


class Progress(Protocol):
    """Called with what is done of what there is; the caller draws it, throttled as it likes."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


def silent(done: float, total: float, note: str = "") -> None:
    """Say nothing."""


def by_tokens(progress: Progress, lengths: Sequence[int]) -> Callable[[Sequence[int]], None]:
    """Progress of texts that are embedded the shortest first, as texts of equal work: what is left would be told too short.

    Args:
        lengths: tokens of each text.

    Returns:
        What is called with the lengths of texts that have been embedded since.
    """
    n_texts, of_all, done = len(lengths), max(1, sum(lengths)), 0

    def told(more: Sequence[int]) -> None:
        nonlocal done
        done += sum(more)
        texts = n_texts * done / of_all
        progress(texts, n_texts, f"{int(texts):,} texts")

    return told


def embedding(progress: Progress, done_before: int, of_all: int) -> Progress:
    """Progress of one of several calls that embed texts, said as that of all of them."""

    def told(done: float, total: float, note: str = "") -> None:
        progress(done_before + done, of_all, f"{int(done_before + done):,} of {of_all:,} texts embedded")

    return told
