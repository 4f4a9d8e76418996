"""The store in a bucket: machines with a cache each find each other's work, and no fault leaves half of anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.data import CurateConfig
from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.store import files as faults
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="stage", version=1)
CONFIG = CurateConfig()


@pytest.fixture
def url(s3: Any, request: pytest.FixtureRequest) -> str:
    """A folder of its own in a bucket, for each test."""
    if not s3.exists("artifacts"):
        s3.mkdir("artifacts")
    return f"s3://artifacts/{digest_of(request.node.name)[:12]}/root"


def machine(tmp_path: Path, name: str, url: str) -> Store:
    """What one machine sees of the store."""
    return Store(tmp_path / name, url)


def write_part(store: Store, key: str, text: str) -> Part:
    scratch = store.scratch(STAGE.name)
    (scratch / "rows.txt").write_text(text)
    return store.commit_part(draft_part(STAGE, key, "one", Counts(n_in=2, n_out=1, dropped={"short": 1})), scratch)


def build(store: Store, text: str = "hello", made: list[str] | None = None) -> Artifact:
    def make(_: str) -> Outcome:
        if made is not None:
            made.append(text)
        return Outcome(parts=(store.find_part("stage", "k") or write_part(store, "k", text),))

    return store.build(STAGE, CONFIG, {}, make)


def test_another_machine_finds_the_work_and_fetches_only_what_it_reads(tmp_path: Path, url: str) -> None:
    first = build(machine(tmp_path, "a", url))
    made: list[str] = []
    second = build(machine(tmp_path, "b", url), made=made)
    assert not made and second.digest == first.digest
    assert not list((tmp_path / "b").rglob("rows.txt"))
    assert second.paths("rows.txt")[0].read_text() == "hello"
    assert json.loads(second.note("run.json") or b"")["seconds"] >= 0
    third = machine(tmp_path, "c", url)
    assert third.find_part("stage", "k") == first.manifest.parts[0]
    assert (third.folder_of(first.manifest.parts[0]) / "rows.txt").read_text() == "hello"
    assert third.open("stage", first.manifest.key).digest == first.digest
    with pytest.raises(UserError, match=first.manifest.key):
        third.open("stage", "nope")


def test_the_bucket_holds_what_a_disk_would(tmp_path: Path, url: str, s3: Any) -> None:
    build(machine(tmp_path, "a", url))
    build(Store(tmp_path / "disk"))
    on_disk = {p.relative_to(tmp_path / "disk").as_posix() for p in (tmp_path / "disk" / "stage").rglob("*") if p.is_file()}
    assert set(Bucket(url).sizes("stage")) == on_disk
    assert not Bucket(url).sizes("locks"), "which processes are at work is a machine's own matter"
    (manifest,) = (tmp_path / "disk").glob("stage/*/manifest.json")
    assert s3.cat_file(f"{url}/{manifest.relative_to(tmp_path / 'disk')}") == manifest.read_bytes()


@pytest.mark.parametrize(
    "place",
    ["part:before_move", "bucket:before_upload", "bucket:before_record", "part:before_record", "artifact:before_manifest"],
)
def test_a_fault_at_any_place_leaves_no_artifact_and_another_machine_completes_it(tmp_path: Path, url: str, place: str) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    faults.arm(place, fail)
    with pytest.raises(KeyboardInterrupt):
        build(machine(tmp_path, "a", url))
    faults.disarm()
    second = machine(tmp_path, "b", url)
    assert second.artifacts("stage") == []
    assert build(second).paths("rows.txt")[0].read_text() == "hello"
    made: list[str] = []
    assert build(machine(tmp_path, "a", url), made=made).paths("rows.txt")[0].read_text() == "hello"
    assert not made


def test_the_loser_of_a_race_reads_the_winners(tmp_path: Path, url: str) -> None:
    def race(number: int) -> tuple[str, str]:
        found = build(machine(tmp_path, str(number), url), f"made by {number}")
        return found.digest, found.paths("rows.txt")[0].read_text()

    with ThreadPoolExecutor(6) as pool:
        results = set(pool.map(race, range(6)))
    assert len(results) == 1
    assert sum(name.endswith("manifest.json") for name in Bucket(url).sizes("stage")) == 1


RACER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_bucket import build, machine
print("ready", flush=True)
sys.stdin.readline()
found = build(machine(Path(sys.argv[1]), sys.argv[2], sys.argv[3]), sys.argv[2])
print(found.digest, found.paths("rows.txt")[0].read_text())
"""


