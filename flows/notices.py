"""Notices: what a run was asked to do, whom its configuration or that of the artifact root tells, and by which way."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from prefect import Flow
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client

from flows.options import Group, Params, command_words, join_words
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
from flows.runs import PUBLISHED, is_checkpoint
from flows.settings import name_of as source_name
from pipeline_lib.config.notify import Event, NotifyConfig, NotifySettings
from pipeline_lib.config.overrides import apply, parse_set, read_config, read_yaml
from pipeline_lib.config.presets import preset
from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.runtime import event_log
from pipeline_lib.runtime.messages import Message, NotSentError, send, without_secrets
from pipeline_lib.runtime.outcomes import FOLDER
from pipeline_lib.search import registry
from pipeline_lib.store.files import exclusive, replace_file
from tasks.ui import say

SETTINGS = "notify.yaml"  # below the artifact root: its `notify` section holds for runs that have none of their own
TOLD_TO = "registry.told"  # below the outcomes: name to the number of the last event that was told
OF_REGISTRY: dict[str, Event] = {"promoted": "promotion", "rejected": "held_back", "rolled back": "rollback"}
UNKNOWN = "cpt status"  # the next command where none is known
MODELS: dict[str, type[Params]] = {
    "retrain": RunParams,
    **{
        model.COMMAND: model
        for model in (AblateParams, DatasetParams, EvaluateParams, FinetuneParams, PretrainParams, PublishParams, TrainParams)
    },
}  # of flows by their names


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
        of_run = {"flow_run_id": message.run_id, "flow_run_name": message.run, "flow_name": message.flow}
        logger = logging.getLogger("prefect.flow_runs" if message.run_id else __name__)
        logger.warning("notification was not sent: %s", "; ".join(failed), extra=of_run)
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
        sending: Any = block.notify(message.body, message.subject)
        if inspect.iscoroutine(sending):  # of a block of others
            asyncio.run(sending)


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
    fields = dict(given) if isinstance(given, Mapping) else {}
    fields = given.model_dump(exclude_none=True) if isinstance(given, Params) else fields
    params = given if isinstance(given, Params) else None
    with contextlib.suppress(Exception):  # parameters that the flow refuses are why it failed
        model = MODELS[flow] if of is None else typing.get_type_hints(of.fn)["params"]
        params = params or (model.model_validate(fields) if issubclass(model, Params) else None)
    name, command = str(fields.get("name") or fields.get("preset") or flow), UNKNOWN
    if params is not None:
        with contextlib.suppress(UserError, OSError):
            name = name_of(params)
        with contextlib.suppress(UserError, OSError):
            command = command_of(params)
    return Subject(flow, name, command, notify_of(fields))


def name_of(params: Params) -> str:
    """The name that a run with these parameters has, or else what it is about."""
    asked = params.settings() if isinstance(params, SourceParams) else {}
    source = str(asked.get("source.folder") or PurePath(str(asked.get("source.dump") or "")).stem)
    if name := asked.get("name") or source_name(source):
        return str(name)
    named = getattr(params, "preset", None)
    return str(getattr(params, "checkpoint", None) or (preset(named).name if named else title_of(params)))


def title_of(params: Group) -> str:
    """What a run is called after: its models or checkpoint, else the preset with the run's name or that of its source.

    Of a flow that trains and measures nothing: the name in the registry that it is about.
    """
    if not isinstance(params, Params):
        return str(getattr(params, "name", None) or "default")
    if isinstance(params, EvaluateParams):
        models = [model if is_checkpoint(model) else PurePath(model.partition("=")[0]).name for model in params.models]
        return "-".join([", ".join(models) or _preset_and_source(params) or PUBLISHED, *params.suites, params.split])
    return str(getattr(params, "checkpoint", None) or _preset_and_source(params))


def _preset_and_source(params: Params) -> str:
    preset = getattr(params, "preset", None)
    try:
        values = params.settings()
    except UserError:  # a file of settings is not there: the flow itself says so
        return str(preset or "")
    place = str(values.get("source.dump") or values.get("source.folder") or "")
    name = values.get("name") or source_name(PurePath(place).stem if values.get("source.dump") else place)
    return "-".join(dict.fromkeys(str(word) for word in (preset, name) if word))


def notify_of(fields: Mapping[str, Any]) -> NotifyConfig:
    """The section of a run's own configuration: of its preset, its file and its settings, as far as they can be read.

    Whatever else is wrong with them, and is why the run failed, must not keep that from being told.
    """
    words = fields.get("set")
    own = [word for word in words if isinstance(word, str) and _is_of_section(word)] if isinstance(words, list | tuple) else []
    found = NotifyConfig()
    with contextlib.suppress(UserError, OSError):
        found = preset(str(fields["preset"])).notify if fields.get("preset") else found
    for read in (lambda: _section_of(fields.get("config")), lambda: parse_set(own, NotifySettings)):
        with contextlib.suppress(UserError, OSError):
            found = apply(NotifySettings(notify=found), read()).notify
    return found


def _section_of(file: Any) -> dict[str, Any]:
    content = read_yaml(file) if isinstance(file, str) else None
    return {name: value for name, value in content.items() if _is_of_section(str(name))} if isinstance(content, dict) else {}


def _is_of_section(word: str) -> bool:
    return word.partition("=")[0].strip().partition(".")[0] == "notify"


def command_of(params: Params) -> str:
    """What starts the run again at a terminal of this machine."""
    words = command_words(params)
    words += ["--config", params.config] if params.config and "--config" not in words else []
    words += ["--artifacts", params.machine.artifacts] if params.machine.artifacts and "--artifacts" not in words else []
    return without_secrets(join_words("cpt", params.COMMAND, *words))


def _is_wanted(event: Event, config: NotifyConfig) -> bool:
    return event in config.on or (event == "quarantine" and "failure" in config.on)


def tell_registry(
    home: Path, config: NotifyConfig | None = None, run: Mapping[str, str] | None = None, besides: Collection[str] = ()
) -> list[str]:
    """Tell what became of the registry's models since the last time; the messages' subjects.

    Args:
        config: who is told; None: as the artifact root says.
        run: "flow", "run" and "run_id" of the flow run that is at its end.
        besides: names whose own run is at work: it tells when it is done.
    """
    subjects = []
    for name, events in _news(home, besides).items():
        for event in events:
            kind = OF_REGISTRY.get(str(event.get("event")))
            if kind is None:
                continue
            reason = without_secrets(str(event.get("why") or f"event {event.get('number', '')} of its history"))
            message = Message(kind, name, reason, _next(kind, name), stage="promote", **(run or {}))
            notify(home, config or NotifyConfig(), message)
            subjects.append(message.subject)
    return subjects


def tell_waiting(home: Path, config: NotifyConfig, name: str, reason: str) -> None:
    """Tell that the run that is at work here waits for an answer in Prefect's UI."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    found = context.flow_run if context else None
    run = {"run": found.name, "run_id": str(found.id)} if found else {}
    run |= {"flow": context.flow.name} if context and context.flow else {}
    ui = os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    page = f"open {ui}/runs/flow-run/{run['run_id']} and press Resume" if ui and "run_id" in run else UNKNOWN
    notify(home, config, Message("approval", name, reason, page, stage="promote", **run))


def mark_registry(home: Path) -> None:
    """Take what the registry holds of names that nobody has looked at for told."""
    _news(home, only_mark=True)


def _news(home: Path, besides: Collection[str] = (), only_mark: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Events of each name that were not told, which then count as told."""
    path = home / FOLDER / TOLD_TO
    with exclusive(path.with_suffix(".lock")):
        told: dict[str, int] = json.loads(path.read_bytes()) if path.is_file() else {}
        found: dict[str, list[dict[str, Any]]] = {}
        now = dict(told)
        for name in registry.names(home):
            try:
                pair = registry.pair_of(home, name)
                last = pair.read_to if pair else len(registry.history(home, name))
                if only_mark:
                    now.setdefault(name, last)
                elif name not in besides and last > told.get(name, 0):
                    found[name] = registry.history(home, name, told.get(name, 0))
                    now[name] = last
            except (UserError, CorruptArtifact, TransientError, OSError):  # whoever searches for the name is told why
                continue
        if now != told:
            replace_file(path, json.dumps(now, sort_keys=True).encode())
    return found


def _next(event: Event, name: str) -> str:
    return (
        f"cpt rollback --name {name} --list" if event == "held_back" else f'cpt search --name {name} "parse an ISO 8601 date"'
    )
