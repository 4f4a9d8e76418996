"""One checkpoint of a training run, with all that is needed to embed with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline_lib.artifact import Artifact
from pipeline_lib.config import ShardConfig


@dataclass(frozen=True)
class Checkpoint:
    """A part of a `train` artifact, its tokenizer, and the lengths that it saw in training."""

    trained: Artifact
    label: str
    tokenizer: Artifact
    shards: ShardConfig

    @property
    def step(self) -> int:
        """The optimizer step in the label; 0 for a model without one."""
        found = re.fullmatch(r"step-(\d+)", self.label)
        return int(found[1]) if found else 0

    def max_tokens(self, side: str) -> int:
        """Longest row of side "x" or "y", delimiters included."""
        return {"x": self.shards.max_x_tokens, "y": self.shards.max_y_tokens}[side]
