"""Trackers told of a real run: each step once whatever is killed, figures of the records, and failures that stop nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
from pipeline_lib.train.job import EVALUATION_FILE, METRICS_FILE, Events, Job, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trackers import MlFlow, Row, events_of, wandb_records
from pipeline_lib.train.tracking import Tracking, tracking_of
from pipeline_lib.train.trainer import work

SECRET = "hunter2-of-the-tracker"
Inputs = tuple[Store, TrainInputs]
# figures of a step: the loss, rates, temperature, throughput, time, memory
FIGURES = {
    *("loss", "temperature", "gradient_norm", "learning_rate", "scale_learning_rate", "pairs_seen", "padding_share"),
    *("pairs_per_second", "tokens_per_second", "seconds", "wait_seconds", "memory_bytes", "effective_rank"),
}
REPORTED = {"report": "/reports/demo/report.html", "index": "abc123"}


def need(package: str, extra: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is not installed: pip install 'cpt-factory[{extra}]'")


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
                deadline = 1200
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
    metrics, evaluation = ({row["step"]: row for row in map(json.loads, text.splitlines())} for text in texts(inputs, job))
    return metrics, evaluation


def texts(inputs: Inputs, job: Job) -> tuple[str, str]:
    part = inputs[0].find_part("train", part_key(job.key, "metrics"))
    assert part is not None
    folder = inputs[0].folder_of(part)
    return (folder / METRICS_FILE).read_text(), (folder / EVALUATION_FILE).read_text()


def told_to_tensorboard(job: Job) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events_of(job.folder / "tensorboard"):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_is_told_of_each_step_once_though_the_run_is_killed(inputs: Inputs) -> None:
    need("tensorboardX", "tensorboard")
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
    assert {f"train/{name}" for name in FIGURES} | {"held_out/mrr"} <= set(told)
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
    need("tensorboardX", "tensorboard")
    job = job_of(inputs, "linked", "tensorboard")
    found = tracking_of(job.folder, print)
    assert isinstance(found, Tracking)
    found.link(REPORTED, "", "")
    told = [value for event in events_of(job.folder / "tensorboard") for value in event.summary.value]
    assert {value.tag for value in told} >= {"run/report/text_summary", "run/index/text_summary"}
    assert tracking_of(job.folder / "elsewhere", print) is None


def test_with_its_report_a_run_is_told_of_what_it_was_not(inputs: Inputs) -> None:
    need("tensorboardX", "tensorboard")
    job = job_of(inputs, "late")
    work(job, Heard())
    late = job.model_copy(update={"config": job.config.model_copy(update={"tracking": ("tensorboard",)})})
    metrics, evaluation = texts(inputs, job)
    for _ in range(2):
        Tracking(late, print).link(REPORTED, metrics, evaluation)
    told = told_to_tensorboard(job)
    assert [step for step, _ in told["train/loss"]] == list(range(1, 13)) == [step for step, _ in told["train/seconds"]]
    assert [step for step, _ in told["held_out/mrr"]] == [4, 8, 12]


def test_a_tracker_that_fails_is_one_warning_and_counted(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    need("tensorboardX", "tensorboard")
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


def test_rows_and_report_of_a_tracker_that_does_not_answer_are_told_to_be_missing(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, heard = threading.Event(), Heard()

    def hangs(job: Job) -> None:
        free.wait(60)
        raise ConnectionError

    monkeypatch.setattr(tracking, "KINDS", {"mlflow": hangs})
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    row = json.dumps({"step": 1, "loss": 2.0, "learning_rate": 1e-3})
    Tracking(job_of(inputs, "silent", "mlflow"), heard.log).link(REPORTED, row, "")
    assert time.monotonic() - began < 20
    free.set()
    assert any("has not been told of 1 rows" in line for line in heard.lines), heard.lines
    assert any("has not been told where the run's report lies" in line for line in heard.lines), heard.lines


def test_mlflow_keeps_one_run_with_each_step_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = need("mlflow", "mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    job = job_of(inputs, "flowing", "mlflow")
    run_killed(job, 6)
    heard = Heard()
    work(job, heard)
    assert not heard.warnings
    found = tracking_of(job.folder, print)
    assert found
    found.link(REPORTED, *texts(inputs, job))
    client = mlflow.MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "cpt"]
    (run,) = client.search_runs([experiment.experiment_id])
    metrics, evaluation = records(inputs, job)
    assert {f"train/{name}" for name in FIGURES} | {"held_out/loss", "held_out/mrr"} <= set(run.data.metrics)
    for group, rows in (("train", metrics), ("held_out", evaluation)):
        for name in set(rows[12]) - {"step"}:
            history = sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, f"{group}/{name}"))
            assert history == [(step, pytest.approx(rows[step][name])) for step in sorted(rows)], f"{group}/{name}"
    assert run.data.params["configuration.train.batch_size"] == "16"
    assert run.data.params["configuration.model.width"] == "32"
    assert run.data.params["artifacts.shards"] == job.shards.key
    assert run.data.params["artifacts.tokenizer"] == job.tokenizer.key
    assert (
        run.info.status == "FINISHED"
        and REPORTED.items() <= {name.removeprefix("cpt."): value for name, value in run.data.tags.items()}.items()
    )
    assert mlflow.environment_variables.MLFLOW_DISABLE_TELEMETRY.get(), "nothing is sent to its makers"


def test_mlflow_is_told_what_a_killed_run_had_not(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The parameters of a run that was made without them, and more rows than a server takes at once."""
    mlflow = need("mlflow", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs.db'}")
    job = job_of(inputs, "made", "mlflow")
    made = client.create_run(client.create_experiment("cpt"), tags={"cpt.run": job.key}).info.run_id
    tracker = MlFlow(job)
    tracker.log([Row(step, "train", {f"figure_{n}": float(step) for n in range(30)} | {"loss": 1.0}) for step in range(1, 121)])
    found = client.get_run(made)
    assert found.data.params["artifacts.shards"] == job.shards.key and found.data.metrics["train/figure_29"] == 120
    assert MlFlow(job).last == {"train": 120}


def told_to_wandb(job: Job, ends: int) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """What the files of a run hold together, once so many are whole: its steps in their order, configuration, summary."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(600):  # its service writes them after a run's end, until its process ends
        files = sorted(job.folder.glob("wandb/offline-run-*/*.wandb"))
        found = [record for path in files for record in map(Record.FromString, wandb_records(path))]
        if sum(record.HasField("exit") for record in found) == ends:
            break
        time.sleep(0.1)
    steps = [values_of(record.history.item) for record in found if record.HasField("history")]
    configuration, summary = {}, {}
    for record in found:
        configuration |= values_of(record.run.config.update)
        summary |= values_of(record.summary.update)
    return steps, configuration, summary


def values_of(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_is_told_offline_of_each_step_once_though_the_run_is_killed(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("wandb", "wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    job = job_of(inputs, "biased", "wandb")
    run_killed(job, 6)
    heard = Heard()
    work(job, heard)
    assert not heard.warnings
    steps, *_ = told_to_wandb(job, ends=1)
    assert [row["_step"] for row in steps] == list(range(1, 13))
    found = tracking_of(job.folder, print)
    assert found
    found.link(REPORTED, *texts(inputs, job))
    steps, described, summary = told_to_wandb(job, ends=2)
    metrics, evaluation = records(inputs, job)
    assert {f"train/{name}" for name in FIGURES} <= set(steps[-1])
    for group, rows in (("train", metrics), ("held_out", evaluation)):
        for name in set(rows[12]) - {"step"}:
            key = f"{group}/{name}"
            assert Counter(row["_step"] for row in steps if key in row) == dict.fromkeys(rows, 1), key
            assert {row["_step"]: row[key] for row in steps if key in row} == pytest.approx(
                {step: row[name] for step, row in rows.items()}
            )
    assert described["configuration"]["train"]["batch_size"] == 16 and described["configuration"]["model"]["width"] == 32
    assert described["artifacts"] == {"run": job.key, "shards": job.shards.key, "tokenizer": job.tokenizer.key}
    assert summary["run/report"] == REPORTED["report"] and summary["train/loss"] == pytest.approx(metrics[12]["loss"])


@pytest.mark.slow  # a process of its own, which loads torch and Weights & Biases
def test_a_run_ends_though_the_server_of_wandb_does_not_answer(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb", "wandb")
    job = job_of(inputs, "deaf", "wandb")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", SECRET.ljust(40, "0"))
        code = f"""
import sys
from pathlib import Path
from pipeline_lib.train import tracking
from pipeline_lib.train.__main__ import main
tracking.CLOSE_SECONDS = 3.0
main(Path({str(job.folder / "job.json")!r}))
print("at its end", flush=True)
"""
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            assert run.stdout
            lines = []
            for line in iter(run.stdout.readline, "at its end\n"):
                assert line, "".join(lines)
                lines.append(line)
            ended = time.monotonic()
            lines += run.stdout.readlines()
        assert run.returncode == 0 and time.monotonic() - ended < 45, "it waits for its server"
    said = "".join(lines)
    assert "wandb has not been told of 15 rows" in said and SECRET not in said


@pytest.mark.parametrize("word", ["tensorboard", "[tensorboard]", "[tensorboard, mlflow]"])
def test_where_a_run_is_shown_is_no_part_of_its_name(word: str) -> None:
    section: Any = parse_set([f"train.tracking={word}"], RunConfig)["train"]
    config = TrainConfig.model_validate(section)
    assert "tensorboard" in config.tracking and config.key_fields() == TrainConfig().key_fields()


def test_a_tracker_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        TrainConfig.model_validate({"tracking": ["tensorbord"]})
