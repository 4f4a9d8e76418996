"""Progress callback: how far a long piece of work is."""

from __future__ import annotations

from typing import Protocol

WARNING = "warning: "  # begins a line for people that they should see wherever they look, and not in a log alone


class Progress(Protocol):
    """Called with what is done of what there is; the caller draws it, throttled as it likes."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


def silent(done: float, total: float, note: str = "") -> None:
    """Say nothing."""


def embedding(progress: Progress, done_before: int, of_all: int) -> Progress:
    """Progress of one of several calls that embed texts, said as that of all of them."""

    def told(done: float, total: float, note: str = "") -> None:
        progress(done_before + done, of_all, f"{int(done_before + done):,} of {of_all:,} texts embedded")

    return told
