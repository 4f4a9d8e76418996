"""Runs that nobody works at any more, closed as Crashed: else they stay Running for ever and hold their deployment's slot.

A run of a worker of `cpt up` on this host is lost when no process here belongs to it, whatever pid it had. A run of another
host, another worker or a terminal is lost when its heartbeats stay away. Import this after the server's environment is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from pipeline_lib.runtime.processes import stop_processes

HOST = socket.gethostname()
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
RUN_STOP_SECONDS = 45.0  # a trainer gets 20 of them to save its step
SUBMISSION_SECONDS = 5.0  # between Pending and the label that names the worker
MISSED_HEARTBEATS = 3
LEAST_SILENCE_SECONDS = 180.0
DEFAULT_HEARTBEAT_SECONDS = 180.0  # Prefect's, of a client that does not have our environment
LONGEST_HEARTBEAT_SECONDS = 600.0  # two that are further apart had an outage between them
PAGE = 200
MISSED = "Missed while the platform was down"


def worker_name(home: Path) -> str:
    """The name that ties a run to this host and this artifact root, by the label that a worker gives to its runs."""
    return f"cpt up on {HOST} ({hashlib.sha256(str(home).encode()).hexdigest()[:8]})"


def close_lost(client: SyncPrefectClient, home: Path, before: Callable[[list[FlowRun]], object] = lambda _: None) -> list[str]:
    """Close every run of this host's `cpt up` worker, which must not run, and free the slots; their processes are ended first.

    Args:
        before: is told the runs before anything is done to them.

    Returns:
        the names of the closed runs.
    """
    processes = run_processes()
    lost = [run for run in _read_runs(client, UNFINISHED) if _is_root(run) and _is_lost_here(run, home, processes)]
    before(lost)
    stop_processes([processes[run.id] for run in lost if run.id in processes], RUN_STOP_SECONDS)
    names = [
        run.name for run in lost if _close(client, run.id, f"no process of it is left on {HOST}, where its worker was stopped")
    ]
    _close_children_of_ended(client, processes)
    _free_slots(client, home)
    return names


def skip_missed(client: SyncPrefectClient) -> int:
    """Cancel the scheduled runs that were missed while nothing ran, all but the latest of each schedule; how many."""
    due = filters.FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC))
    waiting = [
        run
        for run in _read_runs(client, [StateType.SCHEDULED], due)
        if run.auto_scheduled and run.state_name in ("Scheduled", "Late")
    ]
    n_skipped = 0
    for _, group in groupby(sorted(waiting, key=lambda run: (_schedule_of(run), run.expected_start_time)), _schedule_of):
        *missed, latest = group
        for run in missed:
            message = f"{MISSED}; the latest, due at {latest.expected_start_time}, runs in its stead."
            client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
        n_skipped += len(missed)
    return n_skipped


class SilenceWatch:
    """Heartbeats of the runs that have no process here, from look to look; no clock but this process's own is asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[UUID, tuple[str, float]] = {}

    def look(self, client: SyncPrefectClient) -> list[str]:
        """Close the runs whose heartbeats stayed away for long enough since the first look; their names."""
        processes, closed = run_processes(), []
        running = [run for run in _read_runs(client, UNFINISHED[1:]) if _is_root(run) and run.id not in processes]
        heard, self._heard = self._heard, {}
        for run in running:
            latest, interval = _heartbeats(client, run.id)
            before, since = heard.get(run.id, (None, 0.0))
            since = since if before == latest else self._clock()
            self._heard[run.id] = (latest, since)
            is_silent = self._clock() - since > max(LEAST_SILENCE_SECONDS, MISSED_HEARTBEATS * interval)
            if is_silent and _close(client, run.id, f"its last heartbeat was {latest or 'never'}, and nothing is heard of it"):
                closed.append(run.name)
        _close_children_of_ended(client, processes)
        return closed


