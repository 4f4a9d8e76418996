"""A state is complete or absent, the newest whole one is used, and another run's is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.store import files as faults
from pipeline_lib.store.artifact import verify_part
from pipeline_lib.store.records import Stage
from pipeline_lib.train.distributed import ALONE
from pipeline_lib.train.job import ArtifactRef, Job
from pipeline_lib.train.sharding import LocalShard
from pipeline_lib.train.state import SavedState, StateFolder, TrainerState, module_tensors, restore_module


def make_job(root: Path, **changes: Any) -> Job:
    reference = ArtifactRef(stage="shards", key="k", digest="d")
    fields: dict[str, Any] = {
        "root": str(root),
        "stage": Stage(name="train", version=1),
        "key": "run",
        "shards": reference,
        "tokenizer": reference,
        "config": TrainConfig(),
        "model": ModelConfig(),
    }
    return Job(**{**fields, **changes})


def make_state(step: int) -> TrainerState:
    return TrainerState(
        step, {"weights": LocalShard({"w": torch.full((3,), float(step))}, ALONE)}, {"metrics.jsonl": f"row {step}\n"}
    )


def newest(states: StateFolder, lines: list[str]) -> SavedState | None:
    return states.newest(lambda state: True, lines.append)


def test_the_newest_state_comes_back_whole(tmp_path: Path) -> None:
    states = StateFolder(make_job(tmp_path))
    for step in (5, 10, 15):
        states.save(make_state(step))
    found = newest(states, [])
    assert found is not None
    assert found.step == 15
    assert torch.equal(found.read("weights")["w"], torch.full((3,), 15.0))
    assert found.texts == {"metrics.jsonl": "row 15\n"}
    assert [part.facts["step"] for part in states.parts()] == [15, 10], "two states are kept"
    folders = [path for path in (states.folder / "parts").iterdir() if path.is_dir()]
    assert len(folders) == 2


def test_r07_a_flipped_byte_is_named_and_the_previous_state_is_used(tmp_path: Path) -> None:
    states = StateFolder(make_job(tmp_path))
    states.save(make_state(5))
    states.save(make_state(10))
    part = states.parts()[0]
    file = part.files[-1]
    flip(tmp_path / part.folder / file.name, 7)
    lines: list[str] = []
    found = newest(states, lines)
    assert found is not None
    assert found.step == 5
    assert file.sha256 in lines[0]
    assert file.name in lines[0]


@pytest.mark.parametrize("flips", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_r07_no_flip_goes_undetected(tmp_path: Path, flips: int) -> None:
    states = StateFolder(make_job(tmp_path))
    states.save(make_state(10))
    (part,) = states.parts()
    undetected = 0
    for trial in range(flips):
        path = tmp_path / part.folder / part.files[trial % len(part.files)].name
        flip(path, trial)
        try:
            verify_part(tmp_path, part)
            undetected += 1
        except CorruptArtifact:
            flip(path, trial)
    assert undetected == 0
    verify_part(tmp_path, part)


def flip(path: Path, trial: int) -> None:
    content = bytearray(path.read_bytes())
    content[trial * 7919 % len(content)] ^= 1 << trial % 8
    path.write_bytes(content)


def test_a_state_after_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    states = StateFolder(make_job(tmp_path))
    states.save(make_state(5))
    states.save(make_state(10))
    found = states.newest(lambda state: state.step < 10, lambda line: None)
    assert found is not None
    assert found.step == 5
    assert [part.facts["step"] for part in states.parts()] == [5]


TORN = ("state:before_tensors", "state:after_tensors", "state:after_receipt", "state:before_commit", "part:before_move")


@pytest.mark.parametrize("point", [*TORN, "part:before_record", "file:before_fsync", "file:before_link"])
def test_r02_write_cut_short_leaves_the_previous_state(tmp_path: Path, point: str) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    states = StateFolder(make_job(tmp_path))
    states.save(make_state(5))
    faults.arm(point, kill)
    with pytest.raises(Killed):
        states.save(make_state(10))
    faults.disarm()
    found = newest(states, [])
    assert found is not None
    assert found.step == 5
    assert not (states.folder / "scratch").exists(), "the torn files are gone"


def test_r02_a_kill_after_the_commit_leaves_the_new_state(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    for point in ("file:after_link", "state:after_commit"):
        states = StateFolder(make_job(tmp_path / point))
        states.save(make_state(5))
        faults.arm(point, kill)
        with pytest.raises(Killed):
            states.save(make_state(10))
        faults.disarm()
        found = newest(states, [])
        assert found is not None
        assert found.step == 10


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config": TrainConfig(learning_rate=9e-9)}, "config.learning_rate"),
        ({"model": ModelConfig(layers=7)}, "model.layers"),
        ({"tokenizer": ArtifactRef(stage="tokenizer", key="k", digest="other")}, "vocabulary"),
        ({"start_digest": "other"}, "start"),
    ],
)
def test_r08_state_of_another_run_is_refused_with_the_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    StateFolder(make_job(tmp_path)).save(make_state(5))
    other = StateFolder(make_job(tmp_path, **changes))
    with pytest.raises(UserError, match=rf"the saved state has {field} = "):
        newest(other, [])


def test_r08_state_of_another_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateFolder(make_job(tmp_path)).save(make_state(5))
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    with pytest.raises(UserError, match=r"torch = '2\..*this run has '9.9.9'"):
        newest(StateFolder(make_job(tmp_path)), [])


def test_another_number_of_processes_is_the_same_run(tmp_path: Path) -> None:
    StateFolder(make_job(tmp_path)).save(make_state(5))
    other = StateFolder(make_job(tmp_path, config=TrainConfig(processes=4, micro_batch_tokens=999)))
    assert newest(other, []) is not None


def test_tensors_of_another_shape_are_refused() -> None:
    with pytest.raises(CorruptArtifact, match=r"weight: saved \(3, 2\), the model has \(2, 2\)"):
        restore_module(nn.Linear(2, 2), module_tensors(nn.Linear(2, 3)) | {"bias": torch.zeros(2)})
    with pytest.raises(CorruptArtifact, match="bias"):
        restore_module(nn.Linear(2, 2, bias=False), module_tensors(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("saved", "now", "goes_on"),
    [
        ("2.13.0+cu126", "2.13.0+cu128", True),
        ("2.13.0+cpu", "2.13.1", True),
        ("2.13.0", "2.13.0", True),
        ("2.13.0+cpu", "2.14.0+cpu", False),
        ("2.1.0", "2.13.0", False),
        ("2.13.0", "3.13.0", False),
    ],
)
def test_a_state_is_of_a_version_of_torch_and_of_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str, now: str, goes_on: bool
) -> None:
    monkeypatch.setattr(torch, "__version__", saved)
    StateFolder(make_job(tmp_path)).save(make_state(5))
    monkeypatch.setattr(torch, "__version__", now)
    states, lines = StateFolder(make_job(tmp_path)), list[str]()
    if not goes_on:
        with pytest.raises(UserError, match=f"torch = '{saved}', this run has '{now}'".replace("+", r"\+")):
            newest(states, lines)
        return
    found = newest(states, lines)
    assert found is not None and found.step == 5
    assert lines == ([] if saved == now else [line for line in lines if line.startswith("warning: ") and saved in line])
    assert len(lines) == (saved != now)