def racer(tmp_path: Path, name: str, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RACER, str(tmp_path), name, url, str(Path(__file__).parent)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_race_agree(tmp_path: Path, url: str) -> None:
    racers = [racer(tmp_path, name, url) for name in ("left", "right")]
    for process in racers:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n", timeout=60)[0] for process in racers]
    assert said[0] == said[1] and said[0].split()[1] in ("left", "right")


def killed_at(place: str, tmp_path: Path, url: str) -> None:
    faults.arm(place, lambda: os.kill(os.getpid(), signal.SIGKILL))
    build(machine(tmp_path, "killed", url))


@pytest.mark.parametrize("place", ["bucket:before_upload", "bucket:before_record", "artifact:before_manifest"])
def test_a_kill_anywhere_leaves_nothing_half_committed(tmp_path: Path, url: str, place: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_at, args=(place, tmp_path, url))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for name in ("other", "killed"):
        store = machine(tmp_path, name, url)
        if name == "other":
            assert store.artifacts("stage") == []
        assert build(store).paths("rows.txt")[0].read_text() == "hello"


def test_a_torn_upload_is_no_part_and_is_uploaded_again(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine(tmp_path, "a", url)
    assert store.bucket is not None
    system = store.bucket._system
    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", lambda local, remote: system.pipe_file(remote, Path(local).read_bytes()[:-1]))
        with pytest.raises(TransientError, match="4 bytes arrived of 5"):
            build(store)
    other = machine(tmp_path, "b", url)
    assert other.find_part("stage", "k") is None and other.artifacts("stage") == []
    assert build(other).paths("rows.txt")[0].read_text() == "hello"


@pytest.mark.parametrize("content", [b"hellO", b"hell", None])
def test_a_byte_changed_in_the_bucket_is_refused(tmp_path: Path, url: str, s3: Any, content: bytes | None) -> None:
    part = build(machine(tmp_path, "a", url)).manifest.parts[0]
    name = f"{url}/{part.folder}/rows.txt"
    reader = machine(tmp_path, "b", url)
    found = reader.open("stage", reader.key(STAGE, CONFIG, {}))
    s3.pipe_file(name, content) if content is not None else s3.rm_file(name)
    with pytest.raises(CorruptArtifact, match=r"rows\.txt: sha256 is .*, its record says [0-9a-f]{64}"):
        found.paths("rows.txt")
    assert not list((tmp_path / "b").rglob("*rows.txt*"))


def test_an_artifact_that_lost_an_object_is_made_again(tmp_path: Path, url: str, s3: Any) -> None:
    part = build(machine(tmp_path, "a", url)).manifest.parts[0]
    s3.rm_file(f"{url}/{part.folder}/rows.txt")
    made: list[str] = []
    assert build(machine(tmp_path, "b", url), made=made).paths("rows.txt")[0].read_text() == "hello"
    assert made


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, url: str) -> None:
    found = build(machine(tmp_path, "a", url))
    found.paths("rows.txt")[0].write_text("hellO")
    assert found.verify().paths("rows.txt")[0].read_text() == "hello"


def test_parts_that_a_trainer_left_here_are_uploaded_with_the_manifest(tmp_path: Path, url: str) -> None:
    write_part(Store(tmp_path / "a"), "k", "hello")  # as processes do that know the cache only
    build(machine(tmp_path, "a", url))
    assert build(machine(tmp_path, "b", url), "no").paths("rows.txt")[0].read_text() == "hello"


def test_a_manifest_cannot_write_outside_the_cache(tmp_path: Path, url: str) -> None:
    found = build(machine(tmp_path, "a", url))
    part = found.manifest.parts[0].model_copy(update={"folder": "stage/../../../out"})
    with pytest.raises(CorruptArtifact, match="outside the store"):
        Artifact(tmp_path / "b", found.manifest, found.bucket).with_parts([part]).paths("rows.txt")


def test_a_place_says_what_kind_of_store_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "cache"))
    assert Store.at(str(tmp_path)).root == Store.at(f"file://{tmp_path}").root == tmp_path
    there = Store.at("memory://bucket/prefix/")
    assert there.place == "memory://bucket/prefix" and there.root.parent == tmp_path / "cache"
    assert build(there).digest == build(Store(tmp_path / "other", there.place), "no").digest
    for wrong, words in (("http://x/y", "expected abfs://"), ("nosuch://x", "expected abfs://"), ("gs://x/y", "gcsfs")):
        with pytest.raises(UserError, match=words):
            Store.at(wrong)
