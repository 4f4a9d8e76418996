"""Approval: the question whether a candidate is promoted, put to a person in Prefect's UI.

A run of a deployment suspends itself. No process waits, and a restart of the platform keeps the question. Once it is answered a
worker starts the run again, which goes on with the candidate that it asked about, whatever the dump has become. The
question's key is made of candidate and champion: an answer counts for these two, and where another model is champion by then,
the run asks again.

A run that no worker can start again, such as one at a terminal, waits in its process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput, create_flow_run_input, delete_flow_run_input, read_flow_run_input
from prefect.states import Running, Scheduled
from pydantic import Field

from pipeline_lib.store.files import digest_of

POLL_SECONDS = 3
QUESTION = re.compile(r"promotion-[0-9a-f]{16}-(\d+)s")
CANDIDATE = "candidate"  # key in Prefect of what a run asks about
NOBODY = "nobody answered"
NO_SLOT = "Deployment concurrency limit reached"  # Prefect's message of a run that found its deployment's slot taken
BY = "cpt.started-by"  # label of a run that took the place of a lost one: who started that
SLOT_DAYS = 7.0  # how long ago a run with an answer may have been turned away


class AskedAlready(Exception):
    """Another run waits for the answer to the same question; the message is its name."""


class Approval(RunInput):
    """Answer of the person who decides."""

    promote: bool = Field(True, title="Promote", description="Searches use the candidate from now on; off: it is held back.")
    reason: str = Field("", title="Reason", description="A word for the history.")


@dataclass(frozen=True)
class Question:
    """A question to a person.

    Attributes:
        page: what the person decides by.
        about: candidate and champion, as JSON.
        candidate: what the run needs to go on from here, as JSON.
        hours: how long an answer is waited for.
    """

    page: str
    about: Any
    candidate: Mapping[str, Any]
    hours: float


def ask(question: Question, tell: Callable[[], object]) -> Approval | None:
    """Put the question, and wait for its answer; None: nobody gave one in time.

    Args:
        tell: tells people that there is a question; called once.

    Raises:
        AskedAlready: see there.
    """
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None, "a question outside of a flow"
    seconds = max(1, round(question.hours * 3600))
    asked = Approval.with_initial_data(description=question.page)
    run, key = context.flow_run, f"promotion-{digest_of(question.about)[:16]}-{seconds}s"
    if run.deployment_id is None or run.parent_task_run_id is not None:
        tell()
        try:
            return pause_flow_run(wait_for_input=asked, timeout=seconds, poll_interval=POLL_SECONDS)
        except FlowPauseTimeout:
            _go_on()
            return None
    if key not in _asked(run):
        _check_not_asked(run, key)
        if read_flow_run_input(CANDIDATE, flow_run_id=run.id) is not None:  # of an earlier question
            delete_flow_run_input(CANDIDATE, flow_run_id=run.id)
        create_flow_run_input(CANDIDATE, dict(question.candidate), flow_run_id=run.id)
        tell()
    answer = suspend_flow_run(wait_for_input=asked, key=key)  # ends this process, and returns in the one after the answer
    return None if answer.reason == NOBODY and not answer.promote else answer


def _check_not_asked(run: FlowRun, key: str) -> None:
    with get_client(sync_client=True) as client:
        for other in _runs(client, StateType.PAUSED):
            if other.id != run.id and other.state and other.state.state_details.pause_key == key:
                raise AskedAlready(other.name)


def recalled() -> dict[str, Any] | None:
    """What this run asked about before it was suspended; None where it did not."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    found: Any = read_flow_run_input(CANDIDATE, flow_run_id=run.id) if run is not None and _asked(run) else None
    return dict(found) if found else None


def expire(client: SyncPrefectClient, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> list[str]:
    """Let the runs go on whose question nobody answered in time; their names. Prefect itself would leave them for ever."""
    expired = []
    for run in _runs(client, StateType.PAUSED):
        found = QUESTION.fullmatch(run.state.state_details.pause_key or "") if run.state else None
        if found and run.state and run.state.timestamp + timedelta(seconds=int(found[1])) <= now():
            client.resume_flow_run(run.id, run_input={"promote": False, "reason": NOBODY})
            expired.append(run.name)
    return expired


def is_turned_away(run: FlowRun) -> bool:
    """True for a run that was answered while another one of its deployment was at work, which Prefect cancels for it."""
    message = (run.state.message or "") if run.state else ""
    return bool(run.state and run.state.is_cancelled() and message.startswith(NO_SLOT) and _asked(run))


def let_in_again(client: SyncPrefectClient) -> list[str]:
    """Schedule those again that were turned away, once their deployment is free; their names."""
    since = datetime.now(UTC) - timedelta(days=SLOT_DAYS)
    let_in = []
    for run in _runs(client, StateType.CANCELLED, filters.FlowRunFilterEndTime(after_=since)):
        if is_turned_away(run) and not _is_at_work(client, run):
            client.set_flow_run_state(run.id, Scheduled(name="Resuming", scheduled_time=datetime.now(UTC)), force=True)
            let_in.append(run.name)
    return let_in


def starter_of(run: FlowRun) -> str:
    """Who started a run, "schedule" or "person"; of one that took the place of a lost one, who started that."""
    if noted := run.labels.get(BY):
        return str(noted)
    by = run.created_by.type if run.created_by else ""
    return "schedule" if run.auto_scheduled or by in ("SCHEDULE", "AUTOMATION") else "person"


def _asked(run: FlowRun) -> set[str]:
    """The questions that a run has put."""
    keys = (run.empirical_policy.pause_keys if run.empirical_policy else None) or set()
    return {key for key in keys if QUESTION.fullmatch(key)}


def _runs(client: SyncPrefectClient, state: StateType, ended: filters.FlowRunFilterEndTime | None = None) -> list[FlowRun]:
    of_state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[state]))
    return client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(state=of_state, end_time=ended), limit=200)


def _is_at_work(client: SyncPrefectClient, run: FlowRun) -> bool:
    """True if another run of its deployment has begun or is about to."""
    busy = filters.FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    wanted = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[run.deployment_id] if run.deployment_id else []),
        state=filters.FlowRunFilterState(type=busy),
    )
    return bool(client.read_flow_runs(flow_run_filter=wanted, limit=1))


def _go_on() -> None:
    """Running again: the state in which Prefect leaves a run that nobody resumed is Paused."""
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Running(), force=True)
