"""Deduplication against an oracle in plain Python, over shuffled rows cut into any number of files."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.curation.rows import pair

from data_contracts.schemas import PAIRS, text_hash
from pipeline_lib.config.data import CurateConfig
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.errors import ContractViolation

CONFIG = CurateConfig(threads=1)
PRIORITY = {"test": 0, "validation": 1, "train": 2}


def run(
    rows: list[dict[str, Any]], splits: dict[str, str], folder: Path, files: int = 1
) -> tuple[dict[str, str], dict[str, int]]:
    """The split of every surviving id, and the drops by reason."""
    paths = []
    for number in range(files):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(pa.Table.from_pylist(rows[number::files], schema=PAIRS), paths[-1])
    with Curation(paths, CONFIG, folder) as curation:
        curation.check_ids()
        curation.drop_repeated()
        curation.assign("group", splits)
        curation.drop_twins()
        assert curation.rows() == len(rows)
        assert curation.leaks("group") == {"units": 0, "texts": 0}
        kept = {row["id"]: split for split in PRIORITY for row in curation.pairs(split, 7).read_all().to_pylist()}
        return kept, curation.dropped()


def oracle(rows: list[dict[str, Any]], splits: dict[str, str]) -> tuple[dict[str, str], dict[str, int]]:
    rows = sorted(rows, key=lambda row: (row["generation"], row["id"]))
    drops: Counter[str] = Counter()
    for reason, names in (("duplicate_pair", ("x", "y")), ("duplicate_x", ("x",)), ("duplicate_y", ("y",))):
        seen, kept = set(), []
        for row in rows:
            key = (row["kind"], row["view"], *(row[name] for name in names))
            if key in seen:
                drops[reason] += 1
            else:
                kept.append(row)
            seen.add(key)
        rows = kept
    owners: dict[str, tuple[int, int]] = {}
    for row in rows:
        rank = (row["generation"], PRIORITY[splits[row["group"]]])
        for text in (row["x"], row["y"]):
            owners[text] = min(owners.get(text, rank), rank)
    kept = [row for row in rows if all(owners[row[side]][1] == PRIORITY[splits[row["group"]]] for side in "xy")]
    drops["held_out_twin"] = len(rows) - len(kept)
    return {row["id"]: splits[row["group"]] for row in kept}, {reason: n for reason, n in drops.items() if n}


ROW = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["code", "text"]),
        "view": st.sampled_from(["docstring", "name"]),
        "x": st.sampled_from("abcdefgh"),
        "y": st.sampled_from("efghijkl"),
        "group": st.sampled_from(["g0", "g1", "g2", "g3"]),
        "generation": st.integers(0, 1),
    }
)
SPLITS = {"g0": "train", "g1": "train", "g2": "validation", "g3": "test"}


@given(drawn=st.lists(ROW, max_size=25), files=st.integers(1, 4), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_survivors_are_the_oracles_in_any_order(drawn: list[dict[str, Any]], files: int, seed: int) -> None:
    rows = [pair(number, **row) for number, row in enumerate(drawn)]
    expected = oracle(rows, SPLITS)
    random.Random(seed).shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        assert run(rows, SPLITS, Path(folder), files) == expected


@given(drawn=st.lists(ROW, max_size=25), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_a_later_generation_removes_no_earlier_row(drawn: list[dict[str, Any]], seed: int) -> None:
    rows = [pair(number, **row) for number, row in enumerate(drawn)]
    random.Random(seed).shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        grown, _ = run(rows, SPLITS, Path(folder))
        first, _ = run([row for row in rows if row["generation"] == 0], SPLITS, Path(folder))
    earlier = {row["id"] for row in rows if row["generation"] == 0}
    assert {id_: split for id_, split in grown.items() if id_ in earlier} == first


def test_planted_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    originals = [pair(number) for number in range(200)]
    copies = [pair(1000 + number, x=originals[number]["x"], y=originals[number]["y"]) for number in range(0, 30)]
    same_x = [pair(2000 + number, x=originals[number]["x"]) for number in range(30, 60)]
    same_y = [pair(3000 + number, y=originals[number]["y"]) for number in range(60, 90)]
    kept, drops = run([*originals, *copies, *same_x, *same_y], {"g0": "train"}, tmp_path)
    assert drops == {"duplicate_pair": 30, "duplicate_x": 30, "duplicate_y": 30}
    assert len(kept) == 200
    assert {originals[number]["id"] for number in range(90, 200)} <= kept.keys()


def test_a_chain_of_neighbours_is_no_duplicate(tmp_path: Path) -> None:
    pieces = [f"piece {number}" for number in range(6)]
    rows = [pair(at, x=pieces[at], y=pieces[at + 1], kind="text", view="neighbour") for at in range(5)]
    kept, drops = run(rows, {"g0": "train"}, tmp_path)
    assert (len(kept), drops) == (5, {})


def test_a_function_tested_under_one_view_is_not_trained_on_under_another(tmp_path: Path) -> None:
    rows = [
        pair(0, group="train-g", view="name", y="def f(): ..."),
        pair(1, group="test-g", view="docstring", y="def f(): ..."),
        pair(2, group="train-g", view="name"),
        pair(3, group="validation-g", kind="text", x="def f(): ..."),
    ]
    kept, drops = run(rows, {"train-g": "train", "test-g": "test", "validation-g": "validation"}, tmp_path)
    assert kept == {rows[1]["id"]: "test", rows[2]["id"]: "train"}
    assert drops == {"held_out_twin": 2}


def test_an_id_in_two_parts_is_refused(tmp_path: Path) -> None:
    rows = [pair(0), pair(1), {**pair(2), "id": pair(0)["id"]}]
    with pytest.raises(ContractViolation, match=f"1 pair ids occur more than once.*{pair(0)['id']}"):
        run(rows, {"g0": "train"}, tmp_path)


def test_hashes_and_not_texts_decide(tmp_path: Path) -> None:
    """The contract on hashes is what makes this safe: it is checked before."""
    rows = [pair(0), pair(1, x_hash=text_hash("x of 0"))]
    _, drops = run(rows, {"g0": "train"}, tmp_path)
    assert drops == {"duplicate_x": 1}
