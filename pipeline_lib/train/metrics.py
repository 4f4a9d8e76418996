"""Training metrics, step times, and divergence checks.

Metrics are a pure function of the run's inputs: two equal runs share every row. Seconds, speed and memory go to a file of their
own. Divergence checks end a run that has gone wrong for good: a figure that is not finite, embeddings or a temperature that
have collapsed.

N embeddings of one side of a global batch, n of them sampled, D embedding width.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.train.sharding import own

NONE: Mapping[str, float] = {}
FINITE_ADVICE = "a lower learning_rate or clip_norm, or float32"
SAMPLED_ROWS = 96  # a symmetric eigenvalue problem of this size takes about a millisecond


@dataclass(frozen=True)
class StepMetrics:
    """One row of metrics.jsonl; a pure function of the run's inputs and processes.

    Attributes:
        step: steps done, this one included.
        temperature: exp(-tau) that the step's loss was computed with; absent in language modelling.
        gradient_norm: before clipping.
        padding_share: of the computed tokens, 0 to 1.
        pairs_seen: by all steps so far.
        masked: candidates, of rows and of columns, that `train.false_negatives` left out; absent where it is off.
    """

    step: int
    loss: float
    temperature: float | None
    gradient_norm: float
    learning_rate: float
    padding_share: float
    pairs_seen: int
    masked: int | None = None

    @property
    def not_finite(self) -> list[str]:
        """Figures that forbid the step, in the order in which one brings about the next."""
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
        self.row: dict[str, float] = {}  # of the newest step

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
            effective_rank: see `effective_rank` below.
        """
        self._times.append(time.monotonic())
        seconds = self._times[-1] - self._times[-2]
        if self._path is not None:
            self.row = {
                "step": step,
                "seconds": round(seconds, 4),
                **{f"{name}_seconds": round(took, 6) for name, took in apart.items()},
                "pairs_per_second": round(pairs / seconds, 2),
                "tokens_per_second": round(tokens / seconds, 1),
                "memory_bytes": memory_bytes(),
            }
            if effective_rank is not None:
                self.row["effective_rank"] = round(effective_rank, 3)
            with self._path.open("a") as stream:
                stream.write(json.dumps(self.row) + "\n")
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


class Stopwatch:
    """Seconds by name since the last `lap`. On a GPU, which works behind the clock's back, only waiting is seen."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add what was timed elsewhere."""
        self._seconds[name] += seconds

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap; begins anew."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


class Divergence(NamedTuple):
    """Reason for which a run has to stop."""

    name: str  # of the file that lists the step's pairs
    what: str
    advice: str


@torch.no_grad()
def effective_rank(emb_ND: Tensor) -> float:
    """Dimensions that the embeddings fill: exp of the entropy of their singular values' shares (Roy and Vetterli, 2007).

    1 where all lie on one line, as after a collapse to one point; at most min(n, D). Of evenly spaced rows, without their
    mean taken out: embeddings that all point nearly the same way have a low one. NaN where one of them is not finite.
    """
    rows_nD = emb_ND[:: -(-len(emb_ND) // SAMPLED_ROWS)].to("cpu", torch.float64)
    if not torch.isfinite(rows_nD).all():
        return math.nan  # the decomposition would end the process with a word of its own
    singular_n = torch.linalg.eigvalsh(rows_nD @ rows_nD.T).clamp_min(0.0).sqrt()
    share_n = singular_n / singular_n.sum()
    return math.exp(float(-torch.special.xlogy(share_n, share_n).sum()))


@torch.no_grad()
def rows_not_finite(emb_ND: Tensor) -> list[int]:
    """The rows that hold a NaN or an infinity."""
    return (~torch.isfinite(emb_ND).all(dim=1)).nonzero().flatten().tolist()


@torch.no_grad()
def names_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The tensors of which this rank holds a NaN or an infinity; one transfer from the device for all."""
    if not tensors:
        return []
    whole = torch.stack([torch.isfinite(own(tensor)).all() for tensor in tensors.values()])
    return [name for name, is_finite in zip(tensors, whole.tolist(), strict=True) if not is_finite]


def divergence_of(metrics: StepMetrics, rank: float | None, config: OptimizerConfig, not_finite: str = "") -> Divergence | None:
    """Find the divergence that a step shows, before it is taken; None where there is none.

    A collapse is judged after the warm-up only: a given language model's first embeddings may all point nearly the same way.

    Args:
        metrics: of the step.
        rank: effective, of the side whose embeddings fill fewer dimensions.
        config: with the limits.
        not_finite: which embeddings are not.
    """
    embeddings = not_finite or ("embeddings are not finite" if rank is not None and math.isnan(rank) else "")
    if found := [*([embeddings] if embeddings else []), *metrics.not_finite]:
        return Divergence("not_finite", f"{', '.join(found)}, expected finite ones", FINITE_ADVICE)
    if not isinstance(config, TrainConfig) or metrics.step <= config.warmup_steps:
        return None
    if rank is not None and rank < config.min_effective_rank:
        what = f"the embeddings have collapsed: effective rank {rank:.3f}, expected at least {config.min_effective_rank}"
        return Divergence("collapsed", what, "a lower learning_rate, more warmup_steps or a larger batch")
    if config.train_temperature and metrics.temperature is not None and metrics.temperature > config.max_temperature:
        what = f"the temperature has collapsed: {metrics.temperature:.3f}, expected at most {config.max_temperature}"
        return Divergence("collapsed", what, "a lower scale_learning_rate, or train_temperature=false")
    return None
