"""Prefixes of vectors (Matryoshka, arXiv 2205.13147): cut, of length 1 again, and a loss over several of them.

B pairs of the global batch, K candidates, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline_lib.errors import UserError

SidesLoss = Callable[[Tensor, Tensor], Tensor]
DIM_FIELD = "cpt_truncate_dim"  # of config.json, where an export has fewer dimensions than its weights give


def prefix(vectors_ND: Tensor, dim: int) -> Tensor:
    """The first `dim` dimensions, of length 1 again."""
    return F.normalize(vectors_ND if dim == vectors_ND.shape[1] else vectors_ND[:, :dim], dim=-1)


def over_prefixes(loss_of: SidesLoss, x_BD: Tensor, y_KD: Tensor, weighted: Sequence[tuple[int, float]]) -> Tensor:
    """Sum of the loss of each prefix of both sides, times its weight; of the whole vectors where no prefix is named.

    A sum of losses that are sums over ranks is one itself, and so are its gradients.

    Args:
        loss_of: the loss of unit vectors of any width.
        weighted: dimensions and weight of each prefix.
    """
    if not weighted:
        return loss_of(x_BD, y_KD)
    terms = [weight * loss_of(prefix(x_BD, dim), prefix(y_KD, dim)) for dim, weight in weighted]
    return sum(terms[1:], terms[0])


def truncated_to(backbone: nn.Module, width: int) -> int:
    """Dimensions of a model's vectors, by its config.json: all that its weights give where that says nothing.

    Raises:
        UserError: it says what cannot be.
    """
    dim = getattr(backbone.config, DIM_FIELD, None)
    if dim is None:
        return width
    if type(dim) is not int or not 1 <= dim <= width:
        raise UserError(f"config.json: {DIM_FIELD} is {dim!r}, expected 1 to {width}")
    return dim
