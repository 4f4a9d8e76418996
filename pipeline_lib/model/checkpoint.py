"""One checkpoint of a training run, with all that is needed to embed with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline_lib.artifact import Artifact, Store
from pipeline_lib.config import ShardConfig
from pipeline_lib.errors import UserError


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

    @property
    def name(self) -> str:
        """TRAINKEY/step-000400."""
        return f"{self.trained.manifest.key}/{self.label}"


def open_checkpoint(store: Store, name: str) -> Checkpoint:
    """The checkpoint TRAINKEY/step-000400 with the tokenizer and the lengths of its run, which the run's inputs name.

    Raises:
        UserError: there is no such run or checkpoint, or what it was made from is gone.
    """
    key, _, label = name.rpartition("/")
    if not key:
        raise UserError(f"checkpoint {name!r}: expected TRAINKEY/step-000400, as `cpt train` prints its key")
    trained = store.open("train", key)
    trained.part(label)
    shards, tokenizer = (_by_digest(store, stage, trained.manifest.inputs[stage]) for stage in ("shards", "tokenizer"))
    return Checkpoint(trained, label, tokenizer, ShardConfig.model_validate(shards.manifest.config))


def _by_digest(store: Store, stage: str, digest: str) -> Artifact:
    for found in store.artifacts(stage):
        if found.digest == digest:
            return found
    raise UserError(f"{store.place}: no artifact {stage} of content {digest[:12]}, which the checkpoint was made from")
