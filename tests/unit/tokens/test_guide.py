"""A guide's table of the training texts, and the pairs that it agrees with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import pair_row, write_pairs

from data_contracts.schemas import PAIRS_WITH_NEGATIVES, text_hash
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.guide import ConsistencyWork, GuideTable, embed_training_texts, keep_consistent

asked: list[tuple[str, str]] = []


def by_number(texts: Sequence[str], side: str) -> np.ndarray:
    """A text at the angle of its number (degrees)."""
    asked.extend((side, text) for text in texts)
    radians = np.deg2rad([float(text.split()[1]) for text in texts])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def pairs_of(root: Path, angles: Sequence[tuple[float, float]], negatives: Sequence[str] = ()) -> Artifact:
    rows = [pair_row(f"x {x}", f"y {y}", id=f"{n:032x}", negatives=list(negatives)) for n, (x, y) in enumerate(angles)]
    return write_pairs(Store(root), "curate", {"train": rows, "validation": rows[:1]}, PAIRS_WITH_NEGATIVES)


def test_each_text_of_a_side_once_found_by_its_hash(tmp_path: Path) -> None:
    asked.clear()
    store = Store(tmp_path)
    pairs = pairs_of(tmp_path, [(0, 10), (0, 20), (5, 10)], ["y 90", "y 10"])
    guide = embed_training_texts(store, pairs, "ab" * 12, by_number)
    assert sorted(asked) == [("x", "x 0"), ("x", "x 5"), ("y", "y 10"), ("y", "y 20"), ("y", "y 90")]
    table = GuideTable(guide)
    found = table.vectors(np.array([text_hash("y 90"), text_hash("y 10"), text_hash("y 90")]), "y")
    np.testing.assert_allclose(found, by_number(["y 90", "y 10", "y 90"], "y"), atol=1e-3)
    with pytest.raises(UserError, match="1 of 2 texts on the x side are not in its table"):
        table.vectors(np.array([text_hash("x 0"), text_hash("y 90")]), "x")
    assert embed_training_texts(store, pairs, "ab" * 12, by_number).digest == guide.digest


def test_a_pair_stays_if_its_y_is_among_the_first_of_its_block(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # x at 30: its own y at 60 is behind that at 1 and the two at 33; those are equal, and do not count against each other
    pairs = pairs_of(tmp_path, [(0, 1), (30, 60), (31, 33), (32, 33), (70, 75)])
    guide = embed_training_texts(store, pairs, "cd" * 12, by_number)

    def kept(top: int, block: int) -> list[str]:
        made = keep_consistent(store, pairs, guide, ConsistencyWork(top=top, block=block))
        rows = pq.read_table(made.part_folder("train") / "pairs.parquet").to_pylist()
        counts = made.manifest.counts
        assert (counts.n_in, counts.n_out, counts.dropped.get("inconsistent", 0)) == (5, len(rows), 5 - len(rows))
        return [row["x"] for row in rows]

    every = ["x 0", "x 30", "x 31", "x 32", "x 70"]
    assert kept(1, 8) == [x for x in every if x != "x 30"]
    assert kept(2, 8) == [x for x in every if x != "x 30"]
    assert kept(3, 8) == [x for x in every if x != "x 30"]
    assert kept(4, 8) == every
    assert kept(1, 2) == [x for x in every if x != "x 30"]  # of its block y at 1 is nearer (29 degrees) than 60 (30)
    assert kept(2, 2) == every


def test_no_pair_left_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pairs = pairs_of(tmp_path, [(0, 90), (90, 0)])
    guide = embed_training_texts(store, pairs, "ef" * 12, by_number)
    with pytest.raises(UserError, match="not one of 2 training pairs would stay"):
        keep_consistent(store, pairs, guide, ConsistencyWork(top=1, block=2))
