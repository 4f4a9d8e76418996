"""What flows share of Prefect: names of runs, subflows, and hooks: the record of a run, its structured log, who is told of it.

Prefect calls the hooks in the process of the run; those of a crash or a cancellation also in one that its worker starts.
What none of them could tell of, `cpt up` finds (flows/orchestrator/upkeep.py). A notification that fails fails nothing: the
log has it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect import Flow, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging.loggers import flow_run_logger

from data_contracts.verdicts import RowsRejected
from flows.notices import UNKNOWN, Subject, mark_registry, notify, subject_of, tell_registry, title_of
from pipeline_lib.config.notify import Event
from pipeline_lib.runtime import event_log, interruption
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.runtime.messages import Message, without_secrets
from pipeline_lib.runtime.outcomes import Outcome, outcome_of
from tasks.ui import paused_with_caller, stage_of

P = ParamSpec("P")
R = TypeVar("R")

STATES = {StateType.COMPLETED: "completed", StateType.CANCELLED: "cancelled", StateType.CANCELLING: "cancelled"}
HOOKED_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "pipeline_lib", event_log.EVENTS.name)
# of a server that is gone or answers nonsense, of a record that another process wrote; what else comes, Prefect logs
TROUBLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, httpx.HTTPError, PrefectException)
NO = ("false", "no", "off", "0", "n", "f")  # what a parameter takes for it
PREFIX = "Flow run encountered an exception: "  # of Prefect's
# What Prefect's UI fills in: a star of a constellation, with a number or a kind of region
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu"
    "|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi|omega"
)
_REGIONS = (
    "[a-z]|adjunct|anomaly|band|boundary|cloud|cluster|collapse|conflux|expanse|field|fringe|instability|manifold|mass|nebula|point"
    "|quadrant|reach|ring|sector|shift|tensor|terminus|vector|void|warp"
)
_STAR = re.compile(rf"(?:{_GREEK})(?:\d+-[a-z]+(?:-[a-z]+){{0,2}}|-[a-z]+(?:-[a-z]+)?-(?:{_REGIONS}))")


def run_name() -> str:
    """The name of the flow run that begins: the one that it has, where that was typed; else what is run, on what."""
    context = FlowRunContext.get()
    assert context is not None and context.flow is not None, "asked for outside a flow run"
    assert context.flow_run is not None, "asked for before the run is known"
    given = context.flow_run.name
    if not is_generated(given):
        return given
    return f"{context.flow.name}-{title_of((context.parameters or {})['params'])}"


def is_generated(name: str) -> bool:
    """True of a name that Prefect makes up: two words of its generator, or a star of its UI."""
    first, _, second = name.partition("-")
    if (first in _words() and second in _words()) or _STAR.fullmatch(name):
        return True
    return bool(re.fullmatch(_GREEK, first)) and second in _stars()


def in_subflow(name: str, subject: str, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """A part of a flow as a flow run of its own in Prefect's UI; what it takes are artifacts, and no parameters."""
    made: list[R] = []

    def body() -> None:
        with paused_with_caller():
            made.append(step(*args, **kwargs))  # not its result: Prefect would walk through every artifact

    flow(name=name, flow_run_name=f"{name}-{subject}")(body)()
    return made[0]


