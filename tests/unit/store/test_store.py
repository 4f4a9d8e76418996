"""An artifact exists if and only if its manifest does, whatever happens in between."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline_lib.config.data import CurateConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.store import files as faults
from pipeline_lib.store.files import put_if_absent, replace_file
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="stage", version=1)
CONFIG = CurateConfig()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def write_part(store: Store, key: str, label: str, text: str) -> Part:
    scratch = store.scratch(STAGE.name)
    (scratch / "rows.txt").write_text(text)
    return store.commit_part(draft_part(STAGE, key, label, Counts(n_in=2, n_out=1, dropped={"short": 1})), scratch)


def test_a_finished_artifact_is_found_and_not_made_again(store: Store) -> None:
    made = []

    def make(key: str) -> Outcome:
        made.append(key)
        return Outcome(parts=(write_part(store, "k", "one", "hello"),), counts=Counts(n_in=2, n_out=2))

    first = store.build(STAGE, CONFIG, {}, make)
    second = store.build(STAGE, CONFIG, {}, make)
    assert len(made) == 1
    assert first.digest == second.digest
    assert first.paths("rows.txt")[0].read_text() == "hello"
    assert (first.folder / "run.json").is_file()


def test_the_manifest_holds_nothing_that_differs_between_two_runs(tmp_path: Path) -> None:
    manifests = []
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        artifact = store.build(STAGE, CONFIG, {}, lambda _, s=store: Outcome(parts=(write_part(s, "k", "one", "hello"),)))
        manifests.append((artifact.folder / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_operational_fields_name_no_artifact_and_all_others_do(store: Store) -> None:
    from pipeline_lib.config.training import TrainConfig

    key = store.key(STAGE, TrainConfig(), {})
    assert store.key(STAGE, TrainConfig(processes=4, threads=3), {}) == key
    assert store.key(STAGE, TrainConfig(seed=2), {}) != key
    assert store.key(Stage(name="stage", version=2), TrainConfig(), {}) != key
    assert store.key(STAGE, TrainConfig(), {"x": "1"}) != key


@pytest.mark.parametrize("place", ["part:before_move", "part:before_record", "artifact:before_manifest"])
def test_a_fault_at_any_place_leaves_no_artifact_and_the_next_start_completes_it(store: Store, place: str) -> None:
    def make(_: str) -> Outcome:
        return Outcome(parts=(store.find_part("stage", "k") or write_part(store, "k", "one", "hello"),))

    def fail() -> None:
        raise KeyboardInterrupt

    faults.arm(place, fail)
    with pytest.raises(KeyboardInterrupt):
        store.build(STAGE, CONFIG, {}, make)
    assert store.find("stage", store.key(STAGE, CONFIG, {})) is None
    faults.disarm()
    assert store.build(STAGE, CONFIG, {}, make).paths("rows.txt")[0].read_text() == "hello"


def test_r18_two_writers_of_the_same_artifact_leave_one_manifest(store: Store) -> None:
    def build(_: int) -> str:
        return store.build(STAGE, CONFIG, {}, lambda _: Outcome(parts=(write_part(store, "k", "one", "hello"),))).digest

    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(build, range(16)))
    assert len(digests) == 1
    assert len(list((store.root / "stage").glob("*/manifest.json"))) == 1
    assert len(list((store.root / "stage" / "parts").glob("k-*"))) == 1
    assert not list((store.root / "stage" / "scratch").iterdir())


def test_the_loser_of_a_race_reads_the_winners_part(store: Store) -> None:
    first = write_part(store, "k", "one", "first")
    assert write_part(store, "k", "one", "second") == first


def test_a_changed_byte_is_named_and_stops_the_next_stage(store: Store) -> None:
    upstream = store.build(STAGE, CONFIG, {}, lambda _: Outcome(parts=(write_part(store, "k", "one", "hello"),)))
    upstream.paths("rows.txt")[0].write_text("hellO")
    made = []
    with pytest.raises(CorruptArtifact, match=r"rows\.txt: sha256 is [0-9a-f]{64}, its record says [0-9a-f]{64}"):
        store.build(Stage(name="next", version=1), CONFIG, {"up": upstream}, lambda key: made.append(key))  # type: ignore[func-returns-value,arg-type,return-value]
    assert not made


def test_an_artifact_with_a_missing_file_is_made_again(store: Store) -> None:
    def make(_: str) -> Outcome:
        return Outcome(parts=(store.find_part("stage", "k") or write_part(store, "k", "one", "hello"),))

    store.build(STAGE, CONFIG, {}, make).paths("rows.txt")[0].unlink()
    assert store.build(STAGE, CONFIG, {}, make).paths("rows.txt")[0].read_text() == "hello"


def test_a_part_with_one_of_its_files_gone_is_replaced(store: Store) -> None:
    def make(_: str) -> Outcome:
        part = store.find_part("stage", "k")
        if part is None:
            scratch = store.scratch(STAGE.name)
            (scratch / "rows.txt").write_text("rows")
            (scratch / "more.txt").write_text("more")
            part = store.commit_part(draft_part(STAGE, "k", "one"), scratch)
        return Outcome(parts=(part,))

    store.build(STAGE, CONFIG, {}, make).paths("rows.txt")[0].unlink()
    artifact = store.build(STAGE, CONFIG, {}, make)
    assert [path.read_text() for name in ("more.txt", "rows.txt") for path in artifact.paths(name)] == ["more", "rows"]
    assert not list((store.root / "stage" / "scratch").iterdir())


def test_a_part_that_loses_a_row_is_refused(store: Store) -> None:
    scratch = store.scratch("stage")
    (scratch / "rows.txt").write_text("x")
    with pytest.raises(AssertionError, match="3 rows came in, 2 are accounted for"):
        store.commit_part(draft_part(STAGE, "k", "one", Counts(n_in=3, n_out=1, quarantined=1)), scratch)


def test_counts_add_up() -> None:
    total = Counts(n_in=3, n_out=1, dropped={"a": 2}) + Counts(n_in=4, n_out=1, dropped={"a": 1, "b": 1}, quarantined=1)
    assert total == Counts(n_in=7, n_out=2, dropped={"a": 3, "b": 1}, quarantined=1)


def test_an_unknown_key_or_label_is_answered_with_the_known_ones(store: Store) -> None:
    artifact = store.build(STAGE, CONFIG, {}, lambda _: Outcome(parts=(write_part(store, "k", "one", "hello"),)))
    with pytest.raises(UserError, match=artifact.manifest.key):
        store.open("stage", "nope")
    with pytest.raises(UserError, match="there are: one"):
        artifact.part("two")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "current.json"
    assert put_if_absent(path, b"1")
    assert not put_if_absent(path, b"2")
    assert path.read_bytes() == b"1"
    replace_file(path, json.dumps({"a": 1}).encode())
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["current.json"]


def test_a_key_may_be_cut_short(store: Store) -> None:
    """Four digits or more open the one artifact that they begin; what fits none or several is told."""
    made = [
        store.build(Stage(name="stage", version=n), CONFIG, {}, lambda key: Outcome(parts=(write_part(store, key, "a", key),)))
        for n in (1, 2, 3)
    ]
    keys = [artifact.manifest.key for artifact in made]
    assert len(set(keys)) == 3
    for key in keys:
        assert store.find_key("stage", key[:8]) == key == store.open("stage", key[:8]).manifest.key
    twin = keys[0][:12] + "0" * 12
    (store.root / "stage" / twin).mkdir()
    (store.root / "stage" / twin / "manifest.json").write_bytes((made[0].folder / "manifest.json").read_bytes())
    with pytest.raises(UserError, match=f"stage key '{keys[0][:12]}' is ambiguous: .*{twin}"):
        store.find_key("stage", keys[0][:12])
    assert store.find_key("stage", keys[0]) == keys[0], "a whole key is never ambiguous"
    for nothing in ("", keys[1][:3], "no-such-run"):
        with pytest.raises(UserError, match=f"no such key: no finished stage artifact '{nothing}' .* there are: .*{keys[1]}"):
            store.open("stage", nothing)
