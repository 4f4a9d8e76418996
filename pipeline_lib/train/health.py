"""When a run has gone wrong for good, and going on would only cost: what is not finite, or has collapsed.

N embeddings of one side of a global batch, n of them looked at, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline_lib.train.metrics import StepMetrics
from pipeline_lib.train.sharding import own
from pipeline_lib.train_config import OptimizerConfig, TrainConfig

FINITE_ADVICE = "a lower learning_rate or clip_norm, or float32"
SAMPLED_ROWS = 96  # a symmetric eigenvalue problem of this size takes about a millisecond


class Trouble(NamedTuple):
    """Why a run has to stop."""

    name: str  # of the file that lists the step's pairs
    what: str
    advice: str


@torch.no_grad()
def effective_rank(emb_ND: Tensor) -> float:
    """How many dimensions the embeddings fill: exp of the entropy of their singular values' shares (Roy and Vetterli, 2007).

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


def trouble_of(metrics: StepMetrics, rank: float | None, config: OptimizerConfig, not_finite: str = "") -> Trouble | None:
    """What is wrong with a step, before it is taken; None where nothing is.

    A collapse is judged after the warm-up only: a given language model's first embeddings may all point nearly the same way.

    Args:
        metrics: of the step.
        rank: effective, of the side whose embeddings fill fewer dimensions.
        config: with the limits.
        not_finite: which embeddings are not.
    """
    embeddings = not_finite or ("embeddings are not finite" if rank is not None and math.isnan(rank) else "")
    if found := [*([embeddings] if embeddings else []), *metrics.not_finite]:
        return Trouble("not_finite", f"{', '.join(found)}, expected finite ones", FINITE_ADVICE)
    if not isinstance(config, TrainConfig) or metrics.step <= config.warmup_steps:
        return None
    if rank is not None and rank < config.min_effective_rank:
        what = f"the embeddings have collapsed: effective rank {rank:.3f}, expected at least {config.min_effective_rank}"
        return Trouble("collapsed", what, "a lower learning_rate, more warmup_steps or a larger batch")
    if config.train_temperature and metrics.temperature is not None and metrics.temperature > config.max_temperature:
        what = f"the temperature has collapsed: {metrics.temperature:.3f}, expected at most {config.max_temperature}"
        return Trouble("collapsed", what, "a lower scale_learning_rate, or train_temperature=false")
    return None
