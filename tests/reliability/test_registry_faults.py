"""R15, R17, R18 and R20 again, over the life of a name: a first model, then a night in which the dump has grown.

On a disk, and in a bucket where each attempt is another machine, with neither a cache nor a trainer's state of its own.
tests/unit/search/test_registry_bucket.py is the quick sibling, and has R16 and S10.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from corpus import write_corpus
from reliability.test_extraction_faults import can_mount
from reliability.test_interruption import BEFORE_MANIFEST, BOUNDARY, KILLED, PROGRAM

from flows.orchestrator.server import prefect_environment, prefect_server
from pipeline_lib.search.registry import history, in_use

PROJECT = Path(__file__).parents[2]
NAME = "tree"
EVERY = 8  # boundaries of artifacts that an attempt lives for
EVENT, POINTER = "registry:before_event", "registry:before_pointer"
PRESET = {"base": "smoke", "tests_plumbing": False, "export": {"onnx": False}, "evaluate": {"bootstrap": 100}}


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        for name, value in prefect_environment(home).items():
            patch.setenv(name, value)
        with prefect_server(home) as url:
            yield url


class Life(NamedTuple):
    """A name's home, or the bucket that homes work on, and the dump that it is made of."""

    place: Path
    dump: Path
    url: str
    bucket: str = ""

    @property
    def registry(self) -> Any:
        return self.bucket or self.place

    def words(self, night: bool) -> list[str]:
        given = ["run", "--preset", "little", "--source", str(self.dump), "--name", NAME, "--steps", "5"]
        nightly = ["--set", "nightly.policy=continue", "--set", "nightly.min_new_share=0", "--promote", "gate"] if night else []
        return [*given, *nightly, *(["--artifacts", self.bucket] if self.bucket else [])]

    def start(self, night: bool, place: str = "", crossings: int = 1, machine: str = "") -> subprocess.Popen[str]:
        home = self.place / machine
        (home / "presets").mkdir(parents=True, exist_ok=True)
        (home / "presets" / "little.yaml").write_text(yaml.safe_dump(PRESET))
        env = {**os.environ, "CPT_HOME": str(home), "PREFECT_API_URL": self.url}
        command = [sys.executable, "-c", PROGRAM, place, str(crossings), *self.words(night)]
        return subprocess.Popen(command, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, night: bool, place: str = "", crossings: int = 1, machine: str = "") -> int:
        process = self.start(night, place, crossings, machine)
        said = process.communicate(timeout=400)[1]
        assert process.returncode in (0, KILLED), said[-3000:]
        return int(process.returncode)

    def manifests(self, s3: Any) -> dict[str, bytes]:
        if not self.bucket:
            store = self.place / "store"
            return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("*/*/manifest.json")}
        root = self.bucket.removeprefix("s3://")
        found = [name for name in s3.find(root) if name.endswith("/manifest.json")]
        return {name.removeprefix(f"{root}/"): s3.cat_file(name) for name in found}


def grown(dump: Path) -> None:
    """What comes before the night."""
    write_corpus(dump / "more", packages=4, functions=8, seed=21)


