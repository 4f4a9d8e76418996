"""The order of samples: nothing missing, nothing twice, right order, whatever the sizes; and how a batch is cut."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import UserError
from pipeline_lib.tokens.batches import BatchPlan, permute, split_for_ranks

QUICK = settings(deadline=None, max_examples=40)
SIZES = st.integers(1, 150)
PINNED = {0: [79, 50, 95, 75, 94, 39], 16: [81, 84, 87, 82, 8, 85]}


def a_plan(size: int, share: int, block_rows: int = 8, window_blocks: int = 4, seed: int = 1) -> BatchPlan:
    return BatchPlan(
        sizes={"code": size},
        mixture={"code": 1.0},
        batch_size=share,
        seed=seed,
        digest="d",
        block_rows=block_rows,
        window_blocks=window_blocks,
    )


def stream(plan: BatchPlan, steps: int, kind: str = "code") -> np.ndarray:
    return np.concatenate([plan.rows(step)[kind] for step in range(steps)])


@QUICK
@given(SIZES, st.integers(4, 60), st.integers(1, 30), st.integers(1, 20), st.integers(0, 2**40))
def test_each_epoch_holds_every_row_once(size: int, share: int, block: int, window: int, seed: int) -> None:
    plan = a_plan(size, share, block, window, seed)
    rows = stream(plan, 1 + 3 * size // share)
    for epoch in range(3):
        seen = rows[epoch * size : (epoch + 1) * size]
        assert sorted(seen) == list(range(size))


@QUICK
@given(SIZES, st.integers(4, 60), st.integers(1, 30), st.integers(1, 20))
def test_no_batch_holds_a_row_twice_unless_the_data_is_smaller(size: int, share: int, block: int, window: int) -> None:
    plan = a_plan(size, share, block, window)
    for step in range(2 + 4 * size // share):
        counts = Counter(plan.rows(step)["code"].tolist())
        most = -(-share // size)
        assert sum(counts.values()) == share
        assert max(counts.values()) <= most and (share < size or min(counts.values()) >= most - 1)


@QUICK
@given(SIZES, st.integers(1, 60), st.integers(0, 10), st.integers(0, 5))
def test_resuming_at_any_step_gives_the_same_rows(size: int, share: int, stop: int, more: int) -> None:
    plan = a_plan(size, share)
    before = [plan.rows(step)["code"].tolist() for step in range(stop + more + 1)]
    resumed = BatchPlan(**json.loads(json.dumps(asdict(plan))))
    assert resumed == plan
    assert resumed.rows(stop + more)["code"].tolist() == before[-1]
    assert resumed.rows(stop)["code"].tolist() == before[stop]


@QUICK
@given(st.integers(20, 200), st.integers(1, 20), st.integers(1, 6))
def test_an_epoch_goes_window_by_window(size: int, block: int, window: int) -> None:
    rows = stream(a_plan(size, size // 2, block, window), 3)[:size]
    n_blocks = -(-size // block)
    blocks_seen: list[set[int]] = []
    start = 0
    while start < size:
        blocks = set()
        while start < size and len(blocks | {rows[start] // block}) <= window:
            blocks.add(int(rows[start]) // block)
            start += 1
        blocks_seen.append(blocks)
    assert sum(map(len, blocks_seen)) == n_blocks
    assert set.union(*blocks_seen) == set(range(n_blocks))


def test_seed_digest_kind_and_epoch_each_change_the_order() -> None:
    plan = a_plan(1000, 100, block_rows=16, window_blocks=100)
    first = stream(plan, 10).tolist()
    both = replace(plan, sizes={"code": 1000, "text": 1000}, mixture={"code": 1, "text": 1})
    orders = [
        first,
        stream(plan, 20)[1000:].tolist(),
        stream(replace(plan, seed=2), 10).tolist(),
        stream(replace(plan, digest="e"), 10).tolist(),
        stream(both, 20, "text").tolist(),
    ]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


def test_a_window_over_all_blocks_is_a_full_shuffle() -> None:
    """First rows of 200 seeds fall evenly over ten tenths: chi-squared of 9 degrees stays under its 99.9 % point."""
    starts = [int(a_plan(1000, 50, 16, 100, seed).rows(0)["code"][0]) // 100 for seed in range(200)]
    observed = np.bincount(starts, minlength=10)
    assert ((observed - 20) ** 2 / 20).sum() < 27.9
    rows = stream(a_plan(1000, 100, 16, 100), 10)
    assert abs(np.corrcoef(rows, np.arange(1000))[0, 1]) < 0.1


def test_the_order_is_pinned() -> None:
    """Another version of anything must not change what a run reads: these are the rows of the first release."""
    plan = a_plan(100, 6, block_rows=8, window_blocks=4, seed=7)
    assert plan.rows(0)["code"].tolist() == PINNED[0]
    assert plan.rows(16)["code"].tolist() == PINNED[16]  # straddles the first two epochs


def test_a_step_costs_the_same_whatever_the_size() -> None:
    plan = a_plan(10**12, 512, block_rows=1024, window_blocks=1024)
    rows = plan.rows(10**9)["code"]
    assert len(set(rows.tolist())) == 512
    assert rows.min() >= 0 and rows.max() < 10**12


@QUICK
@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.001, 10), min_size=1), st.integers(1, 5000))
def test_shares_follow_the_mixture_and_add_up(mixture: dict[str, float], batch_size: int) -> None:
    try:
        plan = BatchPlan(sizes=dict.fromkeys(mixture, 10), mixture=mixture, batch_size=batch_size, seed=0, digest="")
    except UserError as error:
        assert "would have no pair in a batch" in str(error) and batch_size * min(mixture.values()) / sum(mixture.values()) < 1
        return
    total = sum(mixture.values())
    assert sum(plan.shares.values()) == batch_size
    assert all(abs(share - batch_size * mixture[kind] / total) < 1 + 1e-6 for kind, share in plan.shares.items())


def test_a_view_that_no_batch_would_hold_is_refused() -> None:
    with pytest.raises(UserError, match="text would have no pair in a batch of 8, expected one at least"):
        BatchPlan(sizes={"code": 50, "text": 50}, mixture={"code": 1.0, "text": 0.01}, batch_size=8, seed=0, digest="")


def test_a_view_without_rows_leaves_its_share_to_the_others() -> None:
    plan = BatchPlan(sizes={"code": 50}, mixture={"code": 0.7, "text": 0.3}, batch_size=8, seed=0, digest="")
    assert plan.shares == {"code": 8}
    assert plan.epochs(25) == {"code": 4.0}
    with pytest.raises(UserError, match="no view has both rows and weight"):
        BatchPlan(sizes={"text": 50}, mixture={"code": 1.0}, batch_size=8, seed=0, digest="")


@QUICK
@given(st.integers(1, 300), st.integers(0, 2**63))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    ones = np.ones(size, dtype=np.int64)
    out = permute(np.arange(size), ones * size, ones.astype(np.uint64) * np.uint64(key))
    assert sorted(out.tolist()) == list(range(size))


LENGTHS = st.lists(st.integers(2, 200), min_size=1, max_size=120)


@QUICK
@given(LENGTHS, st.integers(1, 8))
def test_ranks_get_equal_pairs_and_nearly_equal_tokens(lengths: list[int], ranks: int) -> None:
    lengths_P = np.array(lengths[: len(lengths) // ranks * ranks], dtype=np.int32)
    parts = split_for_ranks(lengths_P, ranks)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths_P)))
    assert {len(part) for part in parts} == {len(lengths_P) // ranks}
    tokens = [int(lengths_P[part].sum()) for part in parts]
    assert max(tokens) - min(tokens) <= (int(lengths_P.max() - lengths_P.min()) if len(lengths_P) else 0)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="7 pairs does not divide among 2"):
        split_for_ranks(np.full(7, 5), 2)
