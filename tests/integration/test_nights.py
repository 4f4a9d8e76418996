"""Nights over a dump that grows: by the flow itself, and by the real scheduler with a kill in the second.

A better model is promoted, a worse one is held back while its documents are found and removed ones are not, and a night with
nothing new ends at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml
from corpus import write_corpus

from flows.orchestrator.server import free_port
from pipeline_lib.search import registry
from pipeline_lib.search.query import Searcher
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]
NAME = "corpus"
PRESET = {"base": "smoke", "tests_plumbing": False}  # the same sizes, which may be promoted
SETTINGS = {
    "train": {"steps": 30, "checkpoints": 1},
    "export": {"onnx": False},
    "curate": {"validation_percent": 30},
    "evaluate": {"bootstrap": 100},
    "promote": {
        "confidence": 0.8,
        "margins": dict.fromkeys(("code_search", "text_search", "classification", "similarity"), 1.0),
    },
}
WORSE = {**SETTINGS, "train": {**SETTINGS["train"], "learning_rate": 1.0e-9}}  # it learns nothing

FLOWS = """
import json, sys, time
from pathlib import Path

from flows.cli.index import update_params
from flows.cli.terminal import with_server
from integration.test_nights import PAGE, SETTINGS, WORSE, grow, words_of


def retrain(params):
    from flows.retrain import retrain  # Prefect asks once where its server is, which has to run by then

    return retrain(params)


def run(name, **params):
    from flows.params import RunParams

    started = time.monotonic()
    answers[name] = retrain(RunParams(preset="little", source=str(source), name="corpus", **params))
    answers[name]["took"] = time.monotonic() - started


def little():
    words = words_of({**SETTINGS, "train": {"steps": 2, "checkpoints": 1}})
    run("person", set=words)
    grow(source, 2)
    words += ["nightly.policy=restart", "nightly.min_new_share=0.9"]
    run("dry", set=words, dry_run=True)
    run("indexed", set=words, promote="gate")
    run("empty", set=words, promote="gate")
    run("dry empty", set=words, dry_run=True)
    (source / "one.md").write_text(PAGE)
    (source / "basket_01").rename(source / "elsewhere")
    answers["updated"] = retrain(update_params())


def nights():
    run("person", set=words_of(WORSE))
    for number, settings in enumerate((SETTINGS, WORSE, WORSE), start=1):
        grow(source, number)
        words = [*words_of(settings), "nightly.policy=continue"]
        run(f"night {number}", set=words, promote="gate")
    (source / "one.md").write_text(PAGE)
    run("going on", set=[*words, "nightly.min_new_share=0"], promote="always")


if __name__ == "__main__":
    which, source, answers = sys.argv[1], Path(sys.argv[2]), {}
    with_server({"little": little, "nights": nights}[which])
    Path(sys.argv[3]).write_text(json.dumps(answers))