def outcome(life: Life) -> dict[str, Any]:
    """All that a life leaves for those who search, free of time and of attempts."""
    pair, events = in_use(life.registry, NAME), history(life.registry, NAME)
    nights = [(event["outcome"], event["state"]) for event in events if event["event"] == "night"]
    return {
        "pair": (pair.model_digest, pair.index_digest, pair.trained, pair.checkpoint),
        "nights": [night for night in nights if night[0] != "nothing new"],
        "promoted": [event["pair"]["model_digest"] for event in events if event["event"] == "promoted"],
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> tuple[Life, list[dict[str, bytes]]]:
    """A life without faults, and its manifests after the first model and after the night."""
    place = tmp_path_factory.mktemp("calm")
    life = Life(place / "home", write_corpus(place / "tree", packages=14, functions=8), server_url)
    assert life.run(False) == 0
    first = life.manifests(None)
    grown(life.dump)
    assert life.run(True) == 0
    return life, [first, life.manifests(None)]


def killed_again_and_again(life: Life, night: bool, artifacts: int, s3: Any, note: Callable[[str, object], None]) -> None:
    """The same command, killed again and again on its way to so many artifacts, until it comes to its end."""
    began, before = time.monotonic(), life.manifests(s3)
    places = (BEFORE_MANIFEST, *[BOUNDARY] * ((artifacts - 2) // EVERY), EVENT, POINTER, "")
    for attempt, place in enumerate(places):
        at = time.monotonic()
        code = life.run(night, place, EVERY if place == BOUNDARY else 1, f"{night}-{attempt}" if life.bucket else "")
        took = round(time.monotonic() - at, 1)
        after = life.manifests(s3)
        assert before.items() <= after.items(), "a finished artifact is another one now"
        note(f"{'night' if night else 'first'}, {place or 'to the end'}", [took, len(after) - len(before), code])
        before = after
        assert code == (KILLED if place else 0), f"{place}: it was not killed, or did not come to its end"
    note(f"{'night' if night else 'first'}, seconds in all", round(time.monotonic() - began, 1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_r15_r20_a_life_that_is_killed_again_and_again_ends_as_a_calm_one(
    tmp_path: Path, calm: tuple[Life, list[dict[str, bytes]]], where: str, s3: Any, record_property: Any
) -> None:
    life, manifests = calm
    shutil.rmtree(life.dump / "more")  # the same folder again, for the card tells where it is
    if where == "bucket":
        s3.mkdir("life")
    hurt = Life(tmp_path / "home", life.dump, life.url, "s3://life/run" if where == "bucket" else "")

    def note(name: str, value: object) -> None:
        record_property(f"{where}: {name}", value)
        print(f"{where}: {name}: {value}")

    killed_again_and_again(hurt, False, len(manifests[0]), s3, note)
    assert set(hurt.manifests(s3)) >= set(manifests[0])
    grown(hurt.dump)
    killed_again_and_again(hurt, True, len(manifests[1]) - len(manifests[0]), s3, note)
    found = hurt.manifests(s3)
    assert {name: found.get(name) for name in manifests[1]} == manifests[1], "the bytes are those of a calm life on a disk"
    assert outcome(hurt) == outcome(life)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_r18_two_nights_at_once_leave_one_set_of_artifacts_and_one_champion(
    tmp_path: Path, calm: tuple[Life, list[dict[str, bytes]]], where: str, s3: Any
) -> None:
    life, manifests = calm
    shutil.rmtree(life.dump / "more")  # the same folder again, for the card tells where it is
    if where == "bucket":
        s3.mkdir("two")
    both = Life(tmp_path / "home", life.dump, life.url, "s3://two/run" if where == "bucket" else "")
    machines = ("left", "right") if where == "bucket" else ("", "")
    assert both.run(False, machine=machines[0]) == 0
    grown(both.dump)
    at_work = [both.start(True, machine=machine) for machine in machines]
    told = [process.communicate(timeout=600)[1] for process in at_work]
    assert [process.returncode for process in at_work] == [0, 0], told
    found = both.manifests(s3)
    assert {name: found.get(name) for name in manifests[1]} == manifests[1]
    assert outcome(both)["pair"] == outcome(life)["pair"]
    numbers = [event["number"] for event in history(both.registry, NAME)]
    assert numbers == [*range(1, len(numbers) + 1)]


FULL = """
import errno, os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from unit.search.candidates import candidate
from pipeline_lib.search import registry
from pipeline_lib.store.store import Store

home = Path(sys.argv[1])
store = Store(home / "store")
first, second = candidate(store, 1), candidate(store, 2)
registry.promote(home, "mine", first)
fill = home / "fill"
with fill.open("wb", buffering=0) as stream:
    try:
        while True:
            stream.write(b"x" * 512)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
try:
    registry.promote(home, "mine", second)
except OSError as error:
    print(error.errno == errno.ENOSPC)
print(registry.in_use(home, "mine").trained == first.trained, len(registry.history(home, "mine")))
print(sorted(path.name for path in (home / "registry").rglob("*") if path.is_file()))
fill.unlink()
print(registry.promote(home, "mine", second).event, registry.rollback(home, "mine").event)
"""


def test_r17_a_full_disk_promotes_nothing_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("this user may not mount a small disk")
    shell = 'mount -t tmpfs -o size=400k tmpfs "$1" && exec "$2" -c "$3" "$1" "$4"'
    words = ["unshare", "-rm", "sh", "-c", shell, "sh", str(disk), sys.executable, FULL, str(PROJECT / "tests")]
    env = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    answer = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    refused, kept, files, after = answer.stdout.splitlines()
    assert (refused, kept, after) == ("True", "True 1", "2 3")
    assert json.loads(files.replace("'", '"')) == ["000001.json", "champion.json"]
