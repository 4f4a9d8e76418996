"""Whether a run's layers are compiled."""

from __future__ import annotations

import os
import shutil

from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train_config import TrainConfig

AUTO_STEPS = 1_000  # of which the minute of compiling is a small part


def should_compile(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> bool:
    """What `compile` comes to for this model and machine.

    Raises:
        UserError: "on", where it cannot be.
    """
    if config.compile == "off":
        return False
    obstacle = _obstacle(config, encoder, ranks)
    if config.compile == "auto":
        return not obstacle and ranks.device.type == "cuda" and config.steps >= AUTO_STEPS
    if obstacle:
        raise UserError(f"train.compile is on, but {obstacle}; take compile=off")
    return True


def _obstacle(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> str:
    if not encoder.lean:
        return "only a GPT-2 that is pooled at its last token is compiled"
    if config.parallel == "fsdp" and ranks.size > 1:
        return "weights that are cut over processes (parallel=fsdp) are gathered between layers"
    if encoder.packed and ranks.device.type == "cpu":
        return "attention=packed is computed here length by length, each with a shape of its own"
    if ranks.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        return "this machine has no C++ compiler (g++, or the one that CXX names)"
    return ""
