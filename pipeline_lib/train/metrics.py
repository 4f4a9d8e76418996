"""What is written down about each step: figures that two equal runs share, and apart from them those of the clock."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

NONE: Mapping[str, float] = {}


@dataclass(frozen=True)
class StepMetrics:
    """One row of metrics.jsonl; a pure function of the run's inputs and processes.

    Attributes:
        step: steps done, this one included.
        temperature: exp(-tau) that the step's loss was computed with; absent in language modelling.
        gradient_norm: before clipping.
        padding_share: of the computed tokens, 0 to 1.
        pairs_seen: by all steps so far.
    """

    step: int
    loss: float
    temperature: float | None
    gradient_norm: float
    learning_rate: float
    padding_share: float
    pairs_seen: int

    @property
    def not_finite(self) -> list[str]:
        """What forbids the step to be taken, in the order in which one brings about the next."""
        values = {"temperature": self.temperature, "loss": self.loss, "gradient norm": self.gradient_norm}
        return [f"{name} is {value}" for name, value in values.items() if value is not None and not math.isfinite(value)]

    def to_line(self) -> str:
        """One line of JSON."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(fields) + "\n"


class StepLog:
    """The rows so far, each step once: a restart goes on after those that its state holds."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, metrics: StepMetrics) -> None:
        """Append a row."""
        self._lines.append(metrics.to_line())

    def text(self) -> str:
        """The content of metrics.jsonl."""
        return "".join(self._lines)

    def restore(self, text: str) -> None:
        """Start from the rows of an earlier process."""
        self._lines = text.splitlines(keepends=True)

    @property
    def last(self) -> dict[str, float]:
        """The newest row; empty before the first step."""
        return json.loads(self._lines[-1]) if self._lines else {}


class Clock:
    """Speed and memory of this process's steps; appended to a file outside the artifact, and the estimate of what is left."""

    def __init__(self, path: Path | None, steps: int) -> None:
        self._path = path
        self._steps = steps
        self._times: list[float] = [time.monotonic()]

    def tick(
        self, step: int, pairs: int, tokens: int, apart: Mapping[str, float] = NONE, effective_rank: float | None = None
    ) -> float:
        """Note that a step is done; returns pairs per second over the last ten.

        Args:
            step: that is done.
            pairs: of the step.
            tokens: of the step.
            apart: seconds that were not the model's arithmetic, by name: "wait" for data, "loss", "synchronisation",
                "saving" and "checkpoint" of the step before.
            effective_rank: see health.py.
        """
        self._times.append(time.monotonic())
        seconds = self._times[-1] - self._times[-2]
        if self._path is not None:
            row: dict[str, float] = {
                "step": step,
                "seconds": round(seconds, 4),
                **{f"{name}_seconds": round(took, 6) for name, took in apart.items()},
                "pairs_per_second": round(pairs / seconds, 2),
                "tokens_per_second": round(tokens / seconds, 1),
                "memory_bytes": memory_bytes(),
            }
            if effective_rank is not None:
                row["effective_rank"] = round(effective_rank, 3)
            with self._path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
        recent = self._times[-11:]
        return pairs * (len(recent) - 1) / (recent[-1] - recent[0])

    @property
    def steps_here(self) -> int:
        """Steps that this process has done."""
        return len(self._times) - 1

    def seconds_left(self, step: int) -> float:
        """For the steps after `step`, at the mean pace of this process's steps without its first, which warms up."""
        skipped = 1 if self.steps_here > 1 else 0
        pace = (self._times[-1] - self._times[skipped]) / max(1, self.steps_here - skipped)
        return pace * (self._steps - step)


def memory_bytes() -> int:
    """The most that this process ever held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def spell_seconds(seconds: float) -> str:
    """For people: "48 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
