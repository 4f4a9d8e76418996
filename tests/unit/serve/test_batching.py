"""Batches: each asking gets its own answer, what comes together is answered together, and one at fault fails alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline_lib.serve.batching import Batcher


class Doubling:
    """Twice each number; remembers what came together, and waits until it may go on."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.calls.append(list(numbers))
        self.go.wait(10)
        return [ValueError("odd") if number % 2 else 2 * number for number in numbers]


def run(make: Callable[[Batcher[int, int]], Coroutine[Any, Any, Any]], answer: Doubling, **changes: Any) -> Any:
    """What comes of a coroutine that asks a batcher of one thread."""

    async def ask() -> Any:
        given = {"threads": 1, "size": 8, "wait_seconds": 0.05, "under_way": lambda: 0} | changes
        with ThreadPoolExecutor(given["threads"]) as pool:
            return await make(Batcher(answer, pool, **given))

    return asyncio.run(ask())


def test_what_comes_together_is_answered_together_and_equal_askings_once() -> None:
    answer = Doubling()

    async def ask(batcher: Batcher[int, int]) -> list[int]:
        return await asyncio.gather(*(batcher.ask(number) for number in (2, 4, 2, 6)))

    assert run(ask, answer, under_way=lambda: 4) == [4, 8, 4, 12]
    assert answer.calls == [[2, 4, 6]]


def test_who_comes_alone_does_not_wait() -> None:
    began = time.monotonic()
    assert run(lambda batcher: batcher.ask(2), Doubling(), wait_seconds=30, under_way=lambda: 1) == 4
    assert time.monotonic() - began < 10


def test_who_waits_for_others_that_do_not_come_waits_as_long_as_is_said() -> None:
    began = time.monotonic()
    assert run(lambda batcher: batcher.ask(2), Doubling(), wait_seconds=0.2, under_way=lambda: 5) == 4
    assert 0.2 <= time.monotonic() - began < 10


def test_a_batch_has_a_bound() -> None:
    answer = Doubling()

    async def ask(batcher: Batcher[int, int]) -> list[int]:
        return await asyncio.gather(*(batcher.ask(2 * number) for number in range(20)))

    assert run(ask, answer, under_way=lambda: 20) == [4 * number for number in range(20)]
    assert max(map(len, answer.calls)) == 8 and sum(map(len, answer.calls)) == 20


def test_one_at_fault_fails_alone() -> None:
    async def ask(batcher: Batcher[int, int]) -> list[Any]:
        return await asyncio.gather(*map(batcher.ask, (2, 3, 4)), return_exceptions=True)

    two, three, four = run(ask, Doubling(), under_way=lambda: 3)
    assert (two, four) == (4, 8) and isinstance(three, ValueError)


def test_a_call_that_breaks_tells_everybody_and_frees_its_thread() -> None:
    def breaks(numbers: Sequence[int]) -> list[int]:
        if 2 in numbers:
            raise RuntimeError("broken")
        return list(numbers)

    async def ask(batcher: Batcher[int, int]) -> list[Any]:
        told = await asyncio.gather(*map(batcher.ask, (2, 4)), return_exceptions=True)
        return [*told, await batcher.ask(6)]

    *told, after = run(ask, breaks, under_way=lambda: 2)  # type: ignore[arg-type]
    assert [str(one) for one in told] == ["broken", "broken"] and after == 6


def test_who_gave_up_while_waiting_is_not_answered() -> None:
    answer = Doubling()

    async def ask(batcher: Batcher[int, int]) -> int:
        answer.go.clear()
        first = asyncio.create_task(batcher.ask(2))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.ask(4))
        await asyncio.sleep(0.05)
        assert len(batcher) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        answer.go.set()
        await first
        return await batcher.ask(6)

    assert run(ask, answer) == 12
    assert answer.calls == [[2], [6]]
