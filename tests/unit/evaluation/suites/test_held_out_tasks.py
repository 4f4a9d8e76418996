"""The task sets: caps, batches, masks, disjoint documents, reasons for what is left out, and nothing of other splits."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.evaluation.suites.held_out_tasks import Pair, draw_tasks, read_split, search_task
from pipeline_lib.store.artifact import Artifact

CONFIG = EvaluateConfig(candidates=20, max_per_group=25, bootstrap=20, min_class_texts=12, similarity_pairs=30)


def by_kind(tasks):
    return {task.kind: task for task in tasks.tasks}


def test_all_four_tasks_of_a_split(curated):
    tasks = draw_tasks(curated, "validation", CONFIG)
    assert [task.name for task in tasks.tasks] == [
        "code_search_20",
        "text_search_20",
        "package_of_prose",
        "graded_prose",
    ]
    assert tasks.skipped == {}


def test_tasks_are_a_function_of_the_rows_not_of_their_order(curated_of, split_rows):
    rows = split_rows("validation")
    shuffled = rows.copy()
    random.Random(4).shuffle(shuffled)
    first = draw_tasks(curated_of({"validation": rows}), "validation", CONFIG)
    second = draw_tasks(curated_of({"validation": shuffled, "extra": []}), "validation", CONFIG)
    for a, b in zip(first.tasks, second.tasks, strict=True):
        assert a.ids == b.ids
        assert a.facts() == b.facts()


def test_groups_are_capped_and_the_incomplete_batch_is_counted(curated):
    task = by_kind(draw_tasks(curated, "validation", CONFIG))["code_search"]
    assert max(Counter(task.groups).values()) <= 25
    assert len(task.ids) % 20 == 0
    assert task.left_out == 4 * 25 % 20
    odd = by_kind(draw_tasks(curated, "validation", CONFIG.model_copy(update={"candidates": 30})))["code_search"]
    assert (odd.asked, odd.left_out) == (90, 10)


def test_the_cap_on_queries_holds_on_validation_only(curated):
    few = CONFIG.model_copy(update={"max_queries": 45})
    assert by_kind(draw_tasks(curated, "validation", few))["code_search"].asked == 40
    assert by_kind(draw_tasks(curated, "test", few))["code_search"].asked == 100


def test_fewer_queries_than_candidates_still_rank_among_all_candidates(curated):
    task = by_kind(draw_tasks(curated, "validation", CONFIG.model_copy(update={"max_queries": 7})))["code_search"]
    ((queries, candidates),) = task.batches()
    assert (queries, candidates) == (slice(0, 7), slice(0, 20))


def test_a_chain_of_passages_masks_the_query_among_its_candidates(pair_row):
    texts = [f"passage number {i} of one long document" for i in range(14)]
    rows = [pair_row("text", "g", "d", i, texts[i], texts[i + 1]) for i in range(13)]
    pairs = [Pair(**{name: row[name] for name in Pair._fields}) for row in rows]
    task = search_task("text_search", pairs, EvaluateConfig(), None)
    masked = task.masked(slice(0, 13), slice(0, 13))
    expected = [[task.candidates[j] in (task.candidates[i], task.queries[i]) for j in range(13)] for i in range(13)]
    np.testing.assert_array_equal(masked, expected)
    assert masked.sum() == 13 + 12  # each its own answer, and for all but the first the query itself


def test_no_document_is_cut_by_the_folds_of_the_probe(curated):
    task = by_kind(draw_tasks(curated, "validation", CONFIG))["classification"]
    documents = {pair.id: pair.document_id for pair in read_split(curated, "validation")}
    folds = {}
    for id_, fold in zip(task.ids, task.folds.tolist(), strict=True):
        folds.setdefault(documents[id_], set()).add(fold)
    assert all(len(its_folds) == 1 for its_folds in folds.values())
    for label in set(task.labels):
        its_folds = {fold for name, fold in zip(task.labels, task.folds.tolist(), strict=True) if name == label}
        assert its_folds == {0, 1, 2}


def test_grades_are_balanced_and_true(curated):
    task = by_kind(draw_tasks(curated, "validation", CONFIG))["similarity"]
    assert set(Counter(task.grades.tolist()).values()) == {30}
    pairs = read_split(curated, "validation")
    home = {pair.x: pair for pair in pairs} | {pair.y: pair for pair in pairs if pair.kind == "text"}
    neighbours = {(pair.x, pair.y) for pair in pairs}
    for left, right, grade in zip(task.left, task.right, task.grades.tolist(), strict=True):
        a, b = home[left], home[right]
        assert ((left, right) in neighbours) == (grade == 3)
        assert (a.document_id == b.document_id) == (grade >= 2)
        assert (a.group == b.group) == (grade >= 1)
        assert left != right


@pytest.mark.parametrize("groups, documents", [(1, 1), (1, 6), (4, 1)])
def test_small_sets_leave_tasks_out_with_a_reason(curated_of, split_rows, groups, documents):
    tasks = draw_tasks(curated_of({"validation": split_rows("v", groups=groups, documents=documents)}), "validation", CONFIG)
    assert "classification" in tasks.skipped
    assert "needed" in tasks.skipped["classification"]
    assert set(tasks.skipped) | {task.kind for task in tasks.tasks} == {
        "code_search",
        "text_search",
        "classification",
        "similarity",
    }


def test_an_empty_split_has_reasons_only(curated_of):
    tasks = draw_tasks(curated_of({"validation": []}), "validation", CONFIG)
    assert tasks.tasks == ()
    assert len(tasks.skipped) == 4


def test_a_folder_with_one_document_a_group_has_no_grade_1(curated_of, split_rows):
    task = by_kind(
        draw_tasks(curated_of({"validation": split_rows("v", groups=5, documents=1, pieces=8)}), "validation", CONFIG)
    )["similarity"]
    assert sorted(set(task.grades.tolist())) == [0.0, 2.0, 3.0]


def test_candidates_shrink_to_what_there_is_and_the_name_says_so(curated):
    task = by_kind(draw_tasks(curated, "validation", EvaluateConfig(max_per_group=25)))["code_search"]
    assert (task.name, task.batch_size, task.left_out) == ("code_search_100", 100, 0)


@pytest.mark.parametrize(
    "unit, groups, expected", [("document", 1, 70), ("document", 3, 210), ("group", 1, 70), ("group", 3, 75)]
)
def test_one_project_is_measured_whole_and_many_groups_are_capped(curated_of, split_rows, unit, groups, expected):
    """Seventy functions of a group, a cap of 25: of one project all, of three packages 25 each."""
    curated = curated_of({"test": split_rows("t", groups=groups, documents=14)})
    sizes = {kind: {"documents": 14 * groups, "groups": groups, "rows": 70 * groups} for kind in ("code", "text")}
    facts = {"split_unit": unit, "splits": {"test": sizes}}
    curated = Artifact(curated.root, curated.manifest.model_copy(update={"facts": facts}))
    config = CONFIG.model_copy(update={"candidates": 1000})
    tasks = by_kind(draw_tasks(curated, "test", config))
    assert tasks["code_search"].asked == tasks["code_search"].batch_size == expected
    capped = by_kind(draw_tasks(curated, "test", config.model_copy(update={"candidates": 20})))["code_search"]
    assert max(Counter(capped.groups).values()) <= 25, "twenty candidates need no more than the cap leaves"
    if groups > 1:
        assert tasks["classification"].name == ("group_of_prose" if unit == "document" else "package_of_prose")
