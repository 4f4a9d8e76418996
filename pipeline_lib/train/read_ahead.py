"""The next steps' batches are read while this one computes: the order is arithmetic, so that what comes next is known."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """One thread that reads some batches ahead.

    Args:
        read: a step's number to its batch; a pure function, so that reading early changes nothing.
        steps: of the run; nothing is read beyond them.
        depth: batches that wait at most: a slow one is hidden behind so many steps.
    """

    def __init__(self, read: Callable[[int], T], steps: int, depth: int = 1) -> None:
        self._read = read
        self._steps = steps
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._waiting: deque[tuple[int, Future[T]]] = deque()
        self.wait_seconds = 0.0  # that the last `get` took

    def get(self, step: int) -> T:
        """The batch of a step; later ones are being read when this returns. Raises what `read` raises for this step."""
        start = time.monotonic()
        if not self._waiting or self._waiting[0][0] != step:
            self._restart(step)
        batch = self._waiting.popleft()[1].result()
        self.wait_seconds = time.monotonic() - start
        for later in range(step + 1 + len(self._waiting), min(step + 1 + self._depth, self._steps)):
            self._waiting.append((later, self._pool.submit(self._read, later)))
        return batch

    def _restart(self, step: int) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting = deque([(step, self._pool.submit(self._read, step))])
