"""Automations of the deployments, as `triggers` of prefect.yaml say: created where missing, else as a person left them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger

Fields = dict[str, Any]
ABSENT: Any = object()


def deploy_automations(
    client: SyncPrefectClient, triggers: list[Fields], deployment_id: UUID, last: dict[str, Fields]
) -> dict[str, Fields]:
    """Bring a deployment's automations to the server, and keep what a person set there; what the next start compares with.

    Args:
        triggers: as prefect.yaml declares them, each with a name of its own.
        last: what the last start returned.
    """
    record = {}
    for entry in triggers:
        trigger = DeploymentEventTrigger(**entry)
        trigger.set_deployment_id(deployment_id)
        code = trigger.as_automation()
        record[code.name] = _fields(code)
        there = client.read_automations_by_name(code.name)
        if not there:
            client.create_automation(code)
            continue
        now = _fields(there[0])
        wanted = keep_changes(record[code.name], last.get(code.name, now), now)
        if wanted != now:
            update_automation(client, there[0].id, AutomationCore.model_validate({**wanted, "name": code.name}))
    return record


def update_automation(client: SyncPrefectClient, automation_id: UUID, to: AutomationCore) -> None:
    """Replace an automation; the client's own method sends a field that the server refuses (`owner_resource`)."""
    wanted = to.model_dump(mode="json", exclude={"owner_resource"})
    client.request("PUT", "/automations/{id}", path_params={"id": automation_id}, json=wanted)


def move_automations(client: SyncPrefectClient, old: DeploymentResponse, new: DeploymentResponse) -> None:
    """Let automations that start the old deployment start the new one."""
    for automation in client.read_automations():
        actions = [
            action.model_copy(update={"deployment_id": new.id}) if getattr(action, "deployment_id", None) == old.id else action
            for action in automation.actions
        ]
        if actions != automation.actions:
            words = {name: getattr(automation, name) for name in AutomationCore.model_fields}
            update_automation(client, automation.id, AutomationCore(**words | {"actions": actions}))


def keep_changes(code: Any, last: Any, now: Any) -> Any:
    """A field's value: the server's where a person changed it since the last start, else the code's; of a dict, key by key."""
    if isinstance(code, dict) and isinstance(last, dict) and isinstance(now, dict):
        kept = {key: keep_changes(*(side.get(key, ABSENT) for side in (code, last, now))) for key in {**code, **now}}
        return {key: value for key, value in kept.items() if value is not ABSENT}
    return code if now == last else now


def _fields(automation: AutomationCore) -> Fields:
    kept = {"description", "enabled", "tags", "trigger", "actions"}
    return automation.model_dump(mode="json", include=kept)
