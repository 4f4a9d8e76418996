"""R11: whatever the rows, batch, ranks, window and mixture, a run that stops anywhere misses nothing and repeats nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.tokens.batches import BatchPlan, split_for_ranks

Trace = list[dict[str, list[int]]]  # of each step: the rows of each view
RANKS = st.sampled_from([1, 2, 3, 4])


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    """Views of N rows with weights, B pairs that 1 to 4 ranks divide, windows of a block to all, both ways of mixing."""
    sizes = draw(st.dictionaries(st.sampled_from(["code", "text", "prose"]), st.integers(1, 90), min_size=1))
    return BatchPlan(
        sizes=sizes,
        mixture={view: draw(st.sampled_from([0.2, 0.3, 1.0])) for view in sizes},
        batch_size=12 * draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**40)),
        digest=draw(st.text("ab", max_size=3)),
        block_rows=draw(st.integers(1, 20)),
        window_blocks=draw(st.integers(1, 12)),
        batches_from=draw(st.sampled_from(["mixed", "one_dataset"])),
    )


def dealt(plan: BatchPlan, steps: range, ranks: int) -> Iterator[tuple[dict[str, list[int]], list[tuple[str, int]]]]:
    """Each step's rows, and what its ranks got of them together, in the ranks' order."""
    for step in steps:
        rows = {view: found.tolist() for view, found in plan.rows(step).items()}
        pairs = [(view, row) for view, found in rows.items() for row in found]
        lengths = np.array([3 + (7 * row + step) % 11 for _, row in pairs])
        places = split_for_ranks(lengths, ranks)
        assert {len(part) for part in places} == {plan.batch_size // ranks}
        yield rows, [pairs[place] for part in places for place in part]


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 25), st.integers(1, 25), RANKS, RANKS)
def test_r11_a_run_that_stops_anywhere_misses_and_repeats_nothing(
    plan: BatchPlan, stop: int, more: int, ranks: int, ranks_after: int
) -> None:
    state = json.loads(json.dumps({"plan": asdict(plan), "step": stop}))
    resumed = BatchPlan(**state["plan"])
    assert resumed == plan

    whole = list(dealt(plan, range(stop + more), 1))
    legs = [*dealt(plan, range(stop), ranks), *dealt(resumed, range(state["step"], stop + more), ranks_after)]
    assert [rows for rows, _ in legs] == [rows for rows, _ in whole], "another order after the stop"
    assert [sorted(got) for _, got in legs] == [sorted(got) for _, got in whole], "a rank lost a pair or two got it"

    for view, size in plan.sizes.items():
        seen = [row for rows, _ in legs for row in rows.get(view, [])]
        for start in range(0, len(seen) - size + 1, size):
            assert sorted(seen[start : start + size]) == list(range(size)), "missing or twice in an epoch"
        rest = seen[len(seen) // size * size :]
        assert len(set(rest)) == len(rest), "twice in the epoch that was not finished"
    if plan.batches_from == "one_dataset":
        assert all(len(rows) == 1 for rows, _ in legs)
