"""Trackers told of a real run: each step once whatever is killed, figures of the records, and failures that stop nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.overrides import parse_set
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store import files as faults
from pipeline_lib.store.store import Store
from pipeline_lib.train import tracking
from pipeline_lib.train.job import Events, Job, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.tracking import Row, Tracking, events_of, tracking_of
from pipeline_lib.train.trainer import work

SECRET = "hunter2-of-the-tracker"
Inputs = tuple[Store, TrainInputs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    store, found = write_inputs(tmp_path_factory.mktemp("tracking"), held_out=24)
    return store, found


class Heard(Events):
    """Lines that a run says."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.lines: list[str] = []

    def _write(self, line: str) -> None:
        self.lines.append(line)

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.lines if line.startswith(WARNING) and "tracking" in line]


def job_of(inputs: Inputs, key: str, *kinds: str) -> Job:
    config = tiny_config(tracking=kinds, resume_every_seconds=1e-9, evaluation_pairs=16, scale_learning_rate=2e-3)
    job = write_job(*inputs, config, key=key)
    (job.folder / "job.json").write_text(job.model_dump_json())
    return job


def run_killed(job: Job, step: int) -> None:
    """Train in a child that is killed after a step, its trackers told of all before it."""

    def child() -> None:
        passes = iter(range(1, 100))

        def fault() -> None:
            if next(passes) == step:
                deadline = 200
                while deadline and not list(job.folder.glob("told-*")):
                    deadline -= 1
                    signal.sigtimedwait([], 0.05)
                os.kill(os.getpid(), signal.SIGKILL)

        faults.arm("trainer:after_step", fault)
        told = tracking.Told.tell

        def tell(self: Any, job: Job, end: bool | None) -> None:
            told(self, job, end)
            (job.folder / f"told-{self.kind}").touch()

        tracking.Told.tell = tell  # type: ignore[method-assign]
        work(job, Events(enabled=False))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def records(inputs: Inputs, job: Job) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]]:
    """The rows of metrics.jsonl and of evaluation.jsonl by their steps."""
    part = inputs[0].find_part("train", part_key(job.key, "metrics"))
    assert part is not None
    folder = inputs[0].folder_of(part)
    read = [
        [json.loads(row) for row in (folder / name).read_text().splitlines()] for name in ("metrics.jsonl", "evaluation.jsonl")
    ]
    return {row["step"]: row for row in read[0]}, {row["step"]: row for row in read[1]}


def told_to_tensorboard(job: Job) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events_of(job.folder / "tensorboard"):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_is_told_of_each_step_once_though_the_run_is_killed(inputs: Inputs) -> None:
    pytest.importorskip("tensorboardX")
    job = job_of(inputs, "board", "tensorboard")
    run_killed(job, 6)
    assert told_to_tensorboard(job)["train/loss"], "the killed run had told of some"
    (event_file,) = (job.folder / "tensorboard").iterdir()
    event_file.write_bytes(event_file.read_bytes() + b"\x80\0\0\0\0\0\0\0half")  # what a kill leaves of a record
    heard = Heard()
    work(job, heard)
    assert not heard.warnings
    metrics, evaluation = records(inputs, job)
    told = told_to_tensorboard(job)
    for group, rows in (("train", metrics), ("held_out", evaluation)):
        for name in set(rows[12]) - {"step"}:
            steps = told[f"{group}/{name}"]
            assert [step for step, _ in steps] == sorted(rows), f"{group}/{name}"
            assert [value for _, value in steps] == pytest.approx([rows[step][name] for step in sorted(rows)], rel=1e-6)
    assert {"train/temperature", "train/pairs_per_second", "train/scale_learning_rate", "held_out/mrr"} <= set(told)
    scale, rate = (dict(told[f"train/{name}"]) for name in ("scale_learning_rate", "learning_rate"))
    assert all(scale[step] == pytest.approx(2 * rate[step]) for step in rate)
    texts = {
        value.tag: value.tensor.string_val[0].decode()
        for event in events_of(job.folder / "tensorboard")
        for value in event.summary.value
        if value.tensor.string_val
    }
    assert '"learning_rate": 0.001' in texts["run/configuration/text_summary"]
    assert job.shards.key in texts["run/artifacts/text_summary"]


