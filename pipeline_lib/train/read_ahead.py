"""The next step's batch is read while this one computes: the order is arithmetic, so that what comes next is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """One thread that reads one batch ahead.

    Args:
        read: a step's number to its batch; a pure function, so that reading early changes nothing.
        steps: of the run; nothing is read beyond them.
    """

    def __init__(self, read: Callable[[int], T], steps: int) -> None:
        self._read = read
        self._steps = steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._waiting: tuple[int, Future[T]] | None = None
        self.wait_seconds = 0.0  # that the last `get` took

    def get(self, step: int) -> T:
        """The batch of a step; the next one's is being read when this returns. Raises what `read` raises for this step."""
        start = time.monotonic()
        if self._waiting is None or self._waiting[0] != step:
            self._waiting = (step, self._pool.submit(self._read, step))
        batch = self._waiting[1].result()
        self.wait_seconds = time.monotonic() - start
        self._waiting = (step + 1, self._pool.submit(self._read, step + 1)) if step + 1 < self._steps else None
        return batch
