"""The registry keeps each name's champion and history whole, whoever writes, dies or races."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from builders import write_artifact
from typer.testing import CliRunner
from unit.search.candidates import Numbered, candidate, exported, indexed

from flows.cli.commands import app
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.runtime.outcomes import outcome_of
from pipeline_lib.search import registry
from pipeline_lib.search.registry import (
    Candidate,
    ChampionChanged,
    champion,
    default_name,
    has_moved,
    history,
    in_use,
    kept_pairs,
    names,
    promote,
    record,
    reindex,
    rollback,
    set_default,
    try_out,
)
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "store")


def test_the_first_of_a_name_is_its_champion_and_says_what_it_is_made_of(home: Path, store: Store) -> None:
    first = candidate(store, 1)
    assert names(home) == [] and champion(home, "mine") is None
    made = promote(home, "mine", first, "the first of its name", {"by": "person"})
    assert made == champion(home, "mine") == in_use(home)
    assert (made.model, made.index) == (first.exported.part_folder(), first.indexed.part_folder())
    assert (made.trained, made.checkpoint, dict(made.keys)) == (f"{1:024d}", "step-000010", {"curate": "c1"})
    assert (made.validation, made.event, made.before) == (("v1", "v2"), 1, None)
    [event] = history(home, "mine")
    assert (event["event"], event["why"], event["by"]) == ("promoted", "the first of its name", "person")
    assert json.loads((home / "registry" / "mine" / "champion.json").read_text())["pair"]["trained"] == made.trained


def test_no_name_leaves_the_folder(home: Path, store: Store) -> None:
    for name in ("..", "../x", "a/b", "", ".hidden", "_default.json", "A", "a" * 200, "a\n", "a\0"):
        for ask in (champion, history, partial(record, event={"event": "x"})):
            with pytest.raises(UserError, match="no name of a model"):
                ask(home, name)
    assert not list(home.rglob("*.json"))


def test_names_do_not_touch_each_other(home: Path, store: Store) -> None:
    promote(home, "a", candidate(store, 1))
    promote(home, "b", candidate(store, 2))
    assert names(home) == ["a", "b"]
    assert [champion(home, name).trained for name in names(home)] == [f"{1:024d}", f"{2:024d}"]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="no pair before"):
        rollback(home, "a")
    assert len(history(home, "a")) == 1


def test_back_and_further_back_and_forward_again(home: Path, store: Store) -> None:
    for number in (1, 2, 3):
        promote(home, "mine", candidate(store, number))
    registry.record(home, "mine", {"event": "rejected", "why": "score -0.1; recall 0.5"})
    assert rollback(home, "mine").trained == f"{2:024d}" == in_use(home).trained
    assert rollback(home, "mine", why="still bad").trained == f"{1:024d}"
    with pytest.raises(UserError, match="no pair before"):
        rollback(home, "mine")
    with pytest.raises(UserError, match="no pair in event 4"):
        rollback(home, "mine", 4)
    assert rollback(home, "mine", 3).trained == f"{3:024d}"
    assert rollback(home, "mine").trained == f"{2:024d}"
    told = [(event["number"], event["event"], event["why"]) for event in history(home, "mine")]
    assert told[3:6] == [(4, "rejected", "score -0.1; recall 0.5"), (5, "rolled back", ""), (6, "rolled back", "still bad")]
    promote(home, "mine", candidate(store, 4))
    assert rollback(home, "mine").trained == f"{2:024d}", "what was in use before the last promotion"


def test_a_pair_whose_files_are_gone_is_not_brought_back(home: Path, store: Store) -> None:
    first = candidate(store, 1)
    promote(home, "mine", first)
    promote(home, "mine", candidate(store, 2))
    (first.indexed.part_folder() / "index.json").unlink()
    first.indexed.part_folder().rmdir()
    with pytest.raises(CorruptArtifact, match="cannot be brought back"):
        rollback(home, "mine")
    assert in_use(home).trained == f"{2:024d}"


def test_another_index_of_the_same_model_keeps_the_way_back(home: Path, store: Store) -> None:
    promote(home, "mine", candidate(store, 1))
    second = candidate(store, 2)
    promote(home, "mine", second)
    grown = indexed(store, second.exported, 7)
    made = reindex(home, "mine", grown, {"why": "3 documents added"})
    assert (made.model_digest, made.index_digest, made.trained) == (second.exported.digest, grown.digest, f"{2:024d}")
    assert made.keys["index"] == grown.manifest.key and history(home, "mine")[-1]["event"] == "reindexed"
    with pytest.raises(UserError, match="made by model"):
        reindex(home, "mine", indexed(store, exported(store, 3)))
    assert rollback(home, "mine").trained == f"{1:024d}", "a rollback is about the model"
    with pytest.raises(UserError, match="nothing is published"):
        reindex(home, "other", grown)


def test_a_trial_is_searched_until_there_is_a_champion_and_never_replaces_one(home: Path, store: Store) -> None:
    try_out(home, "smoke", candidate(store, 1), "sizes that mean nothing")
    assert champion(home, "smoke") is None and in_use(home).is_trial and in_use(home, "smoke").trained == f"{1:024d}"
    promote(home, "demo", candidate(store, 2))
    assert default_name(home) == "demo", "of a trial and a model the model"
    try_out(home, "demo", candidate(store, 3), "sizes that mean nothing")
    assert in_use(home).trained == f"{2:024d}"
    promote(home, "smoke", candidate(store, 4))
    assert champion(home, "smoke").before is None  # type: ignore[union-attr]
    with pytest.raises(UserError, match="no pair before"):
        rollback(home, "smoke")


def test_the_default_is_the_only_one_else_the_last_by_a_person(home: Path, store: Store) -> None:
    with pytest.raises(UserError, match="no index yet"):
        default_name(home)
    promote(home, "night", candidate(store, 1))
    assert default_name(home) == "night"
    promote(home, "mine", candidate(store, 2))
    with pytest.raises(UserError, match="--name: mine, night"):
        in_use(home)
    set_default(home, "mine")
    assert in_use(home).name == "mine" and in_use(home, "night").name == "night"
    with pytest.raises(UserError, match="there is: mine, night"):
        in_use(home, "other")


def test_a_comparison_with_a_champion_that_is_not_any_more_promotes_nothing(home: Path, store: Store) -> None:
    promote(home, "mine", candidate(store, 1), against=0)
    with pytest.raises(ChampionChanged):
        promote(home, "mine", candidate(store, 2), against=0)
    registry.record(home, "mine", {"event": "rejected", "why": "x"})
    assert promote(home, "mine", candidate(store, 2), against=1).trained == f"{2:024d}"
    assert len(history(home, "mine")) == 3


def test_an_index_that_followed_another_than_the_one_in_use_replaces_none(home: Path, store: Store) -> None:
    first = candidate(store, 1)
    promote(home, "mine", first)
    older, newer = (indexed(store, first.exported, number) for number in (1, 2))
    assert reindex(home, "mine", newer, against=first.indexed.digest).index_digest == newer.digest
    with pytest.raises(ChampionChanged, match="event 2 brought another index meanwhile; update once more"):
        reindex(home, "mine", older, against=first.indexed.digest)  # begun with the same one, and slower
    assert reindex(home, "mine", newer, against=first.indexed.digest).index_digest == newer.digest, "of two alike both are done"
    assert in_use(home).index_digest == newer.digest and len(history(home, "mine")) == 2


def test_two_at_once_come_one_after_the_other(home: Path, store: Store) -> None:
    made = [candidate(store, number) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: promote(home, "mine", one), made))
    events = history(home, "mine")
    assert sorted(event["pair"]["trained"] for event in events) == [f"{number:024d}" for number in range(16)]
    assert [event["pair"]["before"] for event in events] == [None, *range(1, 16)], "each brings back the one before it"
    assert in_use(home).trained == events[-1]["pair"]["trained"]


@pytest.mark.parametrize("point", ["registry:before_event", "file:before_fsync", "file:before_link", "registry:before_pointer"])
@pytest.mark.parametrize("step", ["promote", "rollback"])
def test_a_kill_leaves_the_pair_before_or_after(home: Path, store: Store, point: str, step: str) -> None:
    promote(home, "mine", candidate(store, 1))
    promote(home, "mine", candidate(store, 2))
    candidate(store, 3)
    code = (
        f"import sys, os, signal; from pathlib import Path; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from pipeline_lib.store.files import arm; from test_registry import *\n"
        f"home = Path({str(home)!r}); made = candidate(Store(home / 'store'), 3)\n"
        f"arm({point!r}, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        f"promote(home, 'mine', made) if {step!r} == 'promote' else rollback(home, 'mine')\n"
    )
    died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = point == "registry:before_pointer"
    after = f"{3:024d}" if step == "promote" else f"{1:024d}"
    assert in_use(home).trained == (after if done else f"{2:024d}")
    assert len(history(home, "mine")) == (3 if done else 2)
    assert promote(home, "mine", candidate(store, 4)).trained == f"{4:024d}" == in_use(home).trained
    assert [event["number"] for event in history(home, "mine")] == list(range(1, (5 if done else 4)))


def test_a_reader_knows_when_to_look_again(home: Path, store: Store) -> None:
    found = promote(home, "mine", candidate(store, 1))
    assert not has_moved(found) and not has_moved(in_use(home))
    promote(home, "mine", candidate(store, 2))
    assert has_moved(found) and not has_moved(in_use(home))
    rollback(home, "mine")
    assert has_moved(found)


def test_a_home_of_an_earlier_version_keeps_its_pair(home: Path, store: Store) -> None:
    old = candidate(store, 1)
    folders = {name: made.part_folder().relative_to(home).as_posix() for name, made in pair_of(old).items()}
    digests = {f"{name}_digest": made.digest for name, made in pair_of(old).items()}
    (home / "current.json").write_text(json.dumps({**folders, **digests, "run": "demo"}))
    assert names(home) == ["demo"] and in_use(home).model == old.exported.part_folder()
    assert champion(home, "demo") == in_use(home, "demo")
    promote(home, "night", candidate(store, 2))
    assert default_name(home) == "demo" and names(home) == ["demo", "night"]
    promote(home, "demo", candidate(store, 3))
    assert [event["event"] for event in history(home, "demo")] == ["adopted", "promoted"]
    assert in_use(home).trained == f"{3:024d}"
    assert rollback(home, "demo").model == old.exported.part_folder()
    assert {pair.model for pair in kept_pairs(home)} >= {old.exported.part_folder()}


def pair_of(made: Candidate) -> dict[str, Artifact]:
    return {"model": made.exported, "index": made.indexed}


def test_what_is_kept_is_each_names_pair_and_the_one_before(home: Path, store: Store) -> None:
    for number in (1, 2, 3):
        promote(home, "a", candidate(store, number))
    promote(home, "b", candidate(store, 4))
    assert sorted(pair.trained[-1] for pair in kept_pairs(home)) == ["2", "3", "4"]


def test_prune_keeps_every_champion_and_what_a_rollback_brings_back(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {number: candidate(store, number) for number in (1, 2, 3, 4, 5)}
    for name, number in (("a", 1), ("a", 2), ("a", 3), ("b", 4)):
        promote(home, name, made[number])
    monkeypatch.setenv("CPT_HOME", str(home))
    os.utime(made[5].exported.folder / "manifest.json", (2e9, 2e9))  # the newest, which nobody published
    os.utime(made[5].indexed.folder / "manifest.json", (2e9, 2e9))
    answer = CliRunner().invoke(app, ["prune", "--keep-runs", "1", "--idle-hours", "0", "--yes"])
    assert answer.exit_code == 0, answer.output
    there = {number: one.exported.part_folder().is_dir() and one.indexed.part_folder().is_dir() for number, one in made.items()}
    assert there == {1: False, 2: True, 3: True, 4: True, 5: True}
    assert rollback(home, "a").trained == f"{2:024d}"


def test_a_record_that_cannot_be_understood_is_said_and_the_history_makes_it_again(home: Path, store: Store) -> None:
    made = promote(home, "mine", candidate(store, 1))
    path = home / "registry" / "mine" / "champion.json"
    for content in ("{", "[]", "{}", '{"as_of": 1, "pair": 3}', '{"as_of": 1, "pair": {"model": 1}}'):
        path.write_text(content)
        with pytest.raises(CorruptArtifact, match=r"champion\.json"):
            in_use(home)
    path.unlink()
    assert in_use(home) == made


def test_the_home_may_be_moved(home: Path, store: Store, tmp_path: Path) -> None:
    promote(home, "mine", candidate(store, 1))
    os.rename(home, tmp_path / "moved")
    assert in_use(tmp_path / "moved").index.is_relative_to(tmp_path / "moved")


def test_a_bucket_holds_the_registry_for_every_machine(home: Path, store: Store) -> None:
    place = "memory://registry-test/store"
    shared = Store.at(place)
    for number in (1, 2):
        promote(place, "mine", candidate(shared, number))
    assert names(place) == ["mine"] and in_use(place).trained == f"{2:024d}"
    registry.stand_in(home, "mine", place)
    assert names(home) == ["mine"] and in_use(home).model.is_dir()
    assert rollback(home, "mine").trained == f"{1:024d}" == in_use(place).trained
    assert [event["number"] for event in history(home, "mine")] == [1, 2, 3]
    found = in_use(home)
    promote(place, "mine", candidate(shared, 3))
    assert has_moved(found)
    assert not (home / "registry" / "mine" / "history").exists()


def test_a_champion_of_this_home_is_found_until_the_bucket_has_one_of_its_name(home: Path, store: Store) -> None:
    bucket, other = "memory://stand-in/one", "memory://stand-in/two"
    promote(home, "mine", candidate(store, 1))
    registry.stand_in(home, "mine", bucket)
    try_out(bucket, "mine", candidate(Store.at(bucket), 2), "of the sizes of a test")
    registry.stand_in(home, "mine", bucket)
    assert in_use(home, "mine").trained == f"{1:024d}", "neither a run that was killed nor a trial takes its place"
    promote(bucket, "mine", candidate(Store.at(bucket), 3))
    here = in_use(home, "mine")
    assert not has_moved(here, home)
    registry.stand_in(home, "mine", bucket)
    assert has_moved(here, home), "a process that searches goes to the bucket too"
    assert in_use(home, "mine").trained == f"{3:024d}"
    registry.stand_in(home, "mine", other)
    assert in_use(home, "mine").trained == f"{3:024d}"
    promote(other, "mine", candidate(Store.at(other), 4))
    registry.stand_in(home, "mine", other)
    assert in_use(home, "mine").trained == f"{4:024d}", "who moves to another bucket finds what was promoted there"


def test_a_rollback_brings_no_trial_back(home: Path, store: Store) -> None:
    try_out(home, "mine", candidate(store, 1), "of the sizes of a test")
    promote(home, "mine", candidate(store, 2))
    with pytest.raises(UserError, match="event 1 was a trial"):
        rollback(home, "mine", to=1)
    assert in_use(home, "mine").trained == f"{2:024d}" and len(history(home, "mine")) == 2


def test_a_trial_is_no_champion_that_a_candidate_would_have_to_be_compared_with(home: Path, store: Store) -> None:
    try_out(home, "mine", candidate(store, 1), "of the sizes of a test")
    assert promote(home, "mine", candidate(store, 2), "the first of its name", against=0).trained == f"{2:024d}"
    with pytest.raises(ChampionChanged):
        promote(home, "mine", candidate(store, 3), against=0)


def test_an_index_for_a_champion_that_is_none_any_more_says_that_it_changed(home: Path, store: Store) -> None:
    old, new = candidate(store, 1), candidate(store, 2)
    promote(home, "mine", old)
    promote(home, "mine", new)
    with pytest.raises(ChampionChanged):
        reindex(home, "mine", indexed(store, old.exported, 7))


def test_what_a_person_took_back_is_known_until_it_is_promoted_again(home: Path, store: Store) -> None:
    one, two = candidate(store, 1), candidate(store, 2)
    promote(home, "mine", one)
    promote(home, "mine", two)
    assert in_use(home, "mine").taken_back == ()
    reindex(home, "mine", indexed(store, two.exported, 7))
    rollback(home, "mine")
    taken = (two.exported.digest,)
    assert in_use(home, "mine").taken_back == taken
    reindex(home, "mine", indexed(store, one.exported, 7))
    promote(home, "mine", candidate(store, 3))
    assert in_use(home, "mine").taken_back == taken
    rollback(home, "mine", to=1)
    assert len(in_use(home, "mine").taken_back) == 2
    promote(home, "mine", two)
    assert in_use(home, "mine").taken_back == (candidate(store, 3).exported.digest,)
    assert [event["number"] for event in history(home, "mine", 6)] == [7, 8]


def pruned(home: Path, store: Path) -> str:
    env = {**os.environ, "CPT_HOME": str(home)}
    answer = CliRunner(env=env).invoke(
        app, ["prune", "--artifacts", str(store), "--keep-runs", "1", "--idle-hours", "0", "--yes"]
    )
    return answer.output + str(answer.exception or "")


def test_prune_keeps_the_champions_of_every_home_that_publishes_from_the_store(tmp_path: Path) -> None:
    store, one, other = Store(tmp_path / "shared"), tmp_path / "one", tmp_path / "other"
    made = {number: candidate(store, number) for number in (1, 2, 3)}
    promote(one, "mine", made[1])
    promote(other, "mine", made[2])
    for stage in ("exported", "indexed"):
        os.utime(getattr(made[3], stage).folder / "manifest.json", (2e9, 2e9))  # the newest
    assert "bytes removed" in pruned(one, store.root)
    assert in_use(one, "mine").index.is_dir() and in_use(other, "mine").index.is_dir()
    other.rename(tmp_path / "away")
    assert "not to be seen here" in pruned(one, store.root)
    inside = Store(one / "store")
    promote(one, "inside", first := candidate(inside, 4))
    candidate(inside, 5)
    assert "bytes removed" in pruned(tmp_path / "third", inside.root), "the home that the store lies in"
    assert first.indexed.part_folder().is_dir()


def write_text(text: str, folder: Path, _: object) -> None:
    (folder / "w").write_text(text)


def test_prune_keeps_what_the_next_night_begins_with_and_waits_for_an_answer(home: Path, store: Store) -> None:
    stages = ("source", "curate", "known_splits", "shards")
    made = {stage: write_artifact(store, stage, ["part"], partial(write_text, stage), Numbered(number=9)) for stage in stages}
    keys = {stage: artifact.manifest.key for stage, artifact in made.items()}
    promote(home, "mine", candidate(store, 1))
    state = {"source": keys["source"], "trained_on": keys["curate"], "known": keys["known_splits"], "asked": "x"}
    record(home, "mine", {"event": "night", "state": state})
    with outcome_of(home, "retrain", "mine") as held:
        held[0] = held[0].begun("a-night", "1").suspended()
    assert "a-night is suspended" in pruned(home, store.root)
    with outcome_of(home, "retrain", "mine") as held:
        held[0] = held[0].ended("a-night", "1", "completed")
    assert "bytes removed" in pruned(home, store.root)
    assert {stage for stage, key in keys.items() if store.find(stage, key)} == {"source", "curate", "known_splits"}