def begun(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Record that a run is at work, and open its structured log."""
    if not is_told(flow_run):
        return
    home, subject = artifact_home(), subject_of(flow.name, flow_run.parameters, flow)
    with _logged(flow_run), outcome_of(home, subject.flow, subject.name) as held:
        before = held[0]
        killed = before if before.is_dead and before.run_id != str(flow_run.id) else None
        held[0] = held[0].begun(flow_run.name, str(flow_run.id))
    atexit.register(note_suspended, home, subject, flow_run.id)
    _open_log(home, flow_run, subject)
    event_log.tell("run", flow_run.name, state="running")
    with _logged(flow_run):
        mark_registry(home)
    if killed is not None:
        with _logged(flow_run):
            stage = last_stage(killed.run_id)
            record_end(home, subject, Ended(killed.run, killed.run_id, "failed", "its process was killed", stage))


def ended(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Record the end of a run, and tell of it."""
    if not is_told(flow_run):
        return
    home, subject = artifact_home(), subject_of(flow.name, flow_run.parameters, flow)
    with _logged(flow_run):
        tell_registry(home, subject.notify, {"flow": flow.name, "run": flow_run.name, "run_id": str(flow_run.id)})
    with _logged(flow_run):
        found = Ended.of(flow_run, state)
        record_end(home, subject, found)
        event_log.tell("run", found.reason, state=found.state)


FLOW_OPTIONS: dict[str, Any] = {
    "flow_run_name": run_name,
    "on_running": [begun],
    "on_completion": [ended],
    "on_failure": [ended],
    "on_crashed": [ended],
    "on_cancellation": [ended],
}


@dataclass(frozen=True)
class Ended:
    """The end of a flow run."""

    run: str
    run_id: str
    state: str
    reason: str = ""
    stage: str = ""
    event: Event = "failure"

    @classmethod
    def of(cls, flow_run: FlowRun, state: State, client: SyncPrefectClient | None = None) -> Ended:
        """The end of a run that is in this state.

        Args:
            client: of its server; None: of the one that this process's settings name.
        """
        name = STATES.get(state.type, "failed")
        own = (flow_run.name, str(flow_run.id), name)
        if name == "completed":
            return cls(*own)
        if was_interrupted():
            return cls(flow_run.name, str(flow_run.id), "interrupted", "interrupted at the terminal")
        data = getattr(state.data, "result", state.data)  # Prefect wraps it, and elsewhere than in its process it is gone
        error = data if isinstance(data, BaseException) else None
        reason = f"{type(error).__name__}: {error}" if error is not None else state.message or state.name or name
        stage = stage_of(error) if error is not None else ""
        event: Event = "cancellation" if name == "cancelled" else "failure"
        if isinstance(error, RowsRejected):
            event = "quarantine"
        return cls(*own, without_secrets(reason.removeprefix(PREFIX)), stage or last_stage(flow_run.id, client), event)


def note_suspended(home: Path, subject: Subject, run_id: UUID) -> None:
    """Record that a run is suspended whose process goes though the run has not ended: nobody is missing there."""
    with contextlib.suppress(*TROUBLE), outcome_of(home, subject.flow, subject.name) as held:
        if held[0].run_id == str(run_id) and held[0].state == "running":
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run_id).state
            if state is not None and state.is_paused():
                held[0] = held[0].suspended()


def is_told(flow_run: FlowRun) -> bool:
    """True if no other flow called it, which tells of it; and if it is more than a look at what it would do."""
    params = flow_run.parameters.get("params")
    given = params.get("dry_run") if isinstance(params, dict) else None
    is_dry = bool(given) and str(given).lower() not in NO  # a program may have sent text
    return (flow_run.parent_task_run_id is None or flow_run.deployment_id is not None) and not is_dry


def was_interrupted() -> bool:
    """True if a signal came to the command that this process answers: whoever sent it knows."""
    try:
        interruption.check()
    except KeyboardInterrupt:
        return True
    return False


def record_end(home: Path, subject: Subject, end: Ended) -> Message | None:
    """Record the end of a run once, whoever finds it first, and tell of what is told; the message, if one was due."""
    message = _message(subject, Outcome(subject.flow, subject.name), end)
    try:
        with outcome_of(home, subject.flow, subject.name) as held:
            before: Outcome = held[0]
            if before.has_ended(end.run_id):
                return None
            if before.run_id == end.run_id and before.run:  # a worker knows the name that it had before it began
                end = replace(end, run=before.run)
            message = _message(subject, before, end)
            told = {"run": end.run, "run_id": end.run_id, "at": message.at, "stage": end.stage} if message else {}
            failure = {**told, "reason": message.reason, "next": message.next} if message and end.state == "failed" else None
            held[0] = before.ended(end.run, end.run_id, end.state, failure)
    except OSError as error:  # of a full disk, which somebody has to be told of all the more
        logging.getLogger(__name__).warning("the run's outcome was not recorded: %s", error)
    if message is not None:
        notify(home, subject.notify, message)
    return message