def test_a_finished_run_is_told_where_its_report_lies(inputs: Inputs) -> None:
    pytest.importorskip("tensorboardX")
    job = job_of(inputs, "linked", "tensorboard")
    found = tracking_of(job.folder, print)
    assert isinstance(found, Tracking)
    found.link({"report": "/reports/demo/report.html", "index": "abc123"})
    texts = [value for event in events_of(job.folder / "tensorboard") for value in event.summary.value]
    assert {value.tag for value in texts} >= {"run/report/text_summary", "run/index/text_summary"}
    assert tracking_of(job.folder / "elsewhere", print) is None


def test_a_tracker_that_fails_is_one_warning_and_counted(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9/?token={SECRET}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "AGAIN_SECONDS", 0.01)
    job = job_of(inputs, "failing", "tensorboard", "mlflow")
    (job.folder / "tensorboard").write_text("a file where its folder would be")
    heard = Heard()
    work(job, heard)
    assert sorted(records(inputs, job)[0]) == list(range(1, 13)), "the run is done"
    failed = [line for line in heard.warnings if "cannot be told" in line]
    counted = [line for line in heard.warnings if "has not been told of 15 rows" in line]
    assert len(failed) == len(counted) == 2, heard.warnings
    assert SECRET not in "\n".join(heard.lines)


def test_rows_behind_a_tracker_that_hangs_are_counted(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, free, heard = threading.Event(), threading.Event(), Heard()

    class Hangs:
        """Takes its first rows and does not return."""

        def __init__(self, job: Job) -> None:
            self.last: dict[str, int] = {}

        def log(self, rows: Sequence[Row]) -> None:
            entered.set()
            free.wait(60)

        def link(self, links: Mapping[str, str]) -> None:
            """See `Tracker`."""

        def close(self, finished: bool) -> None:
            """See `Tracker`."""

    monkeypatch.setattr(tracking, "KINDS", {"tensorboard": Hangs})
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.1)
    told = Tracking(job_of(inputs, "hanging", "tensorboard"), heard.log)
    told.start("", "")
    told.step({"step": 1, "loss": 2.0, "learning_rate": 1e-3}, {})
    assert entered.wait(30)
    for step in (2, 3):
        told.step({"step": step, "loss": 2.0, "learning_rate": 1e-3}, {})
    told.close(finished=True)
    free.set()
    assert any("has not been told of 3 rows" in line for line in heard.lines), heard.lines


def test_mlflow_keeps_one_run_with_each_step_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    job = job_of(inputs, "flowing", "mlflow")
    run_killed(job, 6)
    heard = Heard()
    work(job, heard)
    assert not heard.warnings
    found = tracking_of(job.folder, print)
    assert found
    found.link({"report": "/reports/demo/report.html"})
    client = mlflow.MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "cpt"]
    (run,) = client.search_runs([experiment.experiment_id])
    metrics, evaluation = records(inputs, job)
    for name, rows in (("train/loss", metrics), ("held_out/loss", evaluation)):
        history = sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
        assert history == [(step, pytest.approx(rows[step]["loss"])) for step in sorted(rows)]
    assert run.data.params["configuration.train.batch_size"] == "16"
    assert run.data.params["artifacts.shards"] == job.shards.key
    assert run.info.status == "FINISHED" and run.data.tags["cpt.report"] == "/reports/demo/report.html"


def written_by_wandb(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, in which a record may be cut into parts."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def test_wandb_is_told_offline(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    job = job_of(inputs, "biased", "wandb")
    heard = Heard()
    work(job, heard)
    assert not heard.warnings
    (path,) = job.folder.glob("wandb/offline-run-*/*.wandb")
    told = {}
    for data in written_by_wandb(path):
        history = Record.FromString(data).history
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        if "train/loss" in items:
            told[int(items.get("_step", history.step.num))] = items["train/loss"]
    metrics, _ = records(inputs, job)
    assert told == {step: pytest.approx(row["loss"]) for step, row in metrics.items()}


@pytest.mark.parametrize("word", ["tensorboard", "[tensorboard]", "[tensorboard, mlflow]"])
def test_where_a_run_is_shown_is_no_part_of_its_name(word: str) -> None:
    section: Any = parse_set([f"train.tracking={word}"], RunConfig)["train"]
    config = TrainConfig.model_validate(section)
    assert "tensorboard" in config.tracking and config.key_fields() == TrainConfig().key_fields()


def test_a_tracker_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        TrainConfig.model_validate({"tracking": ["tensorbord"]})