"""
PAGE = "# One\n\n" + "\n\n".join(f"A single page about number {n} of the sea. " * 9 for n in range(3))


def words_of(settings: dict[str, dict[str, Any]]) -> list[str]:
    """The words of --set."""
    return [f"{section}.{name}={json.dumps(value)}" for section, values in settings.items() for name, value in values.items()]


def grow(source: Path, night: int) -> None:
    """What comes before a night: packages, in the second night one goes too, and nothing in the third."""
    if night == 1:
        write_corpus(source / "more", packages=6, functions=8, seed=21)
    if night == 2:
        write_corpus(source / "most", packages=5, functions=8, seed=22)
        shutil.rmtree(source / "anchor_00")


class Ran(NamedTuple):
    home: Path
    answers: dict[str, Any]

    def night(self, name: str) -> dict[str, Any]:
        return dict(self.answers[name]["night"])


def prepared(place: Path) -> tuple[Path, Path]:
    """A home with the preset, and the dump before the first night."""
    home = place / "home"
    (home / "presets").mkdir(parents=True)
    (home / "presets" / "little.yaml").write_text(yaml.safe_dump(PRESET))
    return home, write_corpus(place / "tree", packages=20, functions=8)


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return kept | {"CPT_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])}


def ran_flows(which: str, place: Path) -> Ran:
    home, source = prepared(place)
    (place / "flows_of_the_test.py").write_text(FLOWS)
    answer = subprocess.run(
        [sys.executable, str(place / "flows_of_the_test.py"), which, str(source), str(place / "answers.json")],
        env=environment(home), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-4000:]
    return Ran(home, json.loads((place / "answers.json").read_text()))


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A champion, and nights in which little is new, or nothing."""
    return ran_flows("little", tmp_path_factory.mktemp("little"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Nights that train, without a scheduler."""
    return ran_flows("nights", tmp_path_factory.mktemp("nights"))


def paths_found(home: Path, name: str = NAME) -> set[str]:
    """The documents that a search under the name can find."""
    rows = Searcher(registry.in_use(home, name), _weights).rows
    return set(rows["path"].to_pylist())


def _weights(folder: Path) -> Any:
    from pipeline_lib.export.exported import TorchQueries

    return TorchQueries(folder)


def results(home: Path, nights: int | None = None) -> dict[str, Any]:
    """All that so many nights leave for those who search, free of time: the champion, its index, and the nights' outcomes."""
    history = registry.history(home, NAME)
    seen = [event for event in history if event["event"] == "night" and event["outcome"] != "nothing new"][:nights]
    *_, pair = (event["pair"] for event in history if "pair" in event and event["number"] < seen[-1]["number"])
    told = [{"outcome": event["outcome"], "state": event["state"]} for event in seen]
    return {name: pair[name] for name in ("model_digest", "index_digest", "trained")} | {"nights": told}


def test_what_is_new_is_found_and_what_was_removed_is_not_though_nothing_is_trained(little: Ran) -> None:
    night = little.night("indexed")
    assert (night["outcome"], night["files"]) == ("indexed", {"new": 10, "changed": 0, "removed": 2}), night["sentence"]
    assert 0 < night["new_share"] < 0.5 and "lineage" not in little.answers["indexed"]
    champion = registry.champion(little.home, NAME)
    assert champion and champion.trained == little.answers["person"]["lineage"]["train"]["key"]
    found = paths_found(little.home)
    assert any(path.startswith("most/") for path in found) and not any(path.startswith("anchor_00") for path in found)
    assert len(list((little.home / "store" / "train").glob("*/manifest.json"))) == 1


def test_a_night_with_nothing_new_ends_at_once_and_says_so(little: Ran) -> None:
    night, answer = little.night("empty"), little.answers["empty"]
    assert night["outcome"] == "nothing new" and "lineage" not in answer and answer["took"] < 20
    assert "nothing new: every file is as it was" in night["sentence"]
    told = [event for event in registry.history(little.home, NAME) if event["event"] == "night"]
    assert [event["outcome"] for event in told][:2] == ["indexed", "nothing new"] and told[0]["state"] == told[1]["state"]


def test_a_dry_run_says_what_a_night_would_do_and_does_nothing(little: Ran) -> None:
    night, key = little.night("dry"), little.answers["person"]["lineage"]["train"]["key"]
    assert night["files"] == {"new": 10, "changed": 0, "removed": 2} and 0 < night["share_of_bytes"] < 0.5
    assert "nothing is trained, the champion's index takes them in" in night["verdict"]
    assert "new      tree: most/anchor_00/README.md" in night["lines"] and night["champion"] == f"{key}/step-000002"
    assert "it would end at once" in little.night("dry empty")["sentence"]
    assert len([event for event in registry.history(little.home, NAME) if event["event"] == "night"]) == 3, (
        "those that were none"
    )


def test_every_split_of_the_dataset_before_is_kept(little: Ran) -> None:
    store = Store(little.home / "store")
    state = next(event["state"] for event in registry.history(little.home, NAME) if event["event"] == "night")
    ledger, curated = store.open("known_splits", state["known"]), store.open("curate", state["curate"])
    assert curated.manifest.inputs["known"] == ledger.digest
    first = little.answers["person"]["lineage"]["curate"]["key"]
    assert ledger.manifest.inputs == {"curated": store.open("curate", first).digest}


def test_an_update_of_the_index_alone_takes_in_what_came_and_what_moved(little: Ran) -> None:
    night = little.night("updated")
    assert (night["outcome"], night["policy"]) == ("indexed", "index") and "nothing is trained" in night["sentence"]
    found = paths_found(little.home)
    assert "one.md" in found and any(path.startswith("elsewhere/") for path in found)
    assert not any(path.startswith("basket_01") for path in found)
    delta = json.loads((registry.in_use(little.home, NAME).index / "index.json").read_text())["delta"]
    assert delta["number"] == 2 and delta["added"] >= 3 and delta["moved"] > 0, delta


@pytest.mark.slow
@pytest.mark.timeout(1800)  # whoever asks first waits for `ran`
def test_a_better_one_is_promoted(ran: Ran) -> None:
    night = ran.night("night 1")
    assert (night["outcome"], night["files"]) == ("promoted", {"new": 12, "changed": 0, "removed": 0}), night["sentence"]
    assert "the configuration is another one than last time" in night["sentence"]
    assert registry.history(ran.home, NAME)[0]["event"] == "promoted", "the person's run is the first champion"


@pytest.mark.slow
def test_a_worse_one_is_held_back(ran: Ran) -> None:
    night = ran.night("night 2")
    assert (night["outcome"], night["files"]) == ("held back", {"new": 10, "changed": 0, "removed": 2}), night["sentence"]
    assert "not surely better" in night["sentence"] and "the champion's index holds the night's documents" in night["sentence"]
    assert ran.night("night 3")["outcome"] == "nothing new"


@pytest.mark.slow
def test_training_goes_on_from_the_champion_and_not_from_what_was_held_back(ran: Ran) -> None:
    store, made = Store(ran.home / "store"), ran.answers["going on"]
    trained = store.open("train", made["lineage"]["train"]["key"])
    champion = store.open("train", ran.answers["night 1"]["lineage"]["train"]["key"])
    assert trained.manifest.inputs["parent"] == champion.digest and trained.manifest.facts["step"] == 8, "a quarter"
    assert trained.manifest.inputs["tokenizer"] == champion.manifest.inputs["tokenizer"]
    assert made["night"]["outcome"] == "promoted" and 0 < made["night"]["new_share"] < 0.1
    assert "one.md" in paths_found(ran.home)


class Platform:
    """`cpt up` with a user's file of nights deployed."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        self.log = (self.home / "up.log").open("wb")
        command = [sys.executable, "-m", "flows.cli", "up", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=environment(self.home), cwd=PROJECT, stdout=self.log, stderr=self.log)
        wait_until(lambda: b"Ctrl-C stops all" in (self.home / "up.log").read_bytes(), 120)

    def cpt(self, *words: str) -> str:
        command = [sys.executable, "-m", "flows.cli", *words]
        alone = {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}  # no second server beside the platform's
        done = subprocess.run(
            command, env=environment(self.home) | alone, cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, settings: dict[str, Any], source: Path, active: bool) -> None:
        night = {"name": NAME, "preset": "little", "source": str(source), "policy": "continue", "settings": settings}
        path = self.home / "nights.yaml"
        path.write_text(yaml.safe_dump({**night, "schedule": {"interval": 10, "active": active}}))
        assert f"retrain/{NAME}" in self.cpt("deploy", "--config", str(path))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)
        self.log.close()


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.3)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Platform, Path]]:
    home, source = prepared(tmp_path)
    platform = Platform(home)
    platform.start()
    yield platform, source
    platform.stop()


def outcomes(home: Path) -> list[str]:
    return [event["outcome"] for event in registry.history(home, NAME) if event["event"] == "night"]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # nights of real time, after those of `ran`
def test_three_nights_pass_through_the_scheduler_and_a_kill_in_the_second_changes_no_result(
    platform: tuple[Platform, Path], ran: Ran
) -> None:
    up, source = platform
    words = [word for setting in words_of(WORSE) for word in ("--set", setting)]
    up.cpt("run", "--preset", "little", "--source", str(source), "--name", NAME, *words)
    grow(source, 1)
    up.deploy(SETTINGS, source, active=True)
    wait_until(lambda: "promoted" in outcomes(up.home), 600)
    wait_until(lambda: outcomes(up.home)[-1] == "nothing new", 300)

    up.deploy(SETTINGS, source, active=False)  # no night may see half of what comes
    quiet(up)
    grow(source, 2)
    trained = set((up.home / "store" / "train").glob("*"))
    up.deploy(WORSE, source, active=True)
    job = up.home / "store" / "train"
    wait_until(lambda: any((path / "timing.jsonl").exists() for path in set(job.glob("*")) - trained), 600)
    kill_flow(up)
    wait_until(lambda: "held back" in outcomes(up.home), 900)
    wait_until(lambda: outcomes(up.home)[-1] == "nothing new", 300)
    assert [one for one in outcomes(up.home) if one != "nothing new"] == ["promoted", "held back"]
    found = paths_found(up.home)
    assert any(path.startswith("most/") for path in found) and not any(path.startswith("anchor_00") for path in found)
    assert states_of(up, "COMPLETED")[-1][1].startswith(f"{NAME}: nothing new")
    assert results(up.home) == results(ran.home, nights=2)


def states_of(up: Platform, state: str) -> list[tuple[str, str]]:
    import sqlite3

    with sqlite3.connect(f"file:{up.home}/prefect/prefect.db?mode=ro", uri=True) as database:
        wanted = (
            "select run.id, state.message from flow_run run join flow_run_state state on state.id = run.state_id"
            " where run.state_type = ? and run.deployment_id is not null order by run.created"
        )
        return [(str(row[0]), str(row[1])) for row in database.execute(wanted, (state,)).fetchall()]


def quiet(up: Platform) -> None:
    """Wait until no night is at work."""
    wait_until(lambda: not any(states_of(up, state) for state in ("SCHEDULED", "PENDING", "RUNNING")), 300)


def kill_flow(up: Platform) -> None:
    """SIGKILL to the flow's process and all below it."""
    (worker,) = [child for child in psutil.Process(up.process.pid).children() if "worker" in child.cmdline()]
    for flow in worker.children():
        for process in [flow, *flow.children(recursive=True)]:
            process.kill()
