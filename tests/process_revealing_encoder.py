"""An encoder that other processes can import: what is sent to them is found by its module's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline_lib.evaluation.suites.models import ModelId


class ProcessRevealingEncoder:
    """Vectors that say which text and which process they come from."""

    id = ModelId("length", "length")

    def encode(self, texts: Sequence[str], side: str, progress: Any = None) -> np.ndarray:
        return np.array([[len(text), hash_of(text), os.getpid()] for text in texts], np.float32).reshape(-1, 3)


def hash_of(text: str) -> int:
    return sum(map(ord, text)) % 1000
