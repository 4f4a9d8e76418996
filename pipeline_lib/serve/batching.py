"""Dynamic batching: what is asked within a few milliseconds is answered by one call, in a few threads.

A request that comes alone does not wait: waiting begins where others are under way that may still come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline_lib.serve.figures import Figures

Asked = TypeVar("Asked", bound=Hashable)
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """A queue in front of a few threads; all but `answer` runs in the event loop's thread.

    Args:
        answer: of several askings the answers in their order; an exception in its place fails that one alone.
        pool: its threads.
        threads: how many there are.
        size: askings of one call, at most.
        wait_seconds: how long an asking waits for others.
        under_way: askings that have arrived and are not answered, whether or not they have come here yet.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answer | Exception]],
        pool: ThreadPoolExecutor,
        threads: int,
        size: int,
        wait_seconds: float,
        under_way: Callable[[], int],
    ) -> None:
        self._answer, self._pool, self._free = answer, pool, threads
        self._size, self._wait_seconds, self._under_way = size, wait_seconds, under_way
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer], float]] = deque()
        self._at_work = 0  # askings in threads
        self._timer: asyncio.TimerHandle | None = None
        self._observe: Callable[[float], object] = bool  # the size of a batch, to nobody yet

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, asked: Asked) -> Answer:
        """The answer to one; whoever is cancelled meanwhile is not answered."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((asked, future, loop.time()))
        self._look()
        return await future

    def watch(self, figures: Figures) -> None:
        """Show the length of the queue and the sizes of batches."""
        figures.queue(self.__len__)
        self._observe = figures.batches.observe

    def _look(self) -> None:
        """Begin what can begin, and come back when the oldest has waited long enough."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._free and self._waiting:
            if self._waiting[0][1].done():  # cancelled
                self._waiting.popleft()
                continue
            waited = loop.time() - self._waiting[0][2]
            to_come = self._under_way() - self._at_work - len(self._waiting)
            if len(self._waiting) < self._size and to_come > 0 and waited < self._wait_seconds:
                self._timer = loop.call_later(self._wait_seconds - waited, self._look)
                return
            self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch: dict[Asked, list[asyncio.Future[Answer]]] = {}
        while self._waiting and len(batch) < self._size:
            asked, future, _ = self._waiting.popleft()
            if not future.done():
                batch.setdefault(asked, []).append(future)
        if not batch:
            return
        n_askings = sum(map(len, batch.values()))
        self._free -= 1
        self._at_work += n_askings
        self._observe(n_askings)
        done = loop.run_in_executor(self._pool, self._answer, list(batch))

        def told(done: asyncio.Future[Sequence[Answer | Exception]]) -> None:
            self._free += 1
            self._at_work -= n_askings
            error = done.exception()
            answers: Sequence[Answer | Exception] = [error] * len(batch) if isinstance(error, Exception) else done.result()
            for futures, answer in zip(batch.values(), answers, strict=True):
                for future in futures:
                    if not future.done():
                        _tell(future, answer)
            self._look()

        done.add_done_callback(told)


def _tell(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
