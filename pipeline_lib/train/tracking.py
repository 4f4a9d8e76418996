"""Experiment tracking: a run's figures as TensorBoard event files, to MLflow or to Weights & Biases. Imports no torch.

The records of a run (metrics.jsonl, evaluation.jsonl, timing.jsonl) stay what counts; a tracker shows them. Each is told by a
thread of its own, beside the steps, of each step once: when a run goes on, a tracker is asked, or remembers, which step it has
last, and gets those that came after it, from the records. Steps that a killed run repeats are the same to the bit, and not told
again.

A tracker that fails stops nothing: one warning, its rows wait and are tried again, and what is left at the end is counted. What
identifies people to a server comes from the environment alone, as the trackers' own libraries read it:

    tensorboard    root/train/KEY/tensorboard/                          tensorboardX
    mlflow         MLFLOW_TRACKING_URI, or root/mlflow.db               MLFLOW_EXPERIMENT_NAME, or "cpt"
    wandb          WANDB_PROJECT, or "cpt"; offline without WANDB_API_KEY and WANDB_MODE
"""

from __future__ import annotations

import json
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline_lib.config.optimizer import RATES
from pipeline_lib.runtime.messages import without_secrets
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import replace_file
from pipeline_lib.train.job import Job

STEPS, HELD_OUT = "train", "held_out"  # groups of figures; of each a tracker has the steps up to some one
PAUSE_SECONDS = 1.0  # between two looks at what waits
AGAIN_SECONDS = 60.0  # after a failure
MOST_WAITING = 100_000  # rows for a tracker that does not take them: some 100 MB
CLOSE_SECONDS = 10.0  # that a run waits at its end for its trackers
MLFLOW_ROWS = 100  # figures and parameters that its server takes at once: 1,000 and 100
NAME = "cpt"  # of the project or the experiment


