"""What suites ask of a model, the same for encoders and lexical baselines: a pair's similarity, and features of texts.

N texts or pairs, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline_lib.evaluation.metrics import require_finite
from pipeline_lib.evaluation.suites.models import Model, Side, TextEncoder, WordModel
from pipeline_lib.runtime.progress import Progress, silent

COSINE_DECIMALS = 6  # float32 products of equal vectors differ by 1e-7, and must tie


def embedded(model: TextEncoder, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
    """Vectors of the texts, float32 (N, D).

    Raises:
        UserError: one is not finite; the message names the model and the first text.
    """
    vectors_ND = model.encode(texts, side, progress)
    require_finite(vectors_ND, model.id.name, f"the embedding on the {side} side", texts)
    return vectors_ND


def pair_similarity(model: Model, left: Sequence[str], right: Sequence[str], progress: Progress = silent) -> np.ndarray:
    """A score of each pair, float64 (N,): the cosine of two x embeddings, or the lexical model's own."""
    if isinstance(model, WordModel):
        return np.asarray(model.similarity(left, right), np.float64)
    both_ND = embedded(model, [*left, *right], "x", progress)
    n = len(left)
    return np.round((both_ND[:n] * both_ND[n:]).sum(1, dtype=np.float64), COSINE_DECIMALS)


def probe_features(model: Model, train: Sequence[str], test: Sequence[str], progress: Progress = silent) -> tuple[Any, Any]:
    """Rows of training and test texts, dense (N, D) or sparse."""
    if isinstance(model, WordModel):
        return model.features(train, test)
    both_ND = embedded(model, [*train, *test], "x", progress)
    return both_ND[: len(train)], both_ND[len(train) :]
