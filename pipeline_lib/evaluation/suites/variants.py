"""Variants of a model: its vectors cut to their first dimensions, its texts with the prompts of a task.

N texts, D width, E width of the whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from pipeline_lib.config.model import check_dims
from pipeline_lib.evaluation.suites.models import (
    FINGERPRINT_DIGITS,
    CheckpointEncoder,
    HybridModel,
    Model,
    ModelId,
    Side,
    TextEncoder,
    precision_of,
)
from pipeline_lib.evaluation.suites.outside import ExportEncoder
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of

LEAST_NORM = 1e-12  # as torch's normalize


@dataclass(frozen=True)
class TruncatedModel:
    """The first dimensions of an encoder's vectors, of length 1 again; the encoder's own are computed, and cached, whole.

    Raises:
        UserError: at the first text: the vectors have fewer.
    """

    encoder: TextEncoder
    dim: int

    @property
    def id(self) -> ModelId:
        """Named NAME@DIM; it is no checkpoint of a run's curve."""
        own = self.encoder.id
        return ModelId(f"{own.name}@{self.dim}", digest_of([own.fingerprint, self.dim])[:FINGERPRINT_DIGITS])

    @property
    def precision(self) -> Precision:
        """The precision of the encoder's matrix products."""
        return precision_of(self.encoder)

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D)."""
        whole_NE = self.encoder.encode(texts, side, progress)
        check_dims([self.dim], whole_NE.shape[1], self.id.name)
        vectors_ND = whole_NE[:, : self.dim]
        # a prefix of zeros has no direction, and stays one
        return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), LEAST_NORM)


def for_task(model: Model, *names: str) -> Model:
    """The model with the prompts of the first of these tasks that has some; a model that knows of none as it is."""
    if isinstance(model, HybridModel | TruncatedModel):
        return replace(model, encoder=cast(TextEncoder, for_task(model.encoder, *names)))
    return model.for_task(*names) if isinstance(model, CheckpointEncoder | ExportEncoder) else model


def truncated(model: TextEncoder, dim: int | None) -> TextEncoder:
    """The model as it is published: with its first dimensions alone, where so many are asked for."""
    return TruncatedModel(model, dim) if dim else model
