"""Tracked candidates: the report of the demo says whether a run was measured on them, and which differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline_lib.config.presets import preset
from pipeline_lib.evaluation import candidates
from pipeline_lib.evaluation.candidates import compare, is_tracked, written
from pipeline_lib.evaluation.suites.held_out_tasks import SearchTask, SimilarityTask, TaskSet

HASHES = np.arange(3)
SEARCH = SearchTask(
    name="code_search_3",
    kind="code_search",
    ids=("a" * 32, "b" * 32, "c" * 32),
    groups=("g",) * 3,
    queries=("one", "two", "three"),
    candidates=("return 1", "return 2", "return 3"),
    query_hashes=HASHES,
    candidate_hashes=HASHES,
    batch_size=3,
    asked=3,
    left_out=0,
)
GRADED = SimilarityTask(
    "graded_prose", ("d" * 32 + ":3", "d" * 32 + ":0"), ("g",) * 2, ("l", "l"), ("r", "s"), np.array([3.0, 0])
)


@pytest.fixture(autouse=True)
def tracked(tmp_path, monkeypatch):
    """A list of the two tasks in place of the demo's."""
    (tmp_path / "list.txt").write_text(written({"test": TaskSet((SEARCH, GRADED), {})}))
    monkeypatch.setattr(candidates, "LIST", tmp_path / "list.txt")
    candidates._tracked.cache_clear()
    yield
    candidates._tracked.cache_clear()


def test_the_same_candidates_are_comparable():
    found = compare({"test": TaskSet((GRADED, SEARCH), {})})
    assert found == {
        "comparable": True,
        "sentence": "Comparable with the tracked candidates: yes.",
        "differ": {},
        "corpus": [],
    }
    assert (
        "Training saw other texts" in compare({"test": TaskSet((SEARCH, GRADED), {})}, ["numpy is 9 instead of 8"])["sentence"]
    )


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        ({"candidates": ("return 1", "return 2.0", "return 3")}, ["b" * 12]),
        ({"queries": ("one", "two", "drei")}, ["c" * 12]),
        ({"ids": ("a" * 32, "b" * 32, "e" * 32)}, ["c" * 12, "e" * 12]),
    ],
)
def test_a_changed_candidate_is_named(changed, first):
    found = compare({"test": TaskSet((replace(SEARCH, **changed), GRADED), {})}, ["numpy is 9 instead of 8"])
    assert not found["comparable"]
    assert found["differ"] == {"test code_search_3": {"rows": len(first), "first": first}}
    assert found["sentence"] == (
        f"Comparable with the tracked candidates: no, {len(first)} differ: {len(first)} of test code_search_3 "
        f"({', '.join(first)}). The corpus is not the tracked one: numpy is 9 instead of 8."
    )


def test_another_partner_of_a_graded_pair_and_a_missing_task_show():
    other = replace(GRADED, right=("r", "another"))
    found = compare({"test": TaskSet((other,), {})})
    assert found["differ"]["test graded_prose"] == {"rows": 1, "first": ["d" * 12 + ":0"]}
    assert found["differ"]["test code_search_3"]["rows"] == 3


def test_only_the_demo_on_its_own_source_is_tracked():
    demo = preset("demo")
    assert is_tracked(demo) and not is_tracked(preset("smoke"))
    assert not is_tracked(demo.model_copy(update={"source": demo.source.model_copy(update={"folder": "/tmp"})}))
