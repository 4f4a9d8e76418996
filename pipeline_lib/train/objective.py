"""Training objective: the interface between the training loop and the two objectives, contrastive.py and causal.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


def nothing_to_name() -> str:
    """For an objective without embeddings."""
    return ""


@dataclass(frozen=True)
class StepFigures:
    """Figures of one rank's share of a step; sums of loss, pairs and tokens over ranks are the step's.

    What the device computed stays there until the trainer reads all of a step at once: a GPU that is asked in between has
    nothing queued while the host goes on.

    Attributes:
        loss: scalar, on the device.
        temperature: exp(-tau) of the loss, a scalar on the device; None in language modelling.
        finite: scalar, whether all embeddings are; on the device, the same on every rank.
        name_not_finite: finds out which are not, the same on every rank; empty where all are.
        wait_seconds: for the step's data.
        effective_rank: of the batch's embeddings, see metrics.py; None where it was not measured.
        loss_seconds: of the loss from the embeddings on, the gather of other ranks' included.
        masked: candidates of rows and columns that scores left out of the loss, a scalar on the device; None where none can.
    """

    loss: Tensor
    pairs: int
    tokens: int
    padded_tokens: int
    temperature: Tensor | None = None
    finite: Tensor | None = None
    name_not_finite: Callable[[], str] = nothing_to_name
    wait_seconds: float = 0.0
    effective_rank: float | None = None
    loss_seconds: float = 0.0
    masked: Tensor | None = None


class Objective(Protocol):
    """A model with its data and its loss."""

    @property
    def items(self) -> str:
        """What a step is counted in: "pairs", or "sequences" of a text."""
        ...

    @property
    def module(self) -> nn.Module:
        """Module with all weights that are trained."""
        ...

    def describe(self) -> list[str]:
        """Lines for people, before the first step."""
        ...

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient of step `step` (from 0): the sum over ranks is the whole."""
        ...

    def after_step(self) -> None:
        """Bring what the optimizer changed back into its bounds."""
        ...

    def temperature(self) -> float | None:
        """exp(-tau), if there is one."""
        ...

    def pair_ids(self, step: int) -> list[str]:
        """The global batch of a step, by the ids of its pairs."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out pairs, if any are asked for; all ranks share the work, and each has to call."""
        ...

    @property
    def saved(self) -> nn.Module:
        """The part of the module that `save` writes, with the names that its file has."""
        ...

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as `transformers` loads it; with these weights in place of its own, and with none where there are
        none: those of a model that is cut are written apart.
        """
        ...