def last_stage(run_id: Any, client: SyncPrefectClient | None = None) -> str:
    """The stage that a run was last at, by the tasks of it and of the flows that it called; empty where none is known."""
    try:
        if client is None:
            with get_client(sync_client=True) as own:
                return last_stage(run_id, own)
        ids, found = [run_id], list[Any]()
        while ids:
            called = client.read_flow_runs(
                flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=ids))
            )
            tasks = filters.TaskRunFilter(flow_run_id=filters.TaskRunFilterFlowRunId(any_=ids))
            found += client.read_task_runs(task_run_filter=tasks, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=50)
            ids = [run.id for run in called]
    except TROUBLE:  # the server may be what failed, and a message without a stage is better than none
        return ""
    return next((name for name in _unfinished(found)), "")


def _unfinished(tasks: list[Any]) -> list[str]:
    """Names of the stages that did not complete, the one that began last first; calls of flows are none."""
    own = [task for task in tasks if task.state_type != StateType.COMPLETED and task.start_time]
    stages = [task for task in own if not task.dynamic_key.isdigit()]
    return [task.name.rsplit("-", 1)[0] for task in sorted(stages, key=lambda task: task.start_time, reverse=True)]


def _message(subject: Subject, before: Outcome, end: Ended) -> Message | None:
    """What is told of an end: of a failure and a cancellation, and of the first success after a failure."""
    own = {"name": subject.name, "flow": subject.flow, "run": end.run, "run_id": end.run_id}
    if end.state == "completed":
        if not before.failing:
            return None
        last = before.failure.get("reason", "")
        reason = f"completed, after it had failed at {before.failure.get('at', 'an earlier time')}: {last}"
        return Message(event="recovery", reason=reason, next=UNKNOWN, **own)
    if end.state == "interrupted":
        return None
    return Message(event=end.event, reason=end.reason, stage=end.stage, next=subject.command, **own)


def _open_log(home: Path, flow_run: FlowRun, subject: Subject) -> None:
    with contextlib.suppress(Exception):  # see record_end: a log that cannot be opened is no failure of the run
        handler = event_log.open_log(
            home, str(flow_run.id), {"run_name": flow_run.name, "flow": subject.flow, "name": subject.name}
        )
        for name in HOOKED_LOGGERS:
            logger = logging.getLogger(name)
            for other in [one for one in logger.handlers if isinstance(one.formatter, event_log.JsonLines)]:
                logger.removeHandler(other)  # of an earlier run of this process
            if handler is not None:
                logger.addHandler(handler)
        event_log.EVENTS.setLevel(logging.INFO)
        event_log.EVENTS.propagate = False


@contextlib.contextmanager
def _logged(flow_run: FlowRun) -> Iterator[None]:
    """Write into the run's log what goes wrong in the block, and let nothing out of it."""
    try:
        yield
    except TROUBLE as error:  # the run itself is not to fail of it
        flow_run_logger(flow_run).warning("the run's outcome was not recorded or told: %s", without_secrets(repr(error)))


@cache
def _words() -> frozenset[str]:
    """The words that Prefect's names are made of."""
    from coolname import data

    lists: Any = data.config  # a literal that its package gives no type

    def of(name: str) -> set[str]:
        entry = lists[name]
        if entry["type"] == "words":
            return set(entry["words"])
        return set().union(*(of(below) for below in entry.get("lists", ())))

    return frozenset(of("an"))


@cache
def _stars() -> frozenset[str]:
    """The stars, people and places that Prefect's UI names runs after; none where its pages do not hold the list."""
    import prefect

    for page in (prefect.__ui_static_path__ / "assets").glob("index-*.js"):
        if found := re.search(r"`andromedae\.[a-z.-]+`", page.read_text(errors="replace")):
            return frozenset(found[0].strip("`").split(".")) - {""}
    return frozenset()
