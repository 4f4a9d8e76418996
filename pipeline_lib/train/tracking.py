"""Experiment tracking: a run's figures to what shows them (`trackers`). Imports no torch.

The records of a run (metrics.jsonl, evaluation.jsonl, timing.jsonl) stay what counts; a tracker shows them. Each is told by a
thread of its own, beside the steps, of each step once: when a run goes on, a tracker is asked which step it has last, and gets
those that came after it, from the records. Steps that a killed run repeats are the same to the bit, and not told again.

A tracker that fails, or does not answer, stops nothing: one warning, its rows wait and are tried again, and what is left at the
end is counted.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_lib.config.optimizer import RATES
from pipeline_lib.runtime.messages import without_secrets
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.train.job import EVALUATION_FILE, METRICS_FILE, Job
from pipeline_lib.train.trackers import ADVICE, HELD_OUT, KINDS, STEPS, Row, Tracker, end_services

PAUSE_SECONDS = 1.0  # between two looks at what waits
AGAIN_SECONDS = 60.0  # after a failure
MOST_WAITING = 100_000  # rows for a tracker that does not take them: some 100 MB
CLOSE_SECONDS = 30.0  # that a run waits at its end for its trackers


class NotTold(Exception):
    """A tracker's library or server failed, in whatever way."""


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

    def link(self, links: Mapping[str, str], metrics: str, evaluation: str) -> None:
        """Where a finished run's report and its other artifacts lie, and those of its rows that were not told."""
        for told in self._told:
            told.links = dict(links)
        self.start(metrics, evaluation)
        self.close(finished=True)

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
            if told.links:
                self._log(f"{WARNING}tracking: {told.kind} has not been told where the run's report lies")
        if any(thread.is_alive() for thread in self._threads):
            end_services()

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
        records = stages["train"].part_folder("metrics")
        texts = [path.read_text() if (path := records / name).is_file() else "" for name in (METRICS_FILE, EVALUATION_FILE)]
        tracking.link({"report": str(report), "checkpoint": chosen, **keys}, *texts)
