"""Whose turn it is, where every global batch is drawn from one dataset: arithmetic on (key, step), like all of the order.

Batches come in rounds. A round gives each dataset the batches that its weight asks for, in an order of the round's own; so
how many batches a dataset had before a step is arithmetic too, and a run goes on at any step without a state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.tokens.permutation import Indices, key_of, permute

ROUND = 100  # batches: shares of whole per cents are kept exactly
LONGEST_ROUND = 10_000


@dataclass(frozen=True)
class Turns:
    """The order in which datasets take their turns.

    Attributes:
        shares: batches of each dataset in a round.
        key: another key is another order.
    """

    shares: Mapping[str, int]
    key: int

    @classmethod
    def by_weight(cls, weights: Mapping[str, float], key: int) -> Turns:
        """A round is as long as the smallest weight needs to have a batch in it.

        Raises:
            UserError: that would be a round of over 10,000 batches.
        """
        rarest = min(weights, key=lambda name: weights[name])
        fewest = sum(weights.values()) / weights[rarest]
        if fewest > LONGEST_ROUND:
            raise UserError(
                f"mixture: {rarest} would have one batch in {fewest:,.0f}, expected one in {LONGEST_ROUND:,} at least; "
                "raise its weight or take batches_from=mixed"
            )
        return cls(by_largest_remainder(weights, max(ROUND, math.ceil(fewest))), key)

    def at(self, step: int) -> tuple[str, int]:
        """The dataset of batch `step`, from 0, and how many batches it had before."""
        names = list(self.shares)
        number, place = divmod(step, self._length)
        turn = int(self._order(number)[place])
        return names[turn], self.before(step)[names[turn]]

    def before(self, step: int) -> dict[str, int]:
        """Batches of each dataset among the first `step`."""
        number, place = divmod(step, self._length)
        in_this = np.bincount(self._order(number)[:place], minlength=len(self.shares)).tolist()
        return {name: number * share + n for (name, share), n in zip(self.shares.items(), in_this, strict=True)}

    @property
    def _length(self) -> int:
        return sum(self.shares.values())

    def _order(self, number: int) -> Indices:
        return _shuffled(tuple(self.shares.values()), key_of(self.key, number))


@lru_cache(maxsize=4)
def _shuffled(shares: tuple[int, ...], key: int) -> Indices:
    """Each dataset's number as often as its share, in the key's order."""
    turns = np.repeat(np.arange(len(shares)), shares)
    return turns[permute(np.arange(len(turns)), np.full(len(turns), len(turns)), np.full(len(turns), key, dtype=np.uint64))]


def by_largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole shares in proportion to the weights that add up to the total; ties by name."""
    quotas = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    shares = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (shares[name] - quotas[name], name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares
