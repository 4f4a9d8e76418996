"""Rows of a training run: which rows of a split each step reads, and which files must be here by then. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

import numpy as np

from pipeline_lib.config.data import ReadingConfig, TextView, View
from pipeline_lib.config.queries import QUERIES_VIEW
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.batches import BatchPlan
from pipeline_lib.tokens.dataset import TokenDataset, TokenRows, labels_of
from pipeline_lib.tokens.delimiters import Side

PIPELINE_VIEWS = frozenset((*get_args(View), *get_args(TextView), QUERIES_VIEW))

Around = Mapping[Side, tuple[int, int]]
ONE_EACH: Around = MappingProxyType({"x": (1, 1), "y": (1, 1)})  # of our own tokenizer

Read = dict[str, tuple[np.ndarray, TokenRows]]


def check_views(shards: Artifact, config: TrainConfig | PretrainConfig) -> list[str]:
    """The views of a configuration's mixture that have weight, and no rows in the training split.

    Raises:
        UserError: a name that no view has, neither the pipeline's nor a training set's of these shards.
    """
    present = {part.label.partition("-")[2].partition("@")[0] for part in shards.manifest.parts}
    known = sorted(PIPELINE_VIEWS | present)
    for field in ("mixture", "mask_same_document"):
        for view in getattr(config, field, ()):
            if view not in known:
                near = difflib.get_close_matches(view, known) or known
                raise UserError(
                    f"{field}: no view is called {view!r}; did you mean {' or '.join(near)}? "
                    f"This dataset has rows of {', '.join(sorted(present))}"
                )
    labels = labels_of(shards, "train")
    return [view for view, weight in config.mixture.items() if weight > 0 and f"train-{view}" not in labels]


class PairRows:
    """A split by view, and the order in which it is seen.

    Args:
        reading: how far ahead, and how much of a bucket's files stays on this machine.
        around_of: a view to how many ids of its rows stand before and behind their text, by side.
        order: BatchPlan's own fields: block_rows, window_blocks, batches_from.
    """

    split = "train"

    def __init__(
        self,
        shards: Artifact,
        mixture: dict[str, float],
        batch_size: int,
        seed: int,
        reading: ReadingConfig | None = None,
        around_of: Callable[[str], Around] = lambda view: ONE_EACH,
        **order: Any,
    ) -> None:
        labels = labels_of(shards, self.split)
        views = sorted(view for view in mixture if f"{self.split}-{view}" in labels)
        self.reading = reading or ReadingConfig()
        self.around = {view: around_of(view) for view in views}
        room = self.reading.fetched_bytes // max(1, len(views))
        self.datasets = {view: TokenDataset.open(shards, f"{self.split}-{view}", room) for view in views}
        sizes = {view: len(dataset) for view, dataset in self.datasets.items()}
        self.plan = BatchPlan(sizes=sizes, mixture=mixture, batch_size=batch_size, seed=seed, digest=shards.digest, **order)
        self._next_wanted = 0

    def read(self, step: int) -> Read:
        """The rows of a step by view, with their numbers; what later steps need is on its way when this returns."""
        self._want(step)
        return {view: (rows_n, self.datasets[view].rows(rows_n)) for view, rows_n in self.plan.rows(step).items()}

    def _want(self, now: int) -> None:
        """Let the rows of this step and the next ones be fetched, or read from a disk, as far as there is room."""
        for step in range(max(now, self._next_wanted), now + self.reading.steps_ahead + 1):
            if not all(self.datasets[view].want(rows_n, step, now) for view, rows_n in self.plan.rows(step).items()):
                return
            self._next_wanted = step + 1

    def pair_ids(self, rows: dict[str, np.ndarray]) -> list[str]:
        """Ids of the pairs of a batch, view by view."""
        return [pair_id for view, rows_n in rows.items() for pair_id in self.datasets[view].pair_ids(rows_n)]

    def describe(self, steps: int) -> str:
        """Epochs of each view, for people."""
        epochs = self.plan.epochs(steps)
        return "; ".join(f"{n:.2f} epochs of {self.plan.sizes[view]:,} {view} pairs" for view, n in epochs.items())
