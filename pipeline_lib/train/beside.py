"""One piece of work at a time in a thread beside the steps: the saving of a state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """Runs what it is given in a thread of its own, one after the other.

    Args:
        enabled: False: in the caller's thread, at once.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self._pending: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; waits for what was begun before. Raises what that raised."""
        self.wait()
        if self._enabled:
            self._pending = self._pool.submit(work)
        else:
            work()

    def settle(self) -> BaseException | None:
        """Until all is done; returns what it raised."""
        pending, self._pending = self._pending, None
        return pending.exception() if pending is not None else None

    def wait(self) -> None:
        """Until all is done. Raises what it raised."""
        if error := self.settle():
            raise error