def run_processes() -> dict[UUID, psutil.Process]:
    """The topmost process of each flow run of a worker on this host, by the id in its environment: pids are used again."""
    found: dict[int, tuple[UUID, psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError, KeyError):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = (UUID(process.environ()["PREFECT__FLOW_RUN_ID"]), process)
    tops = {}
    for run_id, process in found.values():
        with contextlib.suppress(psutil.Error):
            if found.get(process.ppid(), (None,))[0] != run_id:
                tops[run_id] = process
    return tops


def _is_lost_here(run: FlowRun, home: Path, processes: dict[UUID, psutil.Process]) -> bool:
    """True if its worker was one of `cpt up` here; a run of another worker of this host only if it has no process."""
    worker = run.labels.get("prefect.worker.name")
    if worker == worker_name(home):
        return True
    if run.id in processes or worker is not None:
        return False
    host, colon, _ = (run.infrastructure_pid or "").rpartition(":")
    age = (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state and run.state.timestamp else 0.0
    cut_while_submitted = run.deployment_id is not None and run.state_type == StateType.PENDING and age > SUBMISSION_SECONDS
    return bool(colon and host == HOST) or cut_while_submitted


def _is_root(run: FlowRun) -> bool:
    """True if it has a process of its own: a flow called within another has not, unless it was run as a deployment."""
    return run.parent_task_run_id is None or run.deployment_id is not None


def _close(client: SyncPrefectClient, run_id: UUID, reason: str, states: Collection[StateType] = UNFINISHED) -> bool:
    """Set a run in one of these states and the tasks and flows below it to Crashed, unless it has ended meanwhile."""
    with contextlib.suppress(ObjectNotFound):
        state = client.read_flow_run(run_id).state
        if state is None or state.type not in states:
            return False
        message = f"Was {state.name} when the platform was interrupted: {reason}."
        client.set_flow_run_state(run_id, Crashed(message=message), force=True)
        _close_below(client, run_id)
        return True
    return False


def _close_below(client: SyncPrefectClient, run_id: UUID) -> None:
    of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run_id]))
    unfinished = filters.TaskRunFilter(state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=UNFINISHED)))
    tasks = [
        task for page in _pages(client.read_task_runs, flow_run_filter=of_run, task_run_filter=unfinished) for task in page
    ]
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message="Its flow run was interrupted."), force=True)
    for child in _read_runs(client, UNFINISHED, parents=[run_id]):
        if not _is_root(child):
            _close(client, child.id, "so was the run that called it")


def _close_children_of_ended(client: SyncPrefectClient, processes: dict[UUID, psutil.Process]) -> None:
    """Close flows whose caller has ended without them: a worker that reports a killed run knows only the outermost."""
    unfinished = [*UNFINISHED, StateType.PAUSED]  # with its caller, which was never resumed
    for run in _read_runs(client, unfinished):
        if _is_root(run) or run.parent_task_run_id is None:
            continue
        with contextlib.suppress(ObjectNotFound):
            caller_id = client.read_task_run(run.parent_task_run_id).flow_run_id
            caller = client.read_flow_run(caller_id) if caller_id is not None and caller_id not in processes else None
            if caller and caller.state and caller.state.is_final():
                _close(client, run.id, "so was the run that called it", unfinished)


def _free_slots(client: SyncPrefectClient, home: Path) -> None:
    """Make each deployment's slots count its unfinished runs, and release leases that none of them holds."""
    deployments = [found for page in _pages(client.read_deployments) for found in page if found.global_concurrency_limit]
    limits = {found.id: found.global_concurrency_limit for found in deployments}
    own = {key: limit for key, limit in limits.items() if limit.name == f"deployment:{key}"}  # else others hold slots too
    runs = _read_runs(client, UNFINISHED)
    held = {str(run.state.state_details.deployment_concurrency_lease_id) for run in runs if run.state}
    for path in (home / "prefect" / "concurrency_leases").glob("*-*.json"):
        if path.stem not in held and set(_resources(path)) & {str(limit.id) for limit in own.values()}:
            with contextlib.suppress(ObjectNotFound):
                client.release_concurrency_slots_with_lease(UUID(path.stem))
    for key, limit in own.items():
        n_running = sum(run.deployment_id == key for run in runs)
        if client.read_global_concurrency_limit_by_name(limit.name).active_slots > n_running:
            client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=n_running))


def _resources(lease: Path) -> list[str]:
    try:
        return list(json.loads(lease.read_text())["resource_ids"])
    except (OSError, ValueError, KeyError):  # it has ended meanwhile, or was cut short: Prefect removes it
        return []


def _schedule_of(run: FlowRun) -> tuple[str, str]:
    return str(run.deployment_id), str(run.created_by.id if run.created_by else "")


def _heartbeats(client: SyncPrefectClient, run_id: UUID) -> tuple[str, float]:
    """When the last one was, by its sender's clock, and the seconds from the one before."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    answer = client.request("POST", "/events/filter", json={"filter": wanted | {"order": "DESC"}, "limit": 2})
    times = [event["occurred"] for event in answer.json()["events"]]
    if len(times) < 2:
        return (times[0] if times else ""), DEFAULT_HEARTBEAT_SECONDS
    latest, before = (datetime.fromisoformat(text) for text in times)
    return times[0], min((latest - before).total_seconds(), LONGEST_HEARTBEAT_SECONDS)


def _read_runs(
    client: SyncPrefectClient, states: list[StateType], due: Any = None, parents: Iterable[UUID] = ()
) -> list[FlowRun]:
    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=states)),
        next_scheduled_start_time=due,
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=list(parents)) if parents else None,
    )
    return [run for page in _pages(client.read_flow_runs, flow_run_filter=wanted) for run in page]


def _pages(read: Any, **words: Any) -> Iterable[list[Any]]:
    offset = 0
    while page := read(limit=PAGE, offset=offset, **words):
        yield page
        if len(page) < PAGE:
            return
        offset += PAGE
