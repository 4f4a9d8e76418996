"""Which tokens a sample loses depends on the sample, the step and the seed; on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.train.batches import drop_tokens

X_OPEN, X_CLOSE = 900, 901
texts = st.lists(st.lists(st.integers(0, 800), max_size=12), min_size=1, max_size=8)


def wrap(bodies: list[list[int]]) -> list[np.ndarray]:
    return [np.array([X_OPEN, *body, X_CLOSE], dtype=np.int32) for body in bodies]


@settings(deadline=None, max_examples=60)
@given(texts, st.floats(0, 0.5), st.integers(0, 1000))
def test_delimiters_stay_and_no_text_is_emptied(bodies: list[list[int]], share: float, step: int) -> None:
    ids = wrap(bodies)
    kept = drop_tokens(ids, np.arange(len(ids)), share, (step,))
    assert len(kept) == len(ids)
    for before, after in zip(ids, kept, strict=True):
        assert (after[0], after[-1]) == (X_OPEN, X_CLOSE)
        assert len(after) > 2 or len(before) == 2
        remaining = iter(before.tolist())
        assert all(token in remaining for token in after.tolist()), "not a subsequence"


@settings(deadline=None, max_examples=40)
@given(texts, st.randoms(use_true_random=False))
def test_a_sample_loses_the_same_tokens_whoever_stands_beside_it(bodies: list[list[int]], chance) -> None:
    ids, rows = wrap(bodies), np.arange(len(bodies)) * 7
    together = drop_tokens(ids, rows, 0.4, (3, "code", "x"))
    order = list(range(len(ids)))
    chance.shuffle(order)
    for place in order:
        (alone,) = drop_tokens([ids[place]], rows[[place]], 0.4, (3, "code", "x"))
        assert np.array_equal(alone, together[place])


def test_the_share_is_met_and_other_streams_differ() -> None:
    ids, rows = wrap([list(range(100))] * 400), np.arange(400)
    first, second = (drop_tokens(ids, rows, 0.3, (1, step, "code", "y")) for step in (0, 1))
    lost = 1 - np.mean([len(sequence) - 2 for sequence in first]) / 100
    assert abs(lost - 0.3) < 0.045  # five standard errors of 400 shares
    shares = 1 - np.array([len(sequence) - 2 for sequence in first]) / 100
    assert shares.min() < 0.05 and shares.max() > 0.5 and 0.15 < shares.std() < 0.21, "not evenly from 0 to 0.6"
    assert sum(np.array_equal(a, b) for a, b in zip(first, second, strict=True)) < 10  # both nearly whole
    assert len({tuple(sequence.tolist()) for sequence in first}) > 380
    positions = np.bincount(np.concatenate(first), minlength=100)[:100] / 400
    assert positions.min() > 0.55, "a position is dropped more often than the others"


def test_nothing_is_dropped_at_share_zero() -> None:
    ids = wrap([[1, 2], [3]])
    assert all(a is b for a, b in zip(drop_tokens(ids, np.arange(2), 0.0, ()), ids, strict=True))


def test_all_delimiters_stay_however_many() -> None:
    ids = [np.array([X_OPEN, X_OPEN + 7, *range(n), X_CLOSE], dtype=np.int32) for n in (0, 1, 50, 200)]
    for step in range(40):
        for before, after in zip(ids, drop_tokens(ids, np.arange(4), 0.5, (step,), (2, 1)), strict=True):
            assert (*after[:2], after[-1]) == (X_OPEN, X_OPEN + 7, X_CLOSE)
            assert len(after) > 3 or len(before) == 3
    bare = [np.arange(60, dtype=np.int32)]
    assert any(drop_tokens(bare, np.arange(1), 0.5, (step,), (0, 0))[0][0] != 0 for step in range(40))
