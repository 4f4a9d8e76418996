"""Hooks of the flows: the record of what became of a run, its structured log, and who is told of it.

Prefect calls them in the process of the run; those of a crash or a cancellation also in one that its worker starts. What none
of them could tell of, `cpt up` finds (flows/cli/watch.py). A notification that fails fails nothing: the log has it.
"""

from __future__ import annotations

import contextlib
import logging
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from prefect import Flow
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.logging.loggers import flow_run_logger

from data_contracts.verdicts import RowsRejected
from flows.options import Params, command_words, join_words
from flows.params import (
    AblateParams,
    DatasetParams,
    EvaluateParams,
    FinetuneParams,
    PretrainParams,
    PublishParams,
    RunParams,
    SourceParams,
    TrainParams,
)
from flows.settings import name_of as source_name
from pipeline_lib.config.notify import Event, NotifyConfig, NotifySettings
from pipeline_lib.config.overrides import apply, read_config
from pipeline_lib.config.presets import preset
from pipeline_lib.errors import UserError
from pipeline_lib.runtime import event_log, interruption
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.runtime.messages import Message, NotSentError, send, without_secrets
from pipeline_lib.runtime.outcomes import Outcome, outcome_of
from tasks.ui import say, stage_of

SETTINGS = "notify.yaml"  # below the artifact root: its `notify` section holds for runs that have none of their own
STATES = {StateType.COMPLETED: "completed", StateType.CANCELLED: "cancelled", StateType.CANCELLING: "cancelled"}
HOOKED_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "pipeline_lib", event_log.EVENTS.name)
PREFIX = "Flow run encountered an exception: "  # of Prefect's
MODELS: dict[str, type[Params]] = {
    "retrain": RunParams,
    **{
        model.COMMAND: model
        for model in (AblateParams, DatasetParams, EvaluateParams, FinetuneParams, PretrainParams, PublishParams, TrainParams)
    },
}  # of flows by their names
UNKNOWN = "cpt status"  # the next command where none is known


@dataclass(frozen=True)
class Subject:
    """What a flow run was asked to do.

    Attributes:
        name: of the run, as its report is called; of a checkpoint, what names it.
        command: what starts it again.
        notify: who is told.
    """

    flow: str
    name: str
    command: str
    notify: NotifyConfig


