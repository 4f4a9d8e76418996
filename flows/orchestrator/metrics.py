"""Metrics of `cpt up` in Prometheus' format: runs, stages, names, champions, quarantine and disk.

They are made when they are asked for, and no more often than every MADE_SECONDS. Prefect's own, of its server's process
alone, are under /api/metrics of the server where PREFECT_API_ENABLE_METRICS is set.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestrator.api import Api, Row, find_api, is_stage, parse_time, stage_name
from flows.orchestrator.status import champions, disk
from pipeline_lib.runtime.outcomes import read_outcomes

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STATES = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MADE_SECONDS = 30.0  # it takes the server a hundred small questions
DISK_EVERY_SECONDS = 120.0  # folders of millions of files take seconds
MOST_REASONS = 50  # of quarantine, that a name has a figure for


class Metrics:
    """Figures of an artifact root and its server, as prometheus_client collects them.

    Args:
        home: the artifact root.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._page, self._made = b"", -MADE_SECONDS
        self._disk: Row = {}
        self._disk_at = -DISK_EVERY_SECONDS

    def page(self) -> bytes:
        """What Prometheus reads."""
        from prometheus_client import CollectorRegistry, generate_latest

        with self._lock:
            if time.monotonic() - self._made >= MADE_SECONDS:
                registry = CollectorRegistry(auto_describe=False)
                registry.register(self)
                self._page, self._made = generate_latest(registry), time.monotonic()
            return self._page

    def describe(self) -> list[Metric]:
        """Nothing: to collect once more for the names would cost as much again."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every figure; what the server does not tell in time is left out, and `cpt_server_up` is 0."""
        api = find_api(self.home)
        told, is_up = [], api is not None
        try:
            told = [*_runs(api), *_stages(api)] if api else []
        except (OSError, ValueError, KeyError):
            is_up = False
        yield from told
        yield _gauge("server_up", "Whether Prefect's server answered.", [({}, float(is_up))])
        for figures in (self._names, self._champions, self._quarantined, self._disk_bytes):
            with contextlib.suppress(OSError, ValueError):  # a file that is being replaced: the next time
                yield from list(figures())

    def _names(self) -> Iterator[Metric]:
        outcomes = read_outcomes(self.home)
        labelled = [({"flow": outcome.flow, "name": outcome.name}, outcome) for outcome in outcomes]
        success = [(labels, outcome.success_at) for labels, outcome in labelled if outcome.success_at]
        failure = [
            (labels, parse_time(outcome.failure["at"]).timestamp()) for labels, outcome in labelled if outcome.failure.get("at")
        ]
        failing = [(labels, float(outcome.failing or outcome.is_dead)) for labels, outcome in labelled]
        of = ("flow", "name")
        yield _gauge("last_success_timestamp_seconds", "When a run of the name last completed.", success, of)
        yield _gauge("last_failure_timestamp_seconds", "When a run of the name last failed.", failure, of)
        yield _gauge("failing", "1 from a failure of the name to its next success.", failing, of)

    def _champions(self) -> Iterator[Metric]:
        rows = champions(self.home, [])
        shown = ("name", "checkpoint", "model_digest", "index_digest")
        info = [({label: str(row[label] or "") for label in shown}, 1.0) for row in rows if not row["trial"]]
        since = [({"name": row["name"]}, parse_time(row["since"]).timestamp()) for row in rows if row["since"]]
        figures = [
            ({"name": row["name"], "kind": kind}, value) for row in rows for kind, value in sorted(row["figures"].items())
        ]
        yield _gauge("champion_info", "The model and index that searches of a name use.", info, shown)
        yield _gauge("champion_since_timestamp_seconds", "When the champion came into use.", since, ("name",))
        yield _gauge("champion_figure", "Headline figure of each kind of task on the test split.", figures, ("name", "kind"))

    def _quarantined(self) -> Iterator[Metric]:
        rows = []
        for path in sorted((self.home / "reports").glob("*/report.json")):
            report: dict[str, Any] = json.loads(path.read_bytes())
            for row in report.get("quarantine", [])[:MOST_REASONS]:
                labels = {"name": str(report.get("name", path.parent.name)), "stage": row["stage"], "reason": row["reason"]}
                rows.append((labels, float(row["count"])))
        of = ("name", "stage", "reason")
        yield _gauge("quarantined_rows", "Rows in quarantine of a name's last run, by stage and reason.", rows, of)

    def _disk_bytes(self) -> Iterator[Metric]:
        if time.monotonic() - self._disk_at >= DISK_EVERY_SECONDS:
            self._disk, self._disk_at = disk(self.home, seconds=30.0), time.monotonic()
        rooms = [({"room": room}, float(size)) for room, size in self._disk["rooms"].items()]
        yield _gauge("disk_bytes", "Bytes of the store's rooms and of the artifact root's other folders.", rooms, ("room",))
        yield _gauge("disk_free_bytes", "Bytes that are free on the artifact root's disk.", [({}, float(self._disk["free"]))])
        database = self.home / "prefect" / "prefect.db"
        if database.is_file():
            size = float(database.stat().st_size)
            yield _gauge("prefect_database_bytes", "Bytes of Prefect's database.", [({}, size)])


def _runs(api: Api) -> Iterator[Metric]:
    flows = api.post("/flows/filter", {"limit": 200})
    rows = []
    for flow in flows:
        for state in STATES:
            wanted = {"flows": {"id": {"any_": [flow["id"]]}}, "flow_runs": {"state": {"type": {"any_": [state]}}}}
            count = api.post("/flow_runs/count", wanted)
            if count or state in ("RUNNING", "FAILED", "CRASHED"):
                rows.append(({"flow": flow["name"], "state": state.lower()}, float(count)))
    yield _gauge("flow_runs", "Runs that the server remembers, by flow and state.", rows, ("flow", "state"))
    at_work, names = api.running(), {flow["id"]: flow["name"] for flow in flows}
    told = [
        ({"flow": names.get(run["flow_id"], ""), "run": run["name"], "stage": run.get("stage") or ""}, run) for run in at_work
    ]
    progress = [(labels, run["percent"] / 100) for labels, run in told if "percent" in run]
    since = [(labels, parse_time(run["start_time"]).timestamp()) for labels, run in told if run.get("start_time")]
    labels = ("flow", "run", "stage")
    yield _gauge("run_started_timestamp_seconds", "When a run that is at work began.", since, labels)
    yield _gauge("run_stage_progress_ratio", "How far the stage of a run at work is, from 0 to 1.", progress, labels)


def _stages(api: Api) -> Iterator[Metric]:
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "sort": "END_TIME_DESC", "limit": 200}
    last: dict[str, float] = {}
    for task in filter(is_stage, api.post("/task_runs/filter", body)):
        last.setdefault(stage_name(task["name"]), float(task.get("total_run_time") or 0.0))
    rows = [({"stage": stage}, seconds) for stage, seconds in sorted(last.items())]
    yield _gauge("stage_last_seconds", "What a stage took when it last completed.", rows, ("stage",))


def _gauge(name: str, text: str, rows: list[tuple[dict[str, str], float]], labels: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"cpt_{name}", text, labels=labels)
    for values, figure in rows:
        family.add_metric([values[label] for label in labels], figure)
    return family
