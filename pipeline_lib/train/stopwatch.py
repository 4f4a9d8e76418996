"""What of a step is not the model's arithmetic, by the wall clock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by name since the last `lap`. On a GPU, which works behind the clock's back, only waiting is seen."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add what was timed elsewhere."""
        self._seconds[name] += seconds

    def lap(self) -> dict[str, float]:
        """All since the last lap, and begin anew."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
