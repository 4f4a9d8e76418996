"""The curate stage: three sorted parts, nothing lost, the same bytes whatever the order of the input."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.curation.rows import pair, validated

from data_contracts.schemas import PAIRS, SPLITS
from pipeline_lib.config.data import CurateConfig
from pipeline_lib.curation import curate as module
from pipeline_lib.curation.curate import curate, write_pairs
from pipeline_lib.curation.split import split_of
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

CONFIG = CurateConfig(threads=1)


def package_rows(groups: int, each: int = 12) -> list[dict[str, Any]]:
    rows = []
    for group in range(groups):
        for at in range(each):
            kind = {"kind": "text", "view": "neighbour"} if at % 3 == 0 else {}
            rows.append(pair(group * each + at, group=f"package-{group}", **kind))
    rows.append(pair(100_000, group="package-0", x=rows[1]["x"], y=rows[1]["y"]))
    rows.append(pair(100_001, group="package-1", x=rows[2]["x"]))
    return rows


def read(artifact: Artifact, split: str) -> list[dict[str, Any]]:
    return pq.read_table(artifact.part_folder(split) / "pairs.parquet").to_pylist()


def test_every_row_is_in_one_split_or_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = package_rows(40)
    artifact = curate(store, validated(store, {"a": rows[::2], "b": rows[1::2]}), CONFIG)
    counts, facts = artifact.manifest.counts, artifact.manifest.facts
    assert [part.label for part in artifact.manifest.parts] == list(SPLITS)
    assert (counts.n_in, counts.dropped) == (len(rows), {"duplicate_pair": 1, "duplicate_x": 1})
    by_id = {row["id"]: row for row in rows}
    seen: list[str] = []
    for split in SPLITS:
        table = pq.read_table(artifact.part_folder(split) / "pairs.parquet")
        assert table.schema.equals(PAIRS)
        ids = table["id"].to_pylist()
        assert ids == sorted(ids)
        assert all(by_id[row["id"]] == row and split_of(row["group"], CONFIG) == split for row in table.to_pylist())
        assert sum(kind["rows"] for kind in facts["splits"][split].values()) == len(ids) == artifact.part(split).counts.n_out
        seen += ids
    assert len(seen) == len(set(seen)) == counts.n_out == len(rows) - 2
    assert facts["leaks"] == {"units": 0, "texts": 0}
    assert (facts["split_unit"], facts["split_reason"]) == ("group", "40 groups")
    assert sum(facts["splits"][split]["code"]["groups"] for split in SPLITS) == 40


def test_shuffled_input_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = package_rows(30)
    digests = set()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        store = Store(tmp_path / str(seed))
        cuts = {f"part-{number}": rows[number :: seed + 1] for number in range(seed + 1)}
        artifact = curate(store, validated(store, cuts), CONFIG.model_copy(update={"threads": 1 + seed % 2}))
        digests.add((artifact.digest, str(artifact.manifest.facts), str(artifact.manifest.counts)))
    assert len(digests) == 1


def test_few_groups_are_split_by_document(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = curate(store, validated(store, {"a": package_rows(3)}), CONFIG)
    facts = artifact.manifest.facts
    assert facts["split_unit"] == "document"
    assert facts["split_reason"] == "3 groups, fewer than the 10 that a split by group needs"
    assert all(artifact.part(split).counts.n_out for split in SPLITS)
    documents = [{row["document_id"] for row in read(artifact, split)} for split in SPLITS]
    assert not (documents[0] & documents[1] or documents[0] & documents[2] or documents[1] & documents[2])


def test_a_kind_that_a_split_would_lack_is_split_by_document(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [row for row in package_rows(40) if row["kind"] == "code" or row["group"] == "package-1"]
    artifact = curate(store, validated(store, {"a": rows}), CONFIG)
    assert artifact.manifest.facts["split_reason"].startswith("by group the set would have no text in ")
    assert all("text" in artifact.manifest.facts["splits"][split] for split in SPLITS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "not one pair came through validation"),
        ([pair(0), pair(1)], "no pairs are left for validation and test: 1 documents came through, expected 3"),
    ],
)
def test_too_little_is_said_in_one_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        curate(store, validated(store, {"a": rows}), CONFIG)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "curate" / "scratch").iterdir())


def test_a_kill_between_splits_redoes_only_the_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    before = validated(store, {"a": package_rows(30)})
    original = module.write_pairs
    calls: list[int] = []

    def dying(path: Path, batches: Any) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(path, batches)

    monkeypatch.setattr(module, "write_pairs", dying)
    with pytest.raises(KeyboardInterrupt):
        curate(store, before, CONFIG)
    resumed = curate(store, before, CONFIG)
    assert len(calls) == 4
    monkeypatch.setattr(module, "write_pairs", original)
    other = Store(tmp_path / "other")
    assert resumed.digest == curate(other, validated(other, {"a": package_rows(30)}), CONFIG).digest


def test_row_groups_do_not_follow_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 10)
    table = pa.Table.from_pylist([pair(number) for number in range(35)], schema=PAIRS)
    contents = set()
    for size in (1, 7, 10, 35):
        path = tmp_path / f"{size}.parquet"
        assert write_pairs(path, table.to_batches(max_chunksize=size)) == 35
        contents.add(path.read_bytes())
    assert len(contents) == 1
    metadata = pq.ParquetFile(tmp_path / "7.parquet").metadata
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [10, 10, 10, 5]
    assert write_pairs(tmp_path / "empty.parquet", []) == 0


def test_sources_go_where_they_are_held_out_and_the_others_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = package_rows(100)
    for row in rows:
        number = int(row["group"].removeprefix("package-"))
        row["source"] = "train-only" if number < 10 else "test-only" if number < 20 else "rest"
    before = validated(store, {"a": rows})
    config = CONFIG.model_copy(update={"hold_out": {"train-only": "never", "test-only": "test"}})
    artifact, plain = curate(store, before, config), curate(store, before, CONFIG)
    for split in SPLITS:
        for row in read(artifact, split):
            expected = {"train-only": "train", "test-only": "test", "rest": split_of(row["group"], CONFIG)}[row["source"]]
            assert split == expected
    assert artifact.manifest.key != plain.manifest.key and "hold_out" not in plain.manifest.config
    assert artifact.manifest.facts["split_unit"] == "group" and "split_warnings" not in artifact.manifest.facts
    assert artifact.manifest.facts["leaks"] == {"units": 0, "texts": 0}


def test_sources_that_are_all_held_out_need_no_other_groups(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = package_rows(3)
    for row in rows:
        row["source"] = row["group"]
    hold_out = {"package-0": "never", "package-1": "validation", "package-2": "test"}
    artifact = curate(store, validated(store, {"a": rows}), CONFIG.model_copy(update={"hold_out": hold_out}))
    found = {split: {row["group"] for row in read(artifact, split)} for split in SPLITS}
    assert found == {"train": {"package-0"}, "validation": {"package-1"}, "test": {"package-2"}}
    assert artifact.manifest.facts["split_unit"] == "group"


def test_of_a_few_groups_the_others_are_split_by_document(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = package_rows(3)
    for row in rows:
        row["source"] = row["group"]
    artifact = curate(store, validated(store, {"a": rows}), CONFIG.model_copy(update={"hold_out": {"package-0": "never"}}))
    groups = {split: {row["group"] for row in read(artifact, split)} for split in SPLITS}
    assert artifact.manifest.facts["split_unit"] == "document"
    assert "package-0" in groups["train"] and "package-0" not in groups["validation"] | groups["test"]
    assert all({"package-1", "package-2"} & found for found in groups.values())


def test_a_language_whose_single_repository_is_held_out_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    held_out = next(f"package-{n}" for n in range(40) if split_of(f"package-{n}", CONFIG) == "validation")
    rows = package_rows(40)
    for row in rows:
        row["source"] = "rails" if row["group"] == held_out else "rest"
        row["language"] = "ruby" if row["group"] == held_out and row["kind"] == "code" else row["language"]
    before = validated(store, {"a": rows})
    told = curate(store, before, CONFIG).manifest.facts["split_warnings"]
    assert [text.split(" is for")[0] for text in told] == ["nothing of the source 'rails'", "nothing of the language 'ruby'"]
    assert all("fell into validation" in text and "`hold_out: never`" in text for text in told)
    mended = curate(store, before, CONFIG.model_copy(update={"hold_out": {"rails": "never"}}))
    assert "split_warnings" not in mended.manifest.facts


def test_a_split_that_is_left_empty_says_which_option_fills_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [pair(n, group=f"g{n}", source="all") for n in range(30)]
    with pytest.raises(UserError, match=r"no pairs are left for validation and test.*hold_out.*never.*`hold_out` validation"):
        curate(store, validated(store, {"a": rows}), CONFIG.model_copy(update={"hold_out": {"all": "never"}}))


@pytest.mark.parametrize("groups", [4, 40])
def test_rows_for_training_alone_leave_the_held_out_rows_as_they_are(tmp_path: Path, groups: int) -> None:
    rows = package_rows(groups)
    held_out = [row for row in rows if split_of(row["group"], CONFIG) != "train" and row["kind"] == "code"]
    short = [pair(200_000 + n, group=f"package-{n % (groups + 5)}", view="short") for n in range(200)]
    short += [pair(300_000 + n, group="package-1", x=row["x"], view="short") for n, row in enumerate(held_out)]
    short.append(pair(400_000, group="package-1", y=rows[20]["y"], view="short"))  # again in training
    store = Store(tmp_path)
    before = curate(store, validated(store, {"a": rows}), CONFIG)
    after = curate(store, validated(store, {"a": rows, "b": short}), CONFIG)
    for split in ("validation", "test"):
        assert read(after, split) == read(before, split)
    more = [row for row in read(after, "train") if row not in read(before, "train")]
    assert [row for row in read(before, "train") if row not in read(after, "train")] == []
    assert {row["view"] for row in more} == {"docstring"} and more
    counts = after.manifest.counts
    assert counts.n_in == counts.n_out + sum(counts.dropped.values())
    assert len(more) < len(short)
    if groups == 40:  # fewer are split by document: nothing is held out of a document of such rows alone
        assert counts.dropped["for_training"] > 0 and counts.dropped["duplicate_x"] >= len(held_out)
    assert not {row["x"] for row in more} & {row["x"] for row in held_out}
