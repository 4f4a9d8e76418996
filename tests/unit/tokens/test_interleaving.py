"""Batches that come from one dataset at a time: each pure, in the weights' proportions, the same wherever a run goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import UserError
from pipeline_lib.tokens.batches import ROUND, BatchPlan, WeightedInterleaving

QUICK = settings(deadline=None, max_examples=40)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 5), min_size=1)


def a_plan(**changes: object) -> BatchPlan:
    plan = BatchPlan(
        sizes={"code": 130, "text": 70},
        mixture={"code": 0.7, "text": 0.3},
        batch_size=16,
        seed=1,
        digest="d",
        block_rows=8,
        window_blocks=4,
        batches_from="one_dataset",
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_every_batch_is_of_one_dataset_in_the_weights_proportions() -> None:
    plan = a_plan()
    batches = [plan.rows(step) for step in range(2 * ROUND)]
    assert all(len(batch) == 1 and len(rows) == 16 for batch in batches for rows in batch.values())
    for begin in (0, ROUND):
        assert Counter(view for batch in batches[begin : begin + ROUND] for view in batch) == {"code": 70, "text": 30}
    first, second = ([*map(tuple, batches[begin : begin + ROUND])] for begin in (0, ROUND))
    assert first != second, "rounds repeat each other"
    longest = max(len(run) for run in "".join("c" if view == ("code",) else "t" for view in first).split("t"))
    assert 3 < longest < 40, "turns are not shuffled"


def test_each_datasets_rows_come_once_an_epoch() -> None:
    plan = a_plan()
    for view, size in plan.sizes.items():
        rows = np.concatenate([found[view] for step in range(3 * ROUND) if view in (found := plan.rows(step))])
        assert plan.epochs(3 * ROUND)[view] == len(rows) / size
        for epoch in range(len(rows) // size):
            assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(size))


@QUICK
@given(WEIGHTS, st.integers(0, 2**62), st.integers(0, 3000))
def test_a_turn_knows_how_many_came_before(weights: dict[str, float], key: int, step: int) -> None:
    turns = WeightedInterleaving.by_weight(weights, key)
    seen = Counter(turns.at(earlier)[0] for earlier in range(max(0, step - 40), step))
    before, start = turns.before(step), turns.before(max(0, step - 40))
    assert sum(before.values()) == step
    assert {name: before[name] - start[name] for name in weights} == {name: seen[name] for name in weights}
    assert turns.at(step)[1] == before[turns.at(step)[0]]


@QUICK
@given(WEIGHTS, st.integers(0, 2**62))
def test_a_round_holds_every_dataset_by_its_weight(weights: dict[str, float], key: int) -> None:
    shares = WeightedInterleaving.by_weight(weights, key).shares
    length, total = sum(shares.values()), sum(weights.values())
    assert min(shares.values()) >= 1
    assert all(abs(shares[name] - length * weight / total) < 1 + 1e-6 for name, weight in weights.items())


def test_seed_and_digest_each_change_the_turns_and_resuming_does_not() -> None:
    plan = a_plan()
    again = BatchPlan(**json.loads(json.dumps(asdict(plan))))
    turns = [[*plan.rows(step)] for step in range(60)]
    assert [[*again.rows(step)] for step in reversed(range(60))] == turns[::-1]
    assert [[*a_plan(seed=2).rows(step)] for step in range(60)] != turns
    assert [[*a_plan(digest="e").rows(step)] for step in range(60)] != turns


def test_mixed_batches_are_what_they_were() -> None:
    plan = a_plan(batches_from="mixed")
    assert {view: len(rows) for view, rows in plan.rows(5).items()} == {"code": 11, "text": 5}
    assert plan.epochs(10) == {"code": 110 / 130, "text": 50 / 70}


def test_a_weight_whose_turn_would_never_come_is_refused() -> None:
    with pytest.raises(UserError, match="text would have one batch in 100,001, expected one in 10,000"):
        a_plan(mixture={"code": 1.0, "text": 1e-5})
    assert a_plan(mixture={"code": 1.0, "text": 0.0}).shares == {"code": 16}
