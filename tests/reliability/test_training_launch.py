"""The launcher around real torchrun processes: restarts, two ranks, wrong ends, and nothing left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from training_runs import MODEL, is_rank, rank_processes, tiny_config, write_inputs, write_job

from pipeline_lib.errors import TrainingFailed, UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.job import Events
from pipeline_lib.train.launch import TrainInputs, train
from pipeline_lib.train.trainer import work

Inputs = tuple[Store, TrainInputs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("launch"))


class Watch:
    """A progress callback that acts once when so many steps are done, and keeps what it was told."""

    def __init__(self, at_step: int = 0, act: Callable[[], None] | None = None) -> None:
        self.at_step, self.act = at_step, act
        self.steps: list[float] = []
        self.lines: list[str] = []

    def __call__(self, done: float, total: float, note: str = "") -> None:
        self.steps.append(done)
        if self.act and done >= self.at_step:
            act, self.act = self.act, None
            act()


def metrics(artifact: Artifact) -> list[dict[str, float]]:
    text = (artifact.part_folder("metrics") / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def kill_rank(number: int = 0) -> Callable[[], None]:
    return lambda: rank_processes(psutil.Process())[number].send_signal(signal.SIGKILL)


def test_r01_a_killed_trainer_is_restarted_and_the_artifact_is_the_same(inputs: Inputs) -> None:
    store, inputs_ = inputs
    config = tiny_config(steps=60, resume_every_seconds=1e-9)
    oracle = write_job(store, inputs_, config, key="oracle")
    work(oracle, Events(enabled=False))
    watch = Watch(4, kill_rank())
    trained = train(store, inputs_, config, MODEL, watch, watch.lines.append)
    assert [part.label for part in trained.manifest.parts] == ["step-000020", "step-000040", "step-000060", "metrics"]
    folders = {json.loads(record.read_text())["label"]: record for record in (store.root / "train/parts").glob("*.json")}
    assert set(folders) >= {"step-000060"}
    by_label = [(part.label, part.digest) for part in trained.manifest.parts]
    assert by_label == [(part.label, part.digest) for part in oracle_parts(store, oracle)]
    assert any("the trainer died" in line for line in watch.lines)
    assert any(line.startswith("going on after step") for line in watch.lines)
    assert any("15 in-batch negatives" in line for line in watch.lines)
    assert any("pairs/s on this machine: about" in line for line in watch.lines)
    assert not (trained.folder / "states").exists()
    assert rank_processes(psutil.Process()) == []

    again = Watch()
    assert train(store, inputs_, config, MODEL, again).digest == trained.digest
    assert again.steps == [], "nothing is started for a finished artifact"


def oracle_parts(store: Store, job: Any) -> list[Any]:
    from pipeline_lib.train.launch import _parts

    return list(_parts(store, job).values())


def test_r10_two_ranks_follow_one_and_listen_on_loopback_only(inputs: Inputs) -> None:
    store, inputs_ = inputs
    config = tiny_config(steps=5)
    alone = write_job(store, inputs_, config, key="alone")
    work(alone, Events(enabled=False))
    listening: list[str] = []

    def note_sockets() -> None:
        for process in psutil.Process().children(recursive=True):
            listening.extend(c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)

    watch = Watch(1, note_sockets)
    # weight_average has no part in the loss; it makes another artifact
    two = train(store, inputs_, tiny_config(steps=5, weight_average=0.5, processes=2), MODEL, watch, watch.lines.append)
    one_part = oracle_parts(store, alone)[-1]
    one = [json.loads(line) for line in (store.root / one_part.folder / "metrics.jsonl").read_text().splitlines()]
    for row_one, row_two in zip(one, metrics(two), strict=True):
        assert row_two["loss"] == pytest.approx(row_one["loss"], rel=1e-6)
        assert row_two["gradient_norm"] == pytest.approx(row_one["gradient_norm"], rel=1e-4)
        assert row_two["pairs_seen"] == row_one["pairs_seen"]
    assert set(listening) == {"127.0.0.1"}
    assert any("over 2 process(es)" in line for line in watch.lines)


@pytest.mark.slow
def test_r04_one_of_two_ranks_dies_and_the_trace_is_the_same(inputs: Inputs) -> None:
    store, inputs_ = inputs
    whole = train(store, inputs_, tiny_config(steps=60, processes=2, seed=5), MODEL)
    for part in whole.manifest.parts:
        (store.root / "train/parts" / f"{part.key}.json").unlink()
    (whole.folder / "manifest.json").unlink()
    watch = Watch(10, kill_rank(1))
    config = tiny_config(steps=60, processes=2, seed=5, resume_every_seconds=1e-9)
    again = train(store, inputs_, config, MODEL, watch, watch.lines.append)
    assert any("the trainer died" in line for line in watch.lines)
    assert again.digest == whole.digest


LONG_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_runs import MODEL, tiny_config, write_inputs
from pipeline_lib.train.launch import train
store, inputs = write_inputs(Path({root!r}))
train(store, inputs, tiny_config(steps=100_000), MODEL, lambda done, total, note="": print(int(done), flush=True))
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_orphans_and_a_saved_state_when_the_launcher_ends(tmp_path: Path, signal_number: int) -> None:
    script = LONG_RUN.format(tests=str(Path(__file__).parents[1]), root=str(tmp_path))
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if int(line) >= 3:
            break
    tree = psutil.Process(launcher.pid).children(recursive=True)
    assert any(is_rank(process) for process in tree)
    launcher.send_signal(signal_number)
    launcher.stdout.close()
    launcher.wait(60)
    _, alive = psutil.wait_procs(tree, timeout=10 * slowness())
    assert alive == []
    (state,) = (tmp_path / "train").glob("*/states/parts/*/state.json")
    assert json.loads(state.read_text())["step"] >= 3


def slowness() -> float:
    """How many jobs share each core just now; 1 on a machine of one's own."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_two_machines_meet_and_follow_one(inputs: Inputs) -> None:
    store, inputs_ = inputs
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    # the weight average names an artifact of its own, and has no part in the loss
    config = tiny_config(steps=4, weight_average=0.6, nodes=2, rendezvous=place)
    other = multiprocessing.get_context("fork").Process(
        target=train, args=(store, inputs_, config.model_copy(update={"node_rank": 1}), MODEL)
    )
    other.start()
    trained = train(store, inputs_, config, MODEL)
    other.join(120)
    assert other.exitcode == 0
    alone = write_job(store, inputs_, tiny_config(steps=4), key="one-machine")
    work(alone, Events(enabled=False))
    expected = (store.root / oracle_parts(store, alone)[-1].folder / "metrics.jsonl").read_text().splitlines()
    for row, line in zip(metrics(trained), expected, strict=True):
        assert row["loss"] == pytest.approx(json.loads(line)["loss"], rel=1e-6)


