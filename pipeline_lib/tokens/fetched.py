"""Things that are fetched before they are asked for, several at a time, and given up when they take too much room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

FETCHES = 16  # at a time: with 50 ms of latency, 320 files a second


class Fetched(Generic[T]):
    """Numbered things with a known size, of which some are here or on their way.

    Args:
        fetch: brings one; called in threads.
        give_up: takes one away again.
        sizes: bytes of each.
        max_bytes: room for those that are here; more is taken only for what is needed now.
    """

    def __init__(self, fetch: Callable[[int], T], give_up: Callable[[int], None], sizes: Sequence[int], max_bytes: int) -> None:
        self._fetch, self._give_up = fetch, give_up
        self._sizes, self._max_bytes = sizes, max_bytes
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._here: dict[int, Future[T]] = {}
        self._needed_until: dict[int, int] = {}  # the last step known to need it
        self._bytes = 0

    def want(self, numbers: Iterable[int], step: int, now: int) -> bool:
        """Start to fetch what a step needs. Returns whether there was room without giving up what is needed until then.

        Args:
            step: that needs them.
            now: the step that is being read: what was last needed before it may go.
        """
        with self._lock:
            for number in numbers:
                if number not in self._here and not self._make_room(self._sizes[number], now) and step > now:
                    return False
                self._start(number)
                self._needed_until[number] = max(step, self._needed_until.get(number, step))
        return True

    def get(self, number: int) -> T:
        """The thing itself; waits for it where it is not here. Raises what `fetch` raises, and tries again the next time."""
        with self._lock:
            waiting = self._start(number)
        try:
            return waiting.result()
        except Exception:
            with self._lock:
                self._forget(number)
            raise

    def _start(self, number: int) -> Future[T]:
        if number not in self._here:
            self._here[number] = self._pool.submit(self._fetch, number)
            self._bytes += self._sizes[number]
        return self._here[number]

    def _make_room(self, size: int, now: int) -> bool:
        for number in sorted(self._here, key=lambda number: self._needed_until.get(number, -1)):
            if self._bytes + size <= self._max_bytes or self._needed_until.get(number, -1) >= now:
                break
            if self._here[number].done():
                self._forget(number)
                self._give_up(number)
        return self._bytes + size <= self._max_bytes

    def _forget(self, number: int) -> None:
        if self._here.pop(number, None) is not None:
            self._bytes -= self._sizes[number]
            self._needed_until.pop(number, None)
