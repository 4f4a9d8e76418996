"""What a Prefect server knows, read over its API without importing Prefect, which would take a second."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.orchestrator.server import is_healthy
from pipeline_lib.runtime.processes import is_stamped

BUSY = 503  # Prefect's answer while its database is locked; nothing was changed
ASK_AGAIN_SECONDS = 0.2
SECONDS = 1.0  # for one answer: a status that takes longer than people wait is none
RUNNING = ("RUNNING", "CANCELLING", "PENDING", "PAUSED")
FAILED = ("FAILED", "CRASHED")
PAGE = 200  # the most that the API gives at once
NESTED = 4  # flows within flows that are looked into

Row = dict[str, Any]


def answer_to(request: urllib.request.Request, seconds: float) -> bytes:
    """What a server answers; one that is busy is asked again, as Prefect's own client does.

    Args:
        seconds: for one answer, and after which a busy server is not asked again.

    Raises:
        OSError: there is no answer in time, or one that says no.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - Prefect's own, or the user's
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(ASK_AGAIN_SECONDS)


class Api:
    """Read-only questions to a server.

    Args:
        url: of its API.
    """

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds

    def post(self, path: str, body: Any) -> Any:
        """The answer to a question, which is posted as JSON.

        Raises:
            OSError: there is no answer in time, or one that says no.
        """
        headers = {"Content-Type": "application/json", **_login()}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers, method="POST")  # noqa: S310
        return json.loads(answer_to(request, self.seconds))

    def flow_runs(self, wanted: Row, sort: str, limit: int = PAGE) -> list[Row]:
        """Flow runs that a filter lets through."""
        return list(self.post("/flow_runs/filter", {"flow_runs": wanted, "sort": sort, "limit": limit}))

    def flows(self, ids: Iterable[str]) -> dict[str, str]:
        """Names of flows by their ids."""
        return self._names("flows", ids)

    def deployments(self, ids: Iterable[str]) -> dict[str, str]:
        """Names of deployments by their ids."""
        return self._names("deployments", ids)

    def running(self) -> list[Row]:
        """The outermost runs at work, each with its `stage`, `stage_since` and `percent` where they are known."""
        found = self.flow_runs({"state": {"type": {"any_": list(RUNNING)}}}, "START_TIME_DESC")
        return [{**run, **self._stage(run)} for run in found if is_outermost(run)]

    def scheduled(self) -> list[Row]:
        """The runs to come, the next first."""
        found = self.flow_runs({"state": {"type": {"any_": ["SCHEDULED"]}}}, "EXPECTED_START_TIME_ASC")
        return [run for run in found if run.get("expected_start_time") and run.get("state_name") != "AwaitingRetry"]

    def last_failure(self) -> Row | None:
        """The last outermost run that failed."""
        found = self.flow_runs({"state": {"type": {"any_": list(FAILED)}}}, "END_TIME_DESC", 50)
        return next((run for run in found if is_outermost(run) and run.get("end_time")), None)

    def _names(self, what: str, ids: Iterable[str]) -> dict[str, str]:
        wanted = sorted({one for one in ids if one})
        if not wanted:
            return {}
        found = self.post(f"/{what}/filter", {what: {"id": {"any_": wanted}}, "limit": PAGE})
        return {one["id"]: one["name"] for one in found}

    def _stage(self, run: Row) -> Row:
        """The stage that it is at: the task that began last, of it or of the flows that it called."""
        ids = [run["id"]]
        for _ in range(NESTED):
            wanted = {"parent_flow_run_id": {"any_": ids}, "state": {"type": {"any_": list(RUNNING)}}}
            called = [one["id"] for one in self.flow_runs(wanted, "START_TIME_DESC") if one["id"] not in ids]
            if not called:
                break
            ids += called
        body = {"task_runs": {"flow_run_id": {"any_": ids}, "state": {"type": {"any_": ["RUNNING"]}}}, "limit": PAGE}
        tasks = [task for task in self.post("/task_runs/filter", body) if is_stage(task)]
        if not tasks:
            return {}
        task = max(tasks, key=lambda one: one["start_time"])
        of_task = {"task_run_id": {"any_": [task["id"]]}, "type": {"any_": ["progress"]}}
        bars = self.post("/artifacts/filter", {"artifacts": of_task, "sort": "UPDATED_DESC", "limit": 1})
        bar = {"percent": float(bars[0]["data"] or 0), "note": bars[0]["description"] or ""} if bars else {}
        return {"stage": stage_name(task["name"]), "stage_since": task["start_time"], **bar}


def find_api(home: Path) -> Api | None:
    """The server that PREFECT_API_URL names, else one of this artifact root that answers: of `cpt up`, or of a run."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        return Api(given) if is_healthy(given, SECONDS) else None
    entries = []
    for path in (home / "prefect" / "servers").glob("*.json"):
        try:
            entries.append(json.loads(path.read_bytes()))
        except (OSError, ValueError):  # it ends at this moment
            continue
    for entry in sorted(entries, key=lambda one: one.get("role") != "up"):
        if (
            entry.get("role") in ("up", "run")
            and is_stamped(entry["pid"], entry["created"])
            and is_healthy(entry["url"], SECONDS)
        ):
            return Api(entry["url"])
    return None


def is_outermost(run: Row) -> bool:
    """True if no other flow called it."""
    return run.get("parent_task_run_id") is None or run.get("deployment_id") is not None


def is_stage(task: Row) -> bool:
    """True of a task that is a stage of ours, and no stand-in for a flow that was called."""
    return bool(task.get("start_time")) and not str(task.get("dynamic_key")).isdigit()


def stage_name(task: str) -> str:
    """The stage's name, of a task run's, which has a few digits after it."""
    return task.rpartition("-")[0] or task


def seconds_left(run: Row, now: datetime) -> float | None:
    """By the pace of the stage since it began; None where that is not known."""
    percent, since = run.get("percent"), run.get("stage_since")
    if not since or not percent or not 1 <= percent < 100:
        return None
    return (now - parse_time(since)).total_seconds() * (100 - percent) / percent


def parse_time(text: str) -> datetime:
    """A time of the API's, in UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def age(text: str, now: datetime) -> float:
    """Seconds from a time of the API's to now; below 0 for one to come."""
    return (now - parse_time(text)).total_seconds()


def newest(times: Sequence[str]) -> str:
    """The last of them; empty of none."""
    return max(times, key=parse_time) if times else ""


def _login() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if login := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {}
