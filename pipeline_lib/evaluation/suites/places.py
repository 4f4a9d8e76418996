"""Where each text's vector lies: 28 bytes a text, so that the places of tens of millions fit into memory.

N texts. A place is (segment, row); segments are numbered by their owner.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NOWHERE = -1


class _Run(NamedTuple):
    """Places sorted by the first half of their hash."""

    first: np.ndarray
    second: np.ndarray
    segment: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, hashes_N2: np.ndarray, segment: np.ndarray, row: np.ndarray) -> _Run:
        order_N = np.argsort(hashes_N2[:, 0], kind="stable")
        return cls(hashes_N2[order_N, 0], hashes_N2[order_N, 1], segment[order_N], row[order_N])


class Places:
    """Hashes to places. Runs are merged as they grow alike, so that a text is moved some log N times in all."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, hashes_N2: np.ndarray, segment: int) -> None:
        """The texts of one segment, in the order of its rows."""
        n = len(hashes_N2)
        self._runs.append(_Run.of(hashes_N2, np.full(n, segment, np.int32), np.arange(n, dtype=np.int64)))
        while len(self._runs) > 1 and len(self._runs[-2].first) <= 2 * len(self._runs[-1].first):
            a, b = self._runs[-2:]
            hashes = np.stack([np.concatenate([a.first, b.first]), np.concatenate([a.second, b.second])], axis=1)
            self._runs[-2:] = [_Run.of(hashes, np.concatenate([a.segment, b.segment]), np.concatenate([a.row, b.row]))]

    def find(self, hashes_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment and row of each text; the segment is -1 where there is none."""
        segment_N, row_N = np.full(len(hashes_N2), NOWHERE, np.int64), np.zeros(len(hashes_N2), np.int64)
        for run in self._runs:
            if len(run.first):
                at_N = np.minimum(np.searchsorted(run.first, hashes_N2[:, 0]), len(run.first) - 1)
                there_N = (run.first[at_N] == hashes_N2[:, 0]) & (run.second[at_N] == hashes_N2[:, 1])
                segment_N[there_N], row_N[there_N] = run.segment[at_N[there_N]], run.row[at_N[there_N]]
        return segment_N, row_N
