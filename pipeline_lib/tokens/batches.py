"""Order of the global batches: arithmetic on (seed, step, dataset digest), no state but the step.

Each view of pairs is an endless stream of epochs. An epoch is a permutation of blocks of consecutive rows, then of the rows
within each window of W blocks, so that reads stay near each other; a window that covers all blocks is a full permutation.
The permutations are keyed Feistel networks: one row's place costs the same whatever the size of the data, and the bits are
ours on every machine.

A batch mixes the views by their weights, or comes whole from one of them by weighted interleaving: batches come in rounds, and
a round gives each view the batches that its weight asks for, in an order of its own. How many batches a view had before a step
is arithmetic too, and a run goes on at any step without a state.

Legend: N rows of a view, R ranks, n rows of one view in a batch (its share), P pairs, or places of a permutation.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.config.training import check_divides
from pipeline_lib.errors import UserError

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

FEISTEL_ROUNDS = 6


def permute(index: Indices, size: Indices, key: Words) -> Indices:
    """Images of indices under keyed permutations of 0 ... size - 1: a Feistel network, walked until it lands inside.

    Args:
        index: (P,) with 0 <= index < size.
        size: (P,) lengths of the permutations.
        key: (P,) which permutation; equal keys and sizes are one permutation.
    """
    highest = np.maximum(size.astype(np.uint64), np.uint64(2)) - np.uint64(1)
    half = (_bit_length(highest) + np.uint64(1)) // np.uint64(2)
    out = index.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):  # the network's domain is at most 4 times the size: 4 turns on average, at most
        out[walking] = _feistel(out[walking], half[walking], key[walking])
        walking = walking[out[walking] >= size[walking].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(value: Words, half: Words, key: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for turn in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (mix(right ^ mix(key + np.uint64(turn))) & mask)
    return (left << half) | right


def mix(value: Words) -> Words:
    """splitmix64's finaliser: 64 bits to 64 bits, each depending on all."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _bit_length(value: Words) -> Words:
    bits = np.zeros(len(value), dtype=np.uint64)
    rest = value.copy()
    while rest.any():
        bits += rest > 0
        rest >>= np.uint64(1)
    return bits


def key_of(*parts: int | str) -> int:
    """63 bits that are a pure function of the parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


ROUND = 100  # batches: shares of whole per cents are kept exactly
LONGEST_ROUND = 10_000


@dataclass(frozen=True)
class WeightedInterleaving:
    """The order in which datasets take their turns.

    Attributes:
        shares: batches of each dataset in a round.
        key: another key is another order.
    """

    shares: Mapping[str, int]
    key: int

    @classmethod
    def by_weight(cls, weights: Mapping[str, float], key: int) -> WeightedInterleaving:
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


BatchesFrom = Literal["mixed", "one_dataset"]


@dataclass(frozen=True)
class BatchPlan:
    """The order of all samples of a run: `rows(step)` is a pure function of these fields.

    A batch that straddles two epochs repeats no row: those of the new epoch's head that the old one's tail has just brought
    change places with the next rows that it has not, within the first n rows of the epoch. Where a view has fewer than
    2 n rows, every epoch is the same permutation instead: any N neighbours of such a stream differ, so that a row comes
    twice in a batch only where N < n, and then as evenly as can be.

    Args:
        sizes: rows of each view.
        mixture: weight of each view; those without rows are left out.
        batch_size: pairs of a global batch, over all ranks.
        seed: another seed is another order.
        digest: content digest of the dataset: another dataset is another run.
        block_rows: consecutive rows that stay in one window.
        window_blocks: blocks that are shuffled row by row; all of them: a full shuffle.
        batches_from: "mixed": every batch has the mixture's shares; "one_dataset": each is of one view, whose turn it is
            by turns.py, and the mixture is the shares of batches.

    Raises:
        UserError: no view has both rows and weight, a view would never have a pair or a turn, or a number is out of range.
    """

    sizes: dict[str, int]
    mixture: dict[str, float]
    batch_size: int
    seed: int
    digest: str
    block_rows: int = 256
    window_blocks: int = 4096
    batches_from: BatchesFrom = "mixed"

    def __post_init__(self) -> None:
        if not any(self.sizes.get(view, 0) > 0 and weight > 0 for view, weight in self.mixture.items()):
            raise UserError(
                f"no view has both rows and weight: rows {self.sizes}, mixture {self.mixture}; "
                "give a source with such pairs or another mixture"
            )
        if min(self.mixture.values()) < 0 or min(self.batch_size, self.block_rows, self.window_blocks) < 1:
            raise UserError(f"a negative weight, or a size below 1: {self}")
        if self.batches_from == "one_dataset":
            _ = self._interleaving
        empty = [view for view, share in self.shares.items() if share == 0]
        if empty:
            raise UserError(
                f"mixture: {', '.join(empty)} would have no pair in a batch of {self.batch_size}, expected one at least; "
                "raise the weight or batch_size, set the weight to 0, or take batches_from=one_dataset"
            )

    @cached_property
    def shares(self) -> dict[str, int]:
        """Rows of each view in every batch that holds it: the mixture's, by largest remainder; or all of a batch."""
        if self.batches_from == "one_dataset":
            return dict.fromkeys(self._weights, self.batch_size)
        return by_largest_remainder(self._weights, self.batch_size)

    def rows(self, step: int) -> dict[str, Indices]:
        """Row numbers (n,) of each view in global batch `step`, from 0."""
        assert step >= 0, f"step {step} is negative"
        if self.batches_from == "one_dataset":
            view, earlier = self._interleaving.at(step)
            return {view: self._stream(view).batch(earlier)}
        return {view: self._stream(view).batch(step) for view in self.shares}

    def epochs(self, step: int) -> dict[str, float]:
        """How often each view's rows have been seen when `step` batches are done."""
        batches = self._interleaving.before(step) if self.batches_from == "one_dataset" else dict.fromkeys(self.shares, step)
        return {view: batches[view] * share / self.sizes[view] for view, share in self.shares.items()}

    @cached_property
    def _weights(self) -> dict[str, float]:
        return {view: w for view, w in sorted(self.mixture.items()) if w > 0 and self.sizes.get(view, 0) > 0}

    @cached_property
    def _interleaving(self) -> WeightedInterleaving:
        return WeightedInterleaving.by_weight(self._weights, key_of(self.seed, self.digest, "turns"))

    def _stream(self, view: str) -> _Stream:
        key = key_of(self.seed, self.digest, view)
        return _Stream(key, self.sizes[view], self.shares[view], self.block_rows, self.window_blocks)


