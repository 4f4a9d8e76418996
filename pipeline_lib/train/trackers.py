"""What shows runs: TensorBoard's event files, MLflow, and Weights & Biases. Imports no torch; each package where it is used.

What identifies people to a server comes from the environment alone, as these packages read it, and nothing goes to their makers
that nobody asked for:

    tensorboard    root/train/KEY/tensorboard/                          tensorboardX
    mlflow         MLFLOW_TRACKING_URI, or root/mlflow.db               MLFLOW_EXPERIMENT_NAME, or "cpt"
    wandb          WANDB_PROJECT, or "cpt"; offline without WANDB_API_KEY and WANDB_MODE
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from pipeline_lib.train.job import Job

STEPS, HELD_OUT = "train", "held_out"  # groups of figures; of each a tracker has the steps up to some one
MLFLOW_ROWS = 50  # that its server is told at once
WANDB_BLOCK = 32_768  # bytes of a block of its files
NAME = "cpt"  # of the project or the experiment


class Row(NamedTuple):
    """Figures of one step."""

    step: int
    group: str
    values: Mapping[str, float]


class Tracker(Protocol):
    """A place that shows runs."""

    last: dict[str, int]  # the newest step that it has, by group

    def log(self, rows: Sequence[Row]) -> None:
        """Take rows, in their order; they are kept when this returns."""
        ...

    def link(self, links: Mapping[str, str]) -> None:
        """Note where things of the run lie."""
        ...

    def close(self, finished: bool) -> None:
        """Note the end of this process's part."""
        ...


class TensorBoard:
    """Event files; one event holds all figures of a step, so that a kill leaves all of them or none."""

    def __init__(self, job: Job) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.summary import text

        folder = job.folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary, self._text = event_pb2.Event, summary_pb2.Summary, text
        self.last: dict[str, int] = {}
        for event in events_of(folder):
            for value in event.summary.value:
                group = value.tag.partition("/")[0]
                self.last[group] = max(self.last.get(group, 0), event.step)
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
        if not self.last:
            self.link({name: f"```json\n{json.dumps(value, indent=1)}\n```" for name, value in description(job).items()})

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        for row in rows:
            values = [self._summary.Value(tag=f"{row.group}/{name}", simple_value=value) for name, value in row.values.items()]
            self._write(row.step, self._summary(value=values))
            self.last[row.group] = row.step
        self._writer.flush()

    def link(self, links: Mapping[str, str]) -> None:
        """See `Tracker`."""
        for name, place in links.items():
            self._write(0, self._text(f"run/{name}", place))
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))


def events_of(folder: Path) -> Iterator[Any]:
    """The events of a folder's event files, the oldest first; what a killed writer left half is passed over."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("*tfevents*")):
        with path.open("rb") as file:
            # length, its checksum, the event, its checksum
            while len(head := file.read(12)) == 12:
                (length,) = struct.unpack("<Q", head[:8])
                data, end = file.read(length), file.read(4)
                if len(data) < length or len(end) < 4:
                    break
                yield Event.FromString(data)


class MlFlow:
    """A run of MLflow, found again by the key of ours."""

    def __init__(self, job: Job) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._param = Metric, Param
        self._client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(job.root) / 'mlflow.db'}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or NAME
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([place], f"tags.`cpt.run` = '{job.key}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {"cpt.run": job.key, "mlflow.runName": f"{job.stage.name} {job.key}"}
            self._id = self._client.create_run(place, tags=tags).info.run_id
        seen = found[0].data.metrics if found else {}
        self.last = {}
        for group in (STEPS, HELD_OUT):
            if f"{group}/loss" in seen:
                self.last[group] = max(one.step for one in self._client.get_metric_history(self._id, f"{group}/loss"))
        known = found[0].data.params if found else {}  # each is written once: of an earlier process these stay
        params = [Param(name, value) for name, value in flat(description(job)).items() if value and name not in known]
        self._client.log_batch(self._id, params=params)

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`. The loss of a row comes last: it is what tells that the row is there."""
        now = int(time.time() * 1000)
        for at in range(0, len(rows), MLFLOW_ROWS):
            some = rows[at : at + MLFLOW_ROWS]
            figures = [(f"{row.group}/{name}", float(value), row.step) for row in some for name, value in row.values.items()]
            self._client.log_batch(self._id, metrics=[self._metric(name, value, now, step) for name, value, step in figures])
            self.last |= {row.group: row.step for row in some}

    def link(self, links: Mapping[str, str]) -> None:
        """See `Tracker`."""
        for name, place in links.items():
            self._client.set_tag(self._id, f"cpt.{name}", place)

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class WandB:
    """A run of Weights & Biases by the key of ours; which steps it has, its files in the run's folder tell, offline or not.

    A step is in them when the next one is logged, and up to 15 seconds later: what a kill left out is told again.
    """

    def __init__(self, job: Job) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.last: dict[str, int] = {}
        for path in job.folder.glob(f"wandb/*run-*-{job.key}/*.wandb"):
            for step, group in wandb_rows(path):
                self.last[group] = max(self.last.get(group, 0), step)
        is_offline = not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or NAME,
            id=job.key,
            name=f"{job.stage.name} {job.key}",
            resume="allow",
            dir=str(job.folder),
            config=description(job),
            mode="offline" if is_offline else None,
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
        )

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        for row in rows:
            self._run.log({f"{row.group}/{name}": value for name, value in row.values.items()}, step=row.step)
            self.last[row.group] = row.step

    def link(self, links: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._run.summary.update({f"run/{name}": place for name, place in links.items()})

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if finished else 1)


def wandb_rows(path: Path) -> Iterator[tuple[int, str]]:
    """The steps in a file of Weights & Biases, each with a group of figures that it has."""
    from wandb.proto.wandb_internal_pb2 import Record

    for record in wandb_records(path):
        history = Record.FromString(record).history
        for group in {(item.key or item.nested_key[0]).partition("/")[0] for item in history.item}:
            yield history.step.num, group


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks, in which a record may be cut into parts. Half a one is none."""
    with path.open("rb") as file:
        at, whole = 7, b""  # behind the file's own head
        while block := file.read(WANDB_BLOCK):
            # checksum, length, kind: 1 for a whole record, 2 for its first part, 4 for its last
            while at + 7 <= len(block):
                length, kind = int.from_bytes(block[at + 4 : at + 6], "little"), block[at + 6]
                whole = (b"" if kind in (1, 2) else whole) + block[at + 7 : at + 7 + length]
                at += 7 + length
                if kind in (1, 4) and at <= len(block):
                    yield whole
            at = 0


def end_services() -> None:
    """End what Weights & Biases runs beside this process, which would else wait for it at its own end, however long."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()


KINDS: Mapping[str, Any] = {"tensorboard": TensorBoard, "mlflow": MlFlow, "wandb": WandB}
ADVICE = {kind: f"pip install 'cpt-factory[{kind}]'" for kind in KINDS}


def description(job: Job) -> dict[str, Any]:
    """What a tracker is told of a run before its first step: its configuration as resolved, and its inputs by their keys."""
    config = {job.stage.name: job.config.model_dump(mode="json"), "model": job.model.model_dump(mode="json")}
    inputs = {"shards": job.shards.key, "tokenizer": job.tokenizer.key, "start": job.start_digest}
    parent = job.continued.run if job.continued else ""
    made = {"run": job.key, **inputs, "parent": parent}
    return {"configuration": config, "artifacts": {name: key for name, key in made.items() if key}}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted names and texts of nested values."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": str(value)[:500]}
    return found