class NotTold(Exception):
    """A tracker's library or server failed, in whatever way."""


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
        if not found:
            said = flat(description(job))
            params = [Param(name, value) for name, value in said.items() if value]
            for at in range(0, len(params), MLFLOW_ROWS):
                self._client.log_batch(self._id, params=params[at : at + MLFLOW_ROWS])

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`. The loss of a row comes last: it is what tells that the row is there."""
        now = int(time.time() * 1000)
        for at in range(0, len(rows), 50):
            some = rows[at : at + 50]
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
    """A run of Weights & Biases by the key of ours; an offline one cannot tell which steps it has, and a file beside does."""

    def __init__(self, job: Job) -> None:
        import wandb

        self._marks = job.folder / "wandb.json"
        self.last = json.loads(self._marks.read_text()) if self._marks.is_file() else {}
        is_offline = not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or NAME,
            id=job.key,
            name=f"{job.stage.name} {job.key}",
            resume="allow",
            dir=str(job.folder),
            config=description(job),
            mode="offline" if is_offline else None,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        for row in rows:
            self._run.log({f"{row.group}/{name}": value for name, value in row.values.items()}, step=row.step)
            self.last[row.group] = row.step
        replace_file(self._marks, json.dumps(self.last).encode())

    def link(self, links: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._run.summary.update({f"run/{name}": place for name, place in links.items()})

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if finished else 1)


KINDS: Mapping[str, Any] = {"tensorboard": TensorBoard, "mlflow": MlFlow, "wandb": WandB}
ADVICE = {"tensorboard": "pip install 'cpt-factory[tensorboard]'", "mlflow": "pip install mlflow", "wandb": "pip install wandb"}


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


@dataclass
class Told:
    """A tracker, or why there is none yet, and the rows that wait for it."""

    kind: str
    tracker: Tracker | None = None
    rows: queue.Queue[Row | None] = field(default_factory=queue.Queue)
    waiting: list[Row] = field(default_factory=list)
    forgotten: int = 0
    links: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    again_at: float = 0.0

    def tell(self, job: Job, end: bool | None) -> None:
        """Give it what waits.

        Args:
            job: of the run.
            end: whether the run has finished, at the end of this process's part; None before.

        Raises:
            NotTold: it failed; what waits goes on waiting.
        """
        try:
            self.tracker = tracker = self.tracker or KINDS[self.kind](job)
            rows = [row for row in self.waiting if row.step > tracker.last.get(row.group, 0)]
            tracker.log(sorted(rows, key=lambda row: (row.step, row.group != STEPS)))
            tracker.link(self.links)
            self.waiting, self.links = [], {}
            if end is not None:
                tracker.close(end)
        except Exception as error:
            advice = f"; {ADVICE[self.kind]}" if isinstance(error, ImportError) else ""
            raise NotTold(without_secrets(f"{type(error).__name__}: {error}") + advice) from error


class Tracking:
    """A run's trackers, each told by a thread of its own.

    Args:
        job: whose configuration names them; a rank that is not the first has none.
        log: receives one warning of each that fails.
    """

    def __init__(self, job: Job, log: Callable[[str], None], is_first: bool = True) -> None:
        self._job, self._log = job, log
        self._told = [Told(kind) for kind in dict.fromkeys(job.config.tracking)] if is_first else []
        self._threads: list[threading.Thread] = []
        self._finished = False

    def start(self, metrics: str, evaluation: str) -> None:
        """Begin, with the rows that the run has behind it: a tracker is told of those that it lacks."""
        if not self._told:
            return
        timing = _last_by_step(self._job.folder / "timing.jsonl")
        for row in map(json.loads, metrics.splitlines()):
            self.step(row, timing.get(row["step"], {}))
        for row in map(json.loads, evaluation.splitlines()):
            self.held_out(row)
        for told in self._told:
            self._threads.append(threading.Thread(target=self._work, args=(told,), name=f"tracking-{told.kind}", daemon=True))
            self._threads[-1].start()

    def step(self, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """A step's row of metrics.jsonl, and that of timing.jsonl."""
        if self._told:
            config = self._job.config
            share = metrics["learning_rate"] / config.learning_rate
            rates = {name: share * rate for name in RATES if (rate := getattr(config, name))}
            self._put(STEPS, {**timing, **metrics, **rates})

    def held_out(self, figures: Mapping[str, float]) -> None:
        """Figures on held-out pairs, with their step."""
        if self._told:
            self._put(HELD_OUT, figures)

    def link(self, links: Mapping[str, str]) -> None:
        """Where a finished run's report and its other artifacts lie, told at once."""
        self._finished = True
        for told in self._told:
            told.links = dict(links)
            self._try(told, is_last=True)

    def close(self, finished: bool) -> None:
        """Wait a while for what is not told yet; what stays untold is counted."""
        self._finished, deadline = finished, time.monotonic() + CLOSE_SECONDS
        for told in self._told:
            told.rows.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for told in self._told if self._threads else ():
            untold = len(told.waiting) + sum(row is not None for row in list(told.rows.queue))  # behind what it is being told
            if lost := told.forgotten + untold:
                self._log(f"{WARNING}tracking: {told.kind} has not been told of {lost:,} rows; the run's records have them")

    def _put(self, group: str, values: Mapping[str, float]) -> None:
        figures = {name: float(value) for name, value in values.items() if name != "step"}
        figures |= {name: figures.pop(name) for name in ("loss",) if name in figures}  # last, see MlFlow
        for told in self._told:
            told.rows.put(Row(int(values["step"]), group, figures))

    def _work(self, told: Told) -> None:
        is_last = False
        while not is_last:
            rows = [told.rows.get()]
            time.sleep(0 if rows[0] is None else PAUSE_SECONDS)
            while not told.rows.empty():
                rows.append(told.rows.get())
            is_last = None in rows
            told.waiting += [row for row in rows if row is not None]
            if (more := len(told.waiting) - MOST_WAITING) > 0:
                told.forgotten += more
                del told.waiting[:more]
            if is_last or time.monotonic() >= told.again_at:
                self._try(told, is_last)

    def _try(self, told: Told, is_last: bool) -> None:
        try:
            told.tell(self._job, self._finished if is_last else None)
        except NotTold as why:
            told.failures += 1
            told.again_at = time.monotonic() + AGAIN_SECONDS
            if told.failures == 1:
                self._log(f"{WARNING}tracking: {told.kind} cannot be told ({why}); training goes on without it")


def _last_by_step(path: Path) -> dict[int, dict[str, float]]:
    """The newest row of each step of timing.jsonl; a line that was cut off is none."""
    found: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["step"]] = row
    return found


def tracking_of(folder: Path, log: Callable[[str], None]) -> Tracking | None:
    """The trackers of a finished run, in the folder of its artifact; None where it was trained on another machine."""
    path = folder / "job.json"
    if not path.is_file():
        return None
    job = Job.model_validate_json(path.read_text())
    return Tracking(job.model_copy(update={"root": str(folder.parents[1])}), log)


def link_report(stages: Mapping[str, Artifact], chosen: str, report: Path, log: Callable[[str], None]) -> None:
    """Tell a run's trackers where its report lies, which checkpoint was chosen, and the keys of all that was made of it."""
    if tracking := tracking_of(stages["train"].folder, log):
        keys = {name: artifact.manifest.key for name, artifact in stages.items()}
        tracking.link({"report": str(report), "checkpoint": chosen, **keys})