class _Stream:
    """The endless order of one view's rows."""

    def __init__(self, key: int, size: int, share: int, block_rows: int, window_blocks: int) -> None:
        self.key = key
        self.size = size
        self.share = share
        self.block_rows = block_rows
        self.blocks = -(-size // block_rows)
        self.window_blocks = min(window_blocks, self.blocks)
        self.deficit = self.blocks * block_rows - size  # rows that the last block has less than the others

    def batch(self, step: int) -> Indices:
        """Row numbers of the positions step * n to (step + 1) * n of the stream."""
        positions = np.arange(step * self.share, (step + 1) * self.share, dtype=np.int64)
        if self.size < 2 * self.share:
            return self._epoch(0, positions % self.size)
        epoch, start = divmod(step * self.share, self.size)
        inside = positions - epoch * self.size
        rows = self._ordered(epoch, start, inside[inside < self.size])
        if len(rows) == self.share:
            return rows
        return np.concatenate([rows, self._ordered(epoch + 1, 0, inside[inside >= self.size] - self.size)])

    def _ordered(self, epoch: int, first: int, positions: Indices) -> Indices:
        """The rows at these places of an epoch, whose first n places are mended against the epoch before."""
        tail_length = epoch * self.size % self.share  # rows of the straddling batch that the epoch before brings
        if tail_length == 0 or first >= self.share:
            return self._epoch(epoch, positions)
        head = self._epoch(epoch, np.arange(self.share))
        tail = self._epoch(epoch - 1, np.arange(self.size - tail_length, self.size))
        n_head = self.share - tail_length
        seen = np.isin(head, tail)
        clashes = np.flatnonzero(seen[:n_head])
        # of the tail_length places after the head at most tail_length - len(clashes) hold rows of the tail
        spare = n_head + np.flatnonzero(~seen[n_head:])[: len(clashes)]
        head[clashes], head[spare] = head[spare], head[clashes]
        rows = self._epoch(epoch, positions)
        mended = positions < self.share
        rows[mended] = head[positions[mended]]
        return rows

    def _epoch(self, epoch: int, places: Indices) -> Indices:
        """Blocks permuted, the short last one put at a place of its own, then rows permuted inside each window."""
        key = key_of(self.key, epoch)
        short_at = key % self.blocks
        short_window = short_at // self.window_blocks
        window_rows = self.window_blocks * self.block_rows

        after_short = places >= (short_window + 1) * window_rows - self.deficit
        window = (places + np.where(after_short, self.deficit, 0)) // window_rows
        start = window * window_rows - np.where(window > short_window, self.deficit, 0)
        end = np.minimum((window + 1) * window_rows - np.where(window >= short_window, self.deficit, 0), self.size)
        keys = mix(np.uint64(key) ^ mix(window.astype(np.uint64)))
        inside = permute(places - start, end - start, keys)

        # count the missing rows of the short block as if they were there, and every block is alike
        short_ends = (short_at - short_window * self.window_blocks + 1) * self.block_rows - self.deficit
        inside += np.where((window == short_window) & (inside >= short_ends), self.deficit, 0)
        block_at = window * self.window_blocks + inside // self.block_rows
        among_full = block_at - (block_at > short_at)
        full_blocks = max(self.blocks - 1, 1)
        block_keys = np.full(len(places), key_of(key, "blocks"), dtype=np.uint64)
        permuted = permute(np.minimum(among_full, full_blocks - 1), np.full(len(places), full_blocks), block_keys)
        block = np.where(block_at == short_at, self.blocks - 1, permuted)
        return block * self.block_rows + inside % self.block_rows


def split_for_ranks(lengths: NDArray[np.integer], ranks: int) -> list[Indices]:
    """Deal a batch to R ranks: equally many pairs each, and tokens that differ by no more than one pair's.

    The longest go first, in snake order (0 ... R-1, R-1 ... 0): the sums of two ranks differ by at most
    max(lengths) - min(lengths).

    Args:
        lengths: (P,) tokens of each pair, both sides.
        ranks: R; it divides P.

    Returns:
        R arrays of P / R places in the batch.

    Raises:
        UserError: the batch does not divide.
    """
    check_divides(len(lengths), ranks)
    by_length = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").reshape(-1, ranks)
    by_length[1::2] = by_length[1::2, ::-1]
    return [np.ascontiguousarray(column) for column in by_length.T]