@pytest.mark.parametrize("changes", [{"nodes": 2}, {"nodes": 2, "rendezvous": "host:29500", "node_rank": 2}])
def test_machines_that_cannot_meet_are_refused(inputs: Inputs, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected HOST:PORT of node 0 and a number below 2"):
        train(*inputs, tiny_config(seed=13, **changes), MODEL)


def test_a_trainer_that_dies_again_and_again_fails_with_its_log(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[float] = []

    def command(*_: Any) -> list[str]:
        starts.append(time.time())
        return [sys.executable, "-c", "print('the last words'); raise SystemExit(3)"]

    monkeypatch.setattr("pipeline_lib.train.launch.command", command)
    with pytest.raises(TrainingFailed, match=r"died 3 times without a step gained \(exit 3\)[\s\S]*the last words"):
        train(*inputs, tiny_config(seed=11, max_restarts=2), MODEL)
    assert len(starts) == 3


@pytest.mark.parametrize("kind", [UserError, TrainingFailed])
def test_what_no_restart_can_mend_is_raised_at_once(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    line = "@@" + json.dumps({"event": "failed", "kind": kind.__name__, "message": "step 7: loss is nan"})

    def command(*_: Any) -> list[str]:
        return [sys.executable, "-c", f"print({line!r}); raise SystemExit(1)"]

    monkeypatch.setattr("pipeline_lib.train.launch.command", command)
    with pytest.raises(kind, match="step 7: loss is nan"):
        train(*inputs, tiny_config(seed=12), MODEL)


def test_two_starting_points_are_refused(inputs: Inputs) -> None:
    store, inputs_ = inputs
    both = TrainInputs(inputs_.shards, inputs_.tokenizer, start=inputs_.shards)
    with pytest.raises(UserError, match="choose one"):
        train(store, both, tiny_config(), MODEL.model_copy(update={"init": "/somewhere"}))
    with pytest.raises(UserError, match=r"no config\.json in /nowhere"):
        train(store, inputs_, tiny_config(), MODEL.model_copy(update={"init": "/nowhere"}))