def begun(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Record that a run is at work, and open its structured log."""
    if not is_outermost(flow_run):
        return
    home, subject = artifact_home(), subject_of(flow.name, flow_run.parameters, flow)
    with _logged(flow_run), outcome_of(home, subject.flow, subject.name) as held:
        before = held[0]
        killed = before if before.is_dead and before.run_id != str(flow_run.id) else None
        held[0] = held[0].begun(flow_run.name, str(flow_run.id))
    _open_log(home, flow_run, subject)
    event_log.tell("run", flow_run.name, state="running")
    if killed is not None:
        with _logged(flow_run):
            record_end(home, subject, Ended(killed.run, killed.run_id, "failed", reason="its process was killed"))


def ended(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Record the end of a run, and tell of it."""
    if not is_outermost(flow_run):
        return
    with _logged(flow_run):
        home, subject = artifact_home(), subject_of(flow.name, flow_run.parameters, flow)
        found = Ended.of(flow_run, state)
        record_end(home, subject, found)
        event_log.tell("run", found.reason, state=found.state)


HOOKS: dict[str, Any] = {
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
    def of(cls, flow_run: FlowRun, state: State) -> Ended:
        """The end of a run that is in this state."""
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
        return cls(*own, without_secrets(reason.removeprefix(PREFIX)), stage or last_stage(flow_run.id), event)


def is_outermost(flow_run: FlowRun) -> bool:
    """True if no other flow called it: what a flow calls, its caller tells of."""
    return flow_run.parent_task_run_id is None or flow_run.deployment_id is not None


def was_interrupted() -> bool:
    """True if a signal came to the command that this process answers: whoever sent it knows."""
    try:
        interruption.check()
    except KeyboardInterrupt:
        return True
    return False


def record_end(home: Path, subject: Subject, end: Ended) -> Message | None:
    """Record the end of a run once, whoever finds it first, and tell of what is told; the message, if one was due."""
    with outcome_of(home, subject.flow, subject.name) as held:
        before: Outcome = held[0]
        if before.has_ended(end.run_id):
            return None
        message = _message(subject, before, end)
        told = {"run": end.run, "run_id": end.run_id, "at": message.at, "stage": end.stage} if message else {}
        failure = {**told, "reason": message.reason, "next": message.next} if message and end.state == "failed" else None
        held[0] = before.ended(end.run, end.run_id, end.state, failure)
    if message is not None:
        notify(home, subject.notify, message)
    return message


def notify(home: Path, config: NotifyConfig, message: Message) -> list[str]:
    """Send a message as the run's configuration says, else as the artifact root's; why each way failed that did."""
    try:
        config = config if config.reaches_somebody else settings_of(home)
        if not config.reaches_somebody or not _is_wanted(message.event, config):
            return []
        failed = send(config, message, send_by_block)
    except UserError as error:
        failed = [str(error)]
    state = "failed" if failed else "sent"
    event_log.tell("notification", "; ".join(failed), about=message.event, state=state, subject=message.subject)
    if failed:
        logging.getLogger("prefect.flow_runs").warning("notification was not sent: %s", "; ".join(failed))
        say(f"  warning: nobody was told that {message.subject}: {'; '.join(failed)}")
    return failed


def settings_of(home: Path) -> NotifyConfig:
    """The artifact root's own section.

    Raises:
        UserError: the file cannot be read, or has other options.
    """
    path = home / SETTINGS
    return apply(NotifySettings(), read_config(path, NotifySettings)).notify if path.is_file() else NotifyConfig()


def send_by_block(name: str, message: Message) -> None:
    """Send a message through a Prefect notification block, as TYPE/NAME or by its name alone.

    Raises:
        NotSentError: there is no such block, or it notifies nobody.
    """
    block = Block.load(name if "/" in name else f"{_type_of(name)}/{name}")
    if not isinstance(block, NotificationBlock):
        raise NotSentError("it is no notification block")
    with block.raise_on_failure():
        block.notify(message.body, message.subject)


def _type_of(name: str) -> str:
    with get_client(sync_client=True) as client:
        body = {"block_documents": {"name": {"any_": [name]}}, "block_schemas": {"block_capabilities": {"all_": ["notify"]}}}
        found = client.request("POST", "/block_documents/filter", json=body).json()
    if len(found) != 1:
        raise NotSentError(f"{len(found)} notification blocks have that name; give TYPE/NAME, as slack-webhook/{name}")
    return str(found[0]["block_type"]["slug"])


def subject_of(flow: str, parameters: Mapping[str, Any], of: Flow[..., Any] | None = None) -> Subject:
    """What a run with these parameters was asked to do, as far as they can be understood.

    Args:
        of: the flow, where it is at hand.
    """
    given = parameters.get("params", {})
    fields = given.model_dump(exclude_none=True) if isinstance(given, Params) else dict(given)
    params = given if isinstance(given, Params) else None
    with contextlib.suppress(Exception):  # parameters that the flow refuses are why it failed
        model = MODELS[flow] if of is None else typing.get_type_hints(of.fn)["params"]
        params = params or model.model_validate(fields)
    name, notified = str(fields.get("name") or fields.get("preset") or flow), NotifyConfig()
    command = UNKNOWN
    if params is not None:
        with contextlib.suppress(UserError, OSError):
            name, notified = name_of(params), notify_of(params)
        with contextlib.suppress(UserError, OSError):
            command = command_of(params)
    return Subject(flow, name, command, notified)


def name_of(params: Params) -> str:
    """The name that a run with these parameters has, or else what it is about."""
    asked = params.settings() if isinstance(params, SourceParams) else {}
    source = str(asked.get("source.folder") or PurePath(str(asked.get("source.dump") or "")).stem)
    if name := asked.get("name") or source_name(source):
        return str(name)
    named = getattr(params, "preset", None)
    return str(getattr(params, "checkpoint", None) or (preset(named).name if named else getattr(params, "subject", "")))


def notify_of(params: Params) -> NotifyConfig:
    """The section of a run's own configuration: of its preset, its file and its settings."""
    if not isinstance(params, SourceParams):
        return NotifyConfig()
    own = {name: value for name, value in params.settings().items() if name.startswith("notify.")}
    base = preset(params.preset).notify if params.preset else NotifyConfig()
    return apply(NotifySettings(notify=base), own).notify


def command_of(params: Params) -> str:
    """What starts the run again at a terminal of this machine."""
    words = command_words(params)
    words += ["--config", params.config] if params.config and "--config" not in words else []
    words += ["--artifacts", params.machine.artifacts] if params.machine.artifacts and "--artifacts" not in words else []
    return without_secrets(join_words("cpt", params.COMMAND, *words))


def last_stage(run_id: Any) -> str:
    """The stage that a run was last at, by the tasks of it and of the flows that it called; empty where none is known."""
    try:
        with get_client(sync_client=True) as client:
            ids, found = [run_id], []
            while ids:
                called = client.read_flow_runs(
                    flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=ids))
                )
                tasks = filters.TaskRunFilter(flow_run_id=filters.TaskRunFilterFlowRunId(any_=ids))
                found += client.read_task_runs(task_run_filter=tasks, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=50)
                ids = [run.id for run in called]
    except Exception:  # noqa: BLE001 - the server may be what failed, and a message without a stage is better than none
        return ""
    return next((name for name in _unfinished(found)), "")


def _unfinished(tasks: list[Any]) -> list[str]:
    """Names of the stages that did not complete, the one that began last first; calls of flows are none."""
    own = [task for task in tasks if task.state_type != StateType.COMPLETED and task.start_time and task.task_key]
    stages = [task for task in own if not task.task_key.startswith("prefect.") and not task.dynamic_key.startswith("flow")]
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


def _is_wanted(event: Event, config: NotifyConfig) -> bool:
    return event in config.on or (event == "quarantine" and "failure" in config.on)


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
def _logged(flow_run: FlowRun) -> typing.Iterator[None]:
    """Write into the run's log what goes wrong in the block, and let nothing out of it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the run itself is not to fail of it
        flow_run_logger(flow_run).warning("the run's outcome was not recorded or told: %s", without_secrets(repr(error)))
