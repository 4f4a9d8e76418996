"""The hardest in-batch negatives: planted false ones come first, equal texts never."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.schemas import text_hash
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.evaluation.negatives import allowed_negatives, hardest_negatives, read_negatives
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.model.checkpoint import Checkpoint


@pytest.fixture
def find(store, curated, curated_of, monkeypatch, embed_words):
    """The negatives of planted training rows, found by words alone."""
    monkeypatch.setattr(CheckpointEncoder, "encode", lambda self, texts, side, progress: embed_words(texts))

    def run(rows, shown=50):
        model = curated.only("validation")
        checkpoint = Checkpoint(trained=model, label="validation", tokenizer=model, shards=ShardConfig())
        return read_negatives(hardest_negatives(store, curated_of({"train": rows}), checkpoint, shown))

    return run


def test_a_planted_false_negative_comes_first_with_its_provenance(find, pair_row):
    rows = [pair_row("code", "g", f"d{i}", 0, f"alpha{i} beta{i} gamma{i}", f"def delta{i}(alpha{i}): ...") for i in range(20)]
    rows.append(pair_row("code", "a", "first", 0, "sort a linked list", "def sort_linked(a): ..."))
    rows.append(pair_row("code", "b", "second", 0, "order the nodes", "def linked_list_sort(a): ..."))
    found = find(rows, shown=5)
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert len(found) == 5
    assert found[0]["x"]["text"] == "sort a linked list"
    assert found[0]["y_negative"]["path"] == "b/second.py"
    assert found[0]["y_right"]["text"] == "def sort_linked(a): ..."


def test_a_chain_holds_no_passage_against_itself(find, pair_row):
    texts = [f"passage {word} of one document about widgets" for word in ("one", "two", "three", "four")]
    rows = [pair_row("text", "g", "d", i, texts[i], texts[i + 1]) for i in range(3)]
    for row in find(rows):
        assert row["y_negative"]["text"] not in (row["x"]["text"], row["y_right"]["text"])


def test_too_few_rows_give_none(find, pair_row):
    assert find([pair_row("code", "g", "d", 0, "a docstring of three", "def f(): ...")]) == []


def test_the_mask_is_that_of_training():
    x = np.array([text_hash(t) for t in ("p1", "p2", "q", "p1")])
    y = np.array([text_hash(t) for t in ("p2", "p3", "p3", "r")])
    expected = np.array(
        [
            [False, True, True, False],  # (p1, p2): the last has the same x
            [False, False, False, True],  # (p2, p3): the first's y is this x, the third has the same y
            [True, False, False, True],
            [False, True, True, False],
        ]
    )
    np.testing.assert_array_equal(allowed_negatives(x, y), expected)
