"""What `cpt prune` takes: a killed worker's scratch, not a living one's; old runs, not what a kept one comes from."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import alone_in, sign_out
from pipeline_lib.store.prune import find_leftovers, find_unneeded, remove
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import VectorCache, text_hashes

WORKER = """
import sys, time
from pathlib import Path
from pipeline_lib.store.store import Store
scratch = Store(sys.argv[1]).scratch("extract")
(scratch / "rows").write_bytes(bytes(1000))
print(scratch, flush=True)
sys.stdin.read()
"""


class Named(StageConfig):
    name: str


class Tuned(StageConfig):
    model: dict[str, str]


def made(store: Store, stage_name: str, name: str, inputs: Mapping[str, Artifact]) -> Artifact:
    stage = Stage(name=stage_name, version=1)

    def make(key: str) -> Outcome:
        scratch = store.scratch(stage_name)
        (scratch / "data").write_text(name)
        return Outcome(parts=(store.commit_part(draft_part(stage, key, name), scratch),))

    return store.build(stage, Named(name=name), inputs, make)


def run_of(store: Store, name: str, source: Artifact) -> list[Artifact]:
    shards = made(store, "shards", name, {"source": source})
    export = made(store, "export", name, {"shards": shards})
    return [shards, export, made(store, "index", name, {"export": export, "shards": shards})]


def start_worker(root: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", WORKER, str(root)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_a_killed_workers_scratch_goes_and_a_running_ones_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (killed, left), (running, used) = start_worker(tmp_path), start_worker(tmp_path)
    own = store.scratch("extract")
    try:
        end(killed)
        found = find_leftovers(store)
        assert [(leftover.path, leftover.bytes) for leftover in found] == [(left, 1000)]
        assert left.is_dir(), "nothing is removed by looking"
        assert remove(store, found) == 1000
        assert not left.exists() and (used / "rows").exists() and own.is_dir()
        assert not {used, own} & {leftover.path for leftover in find_leftovers(store, idle_hours=0)}
    finally:
        end(running)
    found = find_leftovers(store, idle_hours=0)
    assert used in {leftover.path for leftover in found} and own not in {leftover.path for leftover in found}
    assert [leftover.why for leftover in found if leftover.path.parent.name == "locks"] == [
        "lock of a process that is gone"
    ] * 2


def test_half_parts_and_timeout_logs_go_when_nobody_touches_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = made(store, "extract", "a", {})
    half = tmp_path / "extract" / "parts" / "0123-4567"
    half.mkdir()
    logs = tmp_path / "extract" / "timeouts"
    for key in (artifact.manifest.parts[0].key, "unfinished"):
        (logs / key).mkdir(parents=True)
    assert find_leftovers(store) == []
    found = find_leftovers(store, idle_hours=0)
    assert [leftover.path for leftover in found] == [half, logs / artifact.manifest.parts[0].key]
    remove(store, found)
    store.open("extract", artifact.manifest.key).verify()
    assert not half.exists() and (logs / "unfinished").is_dir()


def test_old_runs_go_but_what_a_kept_one_comes_from_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = made(store, "source", "dump", {})
    published, old, new = (run_of(store, name, source) for name in ("published", "old", "new"))
    digests = [artifact.digest for artifact in published[1:]]
    assert find_unneeded(store, 1, digests) == [], "all are younger than a day"
    found = find_unneeded(store, 1, digests, idle_hours=0)
    assert {leftover.path for leftover in found} == {
        *(artifact.folder for artifact in old), *(artifact.part_folder() for artifact in old)
    }  # fmt: skip
    remove(store, found)
    for artifact in (source, *published, *new):
        store.open(artifact.manifest.stage, artifact.manifest.key).verify()
    for artifact in old:
        assert store.find(artifact.manifest.stage, artifact.manifest.key) is None
        assert store.find_part(artifact.manifest.stage, artifact.manifest.parts[0].key) is None


def test_a_kept_exports_cards_and_the_run_that_a_kept_one_was_tuned_from_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = made(store, "source", "dump", {})
    base, gone = (made(store, "train", name, {"source": source}) for name in ("base", "gone"))
    stage = Stage(name="train", version=1)
    init = base.manifest.parts[0].digest
    part = store.commit_part(draft_part(stage, "tuned", "step-000004"), store.scratch("train"))
    tuned = store.build(stage, Tuned(model={"init": init}), {"source": source}, lambda _: Outcome(parts=(part,)))
    old = made(store, "export", "old", {"trained": gone})
    cards = [made(store, "card", f"of {export.manifest.key}", {"exported": export}) for export in (old,)]
    export = made(store, "export", "new", {"trained": tuned})
    cards += [made(store, "card", f"{name} of the new", {"exported": export}) for name in ("one", "another")]
    found = {leftover.path for leftover in find_unneeded(store, 1, [], idle_hours=0)}
    assert {artifact.folder for artifact in (old, gone, cards[0])} <= found
    assert not found & {artifact.folder for artifact in (base, tuned, export, *cards[1:])}


def test_no_run_is_removed_while_a_process_is_at_work(tmp_path: Path) -> None:
    child, _ = start_worker(tmp_path)
    try:
        with pytest.raises(UserError, match="a process is at work in this store"):
            find_unneeded(Store(tmp_path), 1, [])
    finally:
        end(child)
    assert find_unneeded(Store(tmp_path), 1, []) == []


SIGNED_IN = """
import sys
from pathlib import Path
from pipeline_lib.store.files import sign_in
sign_in(Path(sys.argv[1]))
print("in", flush=True)
sys.stdin.read()
"""


def test_who_prunes_is_alone_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, "source", "dump", {})  # this process has signed in, which does not keep it from being alone

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SIGNED_IN, str(tmp_path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with alone_in(tmp_path) as is_alone:
        assert is_alone
        comes = start()
        assert comes.stdout is not None
        waiting = select.poll()
        waiting.register(comes.stdout, select.POLLIN)
        assert waiting.poll(2000) == [], "it waits until the old runs are gone"
    try:
        assert comes.stdout.readline() == "in\n"
        with alone_in(tmp_path) as is_alone:
            assert not is_alone
    finally:
        end(comes)
    with alone_in(tmp_path) as is_alone:
        assert is_alone, "the lock of one that was killed is free"


def test_a_process_that_signs_out_holds_nothing(tmp_path: Path) -> None:
    def held() -> int:
        links = [place for place in Path("/proc/self/fd").iterdir() if place.is_symlink()]
        return sum(tmp_path in place.resolve().parents for place in links)

    for name in "ab":
        made(Store(tmp_path / name), "source", "dump", {})
    assert held() == 4, "two files for each store"
    sign_out()
    assert held() == 0 and not list(tmp_path.glob("*/locks/*"))
    made(Store(tmp_path / "a"), "source", "other", {})
    assert held() == 2 and len(list(tmp_path.glob("a/locks/*"))) == 1, "it signs in anew"


def test_the_command_lists_and_removes_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli.commands import app

    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    child, left = start_worker(tmp_path / "store")
    end(child)
    listed = CliRunner().invoke(app, ["prune"])
    assert listed.exit_code == 0 and "1,000 bytes in 1 files and folders" in listed.output and left.is_dir()
    done = CliRunner().invoke(app, ["prune", "--yes", "--keep-runs", "1"])
    assert done.exit_code == 0 and "1,000 bytes removed" in done.output and not left.exists()


def test_vectors_go_when_nobody_has_read_them_since_the_oldest_kept_run(tmp_path: Path) -> None:
    store, hashes = Store(tmp_path), {name: text_hashes([name]) for name in ("old", "shared")}

    def cache() -> VectorCache:
        return VectorCache(store, "0" * 24, "y", lambda texts, _: np.ones((len(texts), 1), np.float32))

    for name, hashes_N2 in hashes.items():
        cache().add([name], hashes_N2)
    records = sorted((tmp_path / "vectors" / "parts").glob("*.json"))
    for record in records:
        os.utime(record, (0, 0))
    run_of(store, "kept", made(store, "source", "dump", {}))
    cache().read(hashes["shared"])
    unneeded = find_unneeded(store, 1, [], idle_hours=0)
    assert [found.why for found in unneeded] == ["vectors that no kept run has read"]
    remove(store, unneeded)
    assert cache().missing(np.concatenate([hashes["shared"], hashes["old"]])).tolist() == [1]
    assert find_unneeded(store, 1, [], idle_hours=24) == []


def test_the_splits_of_a_grown_dataset_keep_none_of_the_datasets_before(tmp_path: Path) -> None:
    store, known, nights = Store(tmp_path), None, []

    def of_night(stage: str, **inputs: Artifact | None) -> Artifact:
        return made(store, stage, f"{stage} {len(nights)}", {name: given for name, given in inputs.items() if given})

    for _ in range(3):
        validated = of_night("validate")
        curated = of_night("curate", validated=validated, known=known)
        of_night("index", curated=curated)
        known = of_night("known_splits", curated=curated, before=known)
        nights.append((validated, curated, known))
    remove(store, find_unneeded(store, 1, [], idle_hours=0))
    assert store.keys("validate") == [nights[2][0].manifest.key] and store.keys("curate") == [nights[2][1].manifest.key]
    assert store.keys("known_splits") == [nights[1][2].manifest.key], "what the newest dataset was split by"
