"""Mined negatives against a ranking written out by hand: ranks, margin, false negatives, and the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline_lib.config.finetuning import MiningConfig, TrainingSetConfig
from pipeline_lib.search.mining import Embedder, mine
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.training_sets.training_set import read_rows, read_training_set

ANGLES = {"q": 0.0, "q2": 90.0, "p": 20.0, "p2": 95.0} | {f"d{n}": 10.0 * n for n in range(1, 19)}


def by_angle(texts: Sequence[str], side: str) -> np.ndarray:
    """Each text at its angle (degrees): cosines are known without a model."""
    assert side == ("x" if texts[0].startswith("q") else "y")
    radians = np.deg2rad([ANGLES[text.strip().lower()] for text in texts])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def retrieval_set(root: Path, extra: Sequence[str] = ()) -> Artifact:
    folder = root / "set"
    (folder / "qrels").mkdir(parents=True)
    passages = ["p", "p2", *(f"d{n}" for n in range(1, 19)), *extra]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": str(i), "text": t}) + "\n" for i, t in enumerate(passages)))
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "q"}\n{"_id": "2", "text": "q2"}\n')
    # q has two known positives: p at 20 and d4 at 40 degrees; q2 has p2
    (folder / "qrels" / "train.tsv").write_text("1\t0\t1\n2\t1\t1\n1\t5\t1\n")
    return read_training_set(Store(root / "store"), TrainingSetConfig(path=str(folder), view="toy"))


def mined(root: Path, training_set: Artifact, **fields: Any) -> dict[tuple[str, str], list[str]]:
    config = MiningConfig(**{"per_pair": 3, "first_rank": 1, "last_rank": 100, "margin": 0.0, "spread": "top", **fields})
    made = mine(Store(root / "store"), training_set, Embedder(by_angle, {}, 8, 8), config)
    assert made.manifest.counts.n_out == 3
    return {(row["x"], row["y"]): row["negatives"] for row in read_rows(made)}


def test_nearest_first_but_no_known_positive_and_none_above_the_positive(tmp_path: Path) -> None:
    found = mined(tmp_path, retrieval_set(tmp_path))
    # of q: d1 (10 degrees) scores above p (20) and d2 as p does: not above it, so it is taken
    assert found["q", "p"] == ["d2", "d3", "d5"]
    assert found["q", "d4"] == ["d5", "d6", "d7"]
    assert found["q2", "p2"] == ["d8", "d10", "d7"], "equal scores in the order of the corpus; d9 is at q2 itself"


def test_the_margin_keeps_its_distance(tmp_path: Path) -> None:
    found = mined(tmp_path, retrieval_set(tmp_path), margin=0.1)
    assert found["q", "p"] == ["d5", "d6", "d7"], "cos 20 - 0.1 = 0.84 = cos 33: d3 (30) is too near, d4 is known"


@pytest.mark.parametrize(("first", "last", "expected"), [(3, 4, ["d3", "d5"]), (4, 4, ["d5"]), (1, 2, ["d2"])])
def test_ranks_count_what_is_no_positive(tmp_path: Path, first: int, last: int, expected: list[str]) -> None:
    # d1, d2, d3, d5, ...: p and d4 have no rank
    assert mined(tmp_path, retrieval_set(tmp_path), first_rank=first, last_rank=last)["q", "p"] == expected


def test_evenly_over_the_ranks(tmp_path: Path) -> None:
    found = mined(tmp_path, retrieval_set(tmp_path), spread="even", last_rank=8, first_rank=2)
    assert found["q", "p"] == ["d2", "d6", "d9"], "of d2, d3, d5, d6, d7, d8, d9"


def test_equal_texts_are_one_and_the_query_is_no_negative_of_itself(tmp_path: Path) -> None:
    found = mined(tmp_path, retrieval_set(tmp_path, extra=["D5", " d5", "Q2", "P"]), per_pair=100)
    assert [text for text in found["q", "p"] if text.strip().lower() == "d5"] == ["d5"]
    assert not {"P", "p", "d4"} & set(found["q", "p"])
    assert "Q2" not in found["q2", "p2"] and "Q2" in found["q", "p"]


def test_given_negatives_come_first_and_are_not_mined_again(tmp_path: Path) -> None:
    lines = [
        {"anchor": "q", "positive": "p", "negative": "d5"},
        {"anchor": "q2", "positive": "d3"},
        {"anchor": "q", "positive": "d9"},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    training_set = read_training_set(Store(tmp_path / "store"), TrainingSetConfig(path=str(path)))
    found = mined(tmp_path, training_set)
    # without a corpus the passages are the positives: p, d3, d9
    assert found == {("q", "p"): ["d5", "d3"], ("q", "d9"): [], ("q2", "d3"): ["p"]}


def test_the_same_bytes_in_slices_of_any_size(tmp_path: Path) -> None:
    training_set = retrieval_set(tmp_path)
    digests = set()
    for number, rows in enumerate((1, 2, 8192)):
        config = MiningConfig(per_pair=4, first_rank=1, margin=0.0, rows_per_slice=rows)
        made = mine(Store(tmp_path / f"store-{number}"), training_set, Embedder(by_angle, {}, 8, 8), config)
        digests.add(made.digest)
    assert len(digests) == 1
