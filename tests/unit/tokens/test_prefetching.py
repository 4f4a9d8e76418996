"""What is fetched ahead is here in time, and no more is kept than there is room for."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline_lib.tokens.dataset import PrefetchingCache


class Far:
    """Numbered things, 10 bytes each, some way off."""

    def __init__(self, room: int, seconds: float = 0.0) -> None:
        self.fetched: list[int] = []
        self.given_up: list[int] = []
        self.most = 0
        self.seconds = seconds
        self.lock = threading.Lock()
        self.near = PrefetchingCache(self.fetch, self.given_up.append, [10] * 100, room)

    def fetch(self, number: int) -> str:
        time.sleep(self.seconds)
        with self.lock:
            self.fetched.append(number)
            self.most = max(self.most, len(self.fetched) - len(self.given_up))
        return f"thing {number}"


def test_what_was_wanted_is_here_when_it_is_asked_for() -> None:
    far = Far(room=1000, seconds=0.05)
    assert far.near.want(range(16), step=1, now=0)
    time.sleep(0.2)
    begin = time.monotonic()
    assert [far.near.get(number) for number in range(16)] == [f"thing {number}" for number in range(16)]
    assert time.monotonic() - begin < 0.05 and sorted(far.fetched) == list(range(16))


def test_no_more_is_kept_than_there_is_room_for_and_the_oldest_goes_first() -> None:
    far = Far(room=50)
    for step in range(20):
        assert far.near.want([step, step + 1], step, now=step)
        assert far.near.get(step) == f"thing {step}"
        far.near.get(step + 1)
    assert sorted(far.fetched) == list(range(21))  # once each; two threads fetch, and the second may be the faster
    assert far.given_up == list(range(16)) and far.most <= 5


def test_looking_ahead_takes_no_room_from_what_is_needed_before() -> None:
    far = Far(room=30)
    assert far.near.want([0, 1], step=0, now=0)
    assert far.near.want([2], step=1, now=0)
    assert not far.near.want([3], step=2, now=0)
    assert far.near.get(2) == "thing 2" and 3 not in far.fetched and not far.given_up
    assert far.near.want([3], step=2, now=1)  # 0 and 1 were needed until step 0
    assert far.near.get(3) == "thing 3" and far.given_up == [0]


def test_what_is_needed_now_is_fetched_even_beyond_the_room() -> None:
    far = Far(room=20)
    assert far.near.want(range(5), step=0, now=0)
    assert [far.near.get(number) for number in range(5)] == [f"thing {number}" for number in range(5)]


def test_a_failed_fetch_is_told_and_tried_again() -> None:
    tries: list[int] = []

    def fetch(number: int) -> int:
        tries.append(number)
        if len(tries) == 1:
            raise OSError("the network is away")
        return number

    near = PrefetchingCache(fetch, tries.append, [1] * 3, 10)
    near.want([2], 0, 0)
    with pytest.raises(OSError, match="the network is away"):
        near.get(2)
    assert near.get(2) == 2
