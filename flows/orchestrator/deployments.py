"""prefect.yaml on the server: what it lacks is created, what it has follows the code in all that no person has changed.

A three-way comparison, field by field: what the code says now, what it said at the last start (deployed.json beside the
database), and what the server holds. A deployment that was deleted is created anew, as prefect.yaml says.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Scheduled
from prefect.utilities.callables import parameter_schema
from prefect.utilities.templating import apply_values

from flows.orchestrator.automations import ABSENT, deploy_automations, keep_changes, move_automations
from flows.orchestrator.declared import PROJECT, Declared, declaration, save_nights, saved_nights
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.store.files import exclusive, replace_file

WORK_POOL = "local-process"
EARLIER_NAME = "manual"  # of each deployment that is called after its flow now
CONFLICT, UNPROCESSABLE = 409, 422
TEMPLATE = "nightly"  # entry of prefect.yaml whose pool, limits and entrypoint the nights of users' files have
OWN_KEYS = ("name", "description", "parameters", "schedules")  # which such a night has of its own


def deploy_all(client: SyncPrefectClient, home: Path) -> None:
    """Bring prefect.yaml to the server, and keep what a person set there.

    A night of a user's file that is refused, such as one whose preset is gone, is said and passed over: the others go on.

    Raises:
        UserError: a deployment of prefect.yaml is refused.
    """
    with _alone(home):
        whole, nights = declaration(), saved_nights(home)
        template: dict[str, Any] = next((entry for entry in whole["deployments"] if entry["name"] == TEMPLATE), {})
        of_users = [Declared({**entry, **template, **{key: entry[key] for key in OWN_KEYS}}) for entry in nights]
        own = {one.name for one in of_users}  # a user's file says what these are
        declared = [one for entry in whole["deployments"] if (one := Declared(entry)).name not in own]
        record_file = home / "prefect" / "deployed.json"
        last = json.loads(record_file.read_text()) if record_file.exists() else {}
        _bring(client, whole, declared, last)
        record = {one.name: one.record() for one in declared}
        for one in of_users:
            try:
                _bring(client, whole, [one], last)
                record[one.name] = one.record()
            except (UserError, PrefectHTTPStatusError) as error:
                typer.echo(f"warning: {one.name} is not deployed: {error}; mend its file and deploy it again, or remove it")
                record |= {one.name: last[one.name]} if one.name in last else {}
        for one in declared:
            if earlier := _rename(client, one, last):
                record[earlier] = last[earlier]
        for one in declared:
            if triggers := one.entry.get("triggers"):
                found, before = client.read_deployment_by_name(one.name), last.get(one.name, {}).get("automations", {})
                record[one.name]["automations"] = deploy_automations(client, triggers, found.id, before)
        replace_file(record_file, json.dumps(record, indent=1).encode())


def deploy_nights(client: SyncPrefectClient, home: Path, entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Bring nights of a user's file to the server, and keep them for its next start.

    Returns:
        By name, what stays as a person set it there although the file says otherwise.

    Raises:
        UserError: a deployment is refused, and is as it was before.
    """
    kept: dict[str, list[str]] = {}
    with _alone(home):
        whole, record_file = declaration(), home / "prefect" / "deployed.json"
        record = json.loads(record_file.read_text()) if record_file.exists() else {}
        for entry in entries:
            one, before = Declared(entry), saved_nights(home)
            save_nights(home, [*(saved for saved in before if saved["name"] != entry["name"]), entry])  # the next start does
            try:  # what a kill keeps from being done here
                _bring(client, whole, [one], record)
            except BaseException:
                save_nights(home, before)
                raise
            kept[entry["name"]] = _kept(one, client.read_deployment_by_name(one.name))
            record[one.name] = one.record()
            replace_file(record_file, json.dumps(record, indent=1).encode())
    return kept


def remove_nights(client: SyncPrefectClient, home: Path, names: list[str]) -> None:
    """Remove deployments of a user's file; one that prefect.yaml has too is as it says at the next start.

    Raises:
        UserError: there is none of that name; nothing is removed then.
    """
    with _alone(home):
        known = [entry["name"] for entry in saved_nights(home)]
        for name in names:
            if name not in known:
                raise UserError(f"{name}: no night that `cpt deploy` deployed; there are: {', '.join(known) or 'none'}")
        for name in names:
            with contextlib.suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(f"retrain/{name}").id)
            save_nights(home, [entry for entry in saved_nights(home) if entry["name"] != name])


def _alone(home: Path) -> contextlib.AbstractContextManager[None]:
    """The records of what is deployed, which a start of the platform and `cpt deploy` both write."""
    return exclusive(home / "prefect" / "deployed.lock")


def _bring(client: SyncPrefectClient, whole: dict[str, Any], declared: list[Declared], last: dict[str, Any]) -> None:
    """Update what the server has of these, and create the others."""
    missing: list[dict[str, Any]] = []
    for one in declared:
        try:
            found = client.read_deployment_by_name(one.name)
        except ObjectNotFound:
            missing.append({key: value for key, value in one.entry.items() if key != "triggers"})
            continue
        _update(client, one, found, apply_values(whole["pull"], {}), last.get(one.name))
    if missing:
        _create({**whole, "deployments": missing})


def _kept(code: Declared, now: DeploymentResponse) -> list[str]:
    """The fields and schedules of a deployment that are not as declared."""
    fields, there = _fields_now(now), {schedule.slug: schedule for schedule in now.schedules if schedule.slug}
    kept = [key for key, value in code.shared_fields().items() if key != "job_variables" and fields[key] != value]
    for slug, wanted in code.schedules().items():
        schedule = there.get(slug)
        if schedule is None or schedule.model_dump(mode="json", include=set(wanted)) != wanted:
            kept.append("schedule")
    return kept


def _update(
    client: SyncPrefectClient, code: Declared, found: DeploymentResponse, pull: list[Any], record: dict[str, Any] | None
) -> None:
    now, fields = _fields_now(found), code.shared_fields()
    # with no record of an earlier start, what differs is a person's; job variables name folders, and follow the code
    last = record["fields"] if record else {**fields, "job_variables": now["job_variables"]}
    own = {
        "entrypoint": code.entrypoint,
        "pull_steps": pull,
        "parameter_openapi_schema": parameter_schema(load_flow_from_entrypoint(code.entrypoint)).model_dump(exclude_unset=True),
    }
    wanted = own | {key: keep_changes(fields[key], last.get(key, now[key]), now[key]) for key in fields}
    changed = {key: value for key, value in wanted.items() if value != (now | _own_now(found))[key]}
    if changed:
        try:
            client.update_deployment(found.id, DeploymentUpdate(**changed))
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in (CONFLICT, UNPROCESSABLE):
                raise
            typer.echo(f"{code.name}: what was set in the UI does not fit the code any more, and is as in prefect.yaml again")
            _put(client, code, found, own | fields)
    _update_schedules(client, code.schedules(), found, record["schedules"] if record else code.schedules())


def _rename(client: SyncPrefectClient, code: Declared, last: dict[str, Any]) -> str:
    """Give a deployment what a person set on the one that an earlier start made of it under another name, and remove that one.

    Returns:
        its name, where it stays: a run of it is suspended, which could not be resumed without it.
    """
    flow, _, name = code.name.partition("/")
    earlier = f"{flow}/{EARLIER_NAME}"
    if name != flow or earlier not in last:
        return ""
    try:
        old = client.read_deployment_by_name(earlier)
    except ObjectNotFound:
        return ""
    new = client.read_deployment_by_name(code.name)
    of_old = filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[old.id]))
    if code.name not in last:
        _move_settings(client, code, old, new, last[earlier])
    _move_planned_runs(client, of_old, new)
    move_automations(client, old, new)
    paused = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.PAUSED]))
    if client.read_flow_runs(deployment_filter=of_old, flow_run_filter=filters.FlowRunFilter(state=paused), limit=1):
        typer.echo(f"{earlier} is {code.name} now, and goes once its suspended run has ended")
        return earlier
    client.delete_deployment(old.id)
    return ""


def _move_settings(
    client: SyncPrefectClient, code: Declared, old: DeploymentResponse, new: DeploymentResponse, record: dict[str, Any]
) -> None:
    fields, now, last = code.shared_fields(), _fields_now(old), record["fields"]
    kept = {key: keep_changes(fields[key], last.get(key, now[key]), now[key]) for key in fields}
    changed = {key: value for key, value in kept.items() if value != _fields_now(new)[key]}
    try:
        client.update_deployment(new.id, DeploymentUpdate(**changed, paused=old.paused))
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (CONFLICT, UNPROCESSABLE):
            raise
        typer.echo(f"{code.name}: what was set in the UI does not fit the code any more, and is as in prefect.yaml again")
    for schedule in new.schedules:
        client.delete_deployment_schedule(new.id, schedule.id)
    kept_schedules = _kept_schedules(code.schedules(), record["schedules"], old)
    client.create_deployment_schedules(new.id, [DeploymentScheduleCreate(**words) for words in kept_schedules])


def _kept_schedules(code: dict[str, Any], last: dict[str, Any], old: DeploymentResponse) -> list[dict[str, Any]]:
    """The code's schedules as a person changed them, and those that a person added."""
    now = [schedule.model_dump(mode="json", include={"schedule", "active", "parameters", "slug"}) for schedule in old.schedules]
    ours = {*last, *code}
    added = [words for words in now if words["slug"] not in ours]
    there = {words.pop("slug"): words for words in now if words["slug"] in ours}
    kept = {slug: keep_changes(words, last.get(slug, ABSENT), there.get(slug, ABSENT)) for slug, words in code.items()}
    return [*added, *({**words, "slug": slug} for slug, words in kept.items() if words is not ABSENT)]


def _move_planned_runs(client: SyncPrefectClient, of_old: filters.DeploymentFilter, new: DeploymentResponse) -> None:
    """Plan anew what a person planned: runs that wait for their time are removed with their deployment."""
    scheduled = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    for run in client.read_flow_runs(deployment_filter=of_old, flow_run_filter=filters.FlowRunFilter(state=scheduled)):
        if not run.auto_scheduled:
            words: dict[str, Any] = {"parameters": run.parameters, "name": run.name, "tags": run.tags}
            key = f"renamed-{run.id}"
            planned: State = Scheduled(scheduled_time=run.next_scheduled_start_time)
            client.create_flow_run_from_deployment(new.id, state=planned, idempotency_key=key, **words)


def _put(client: SyncPrefectClient, code: Declared, found: DeploymentResponse, fields: dict[str, Any]) -> None:
    try:
        client.update_deployment(found.id, DeploymentUpdate(**fields))
    except PrefectHTTPStatusError as error:
        raise UserError(f"deployment {code.name} is refused: {error.response.text}") from error


def _own_now(found: DeploymentResponse) -> dict[str, Any]:
    return {key: getattr(found, key) for key in ("entrypoint", "pull_steps", "parameter_openapi_schema")}


def _fields_now(found: DeploymentResponse) -> dict[str, Any]:
    limit, options = found.global_concurrency_limit, found.concurrency_options
    names = ("description", "tags", "parameters", "enforce_parameter_schema", "work_pool_name", "job_variables")
    return {key: getattr(found, key) for key in names} | {
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options else None,
    }


def _update_schedules(client: SyncPrefectClient, code: dict[str, Any], found: DeploymentResponse, last: dict[str, Any]) -> None:
    there = {schedule.slug: schedule for schedule in found.schedules if schedule.slug}
    for slug in {**last, **code}:
        if slug not in there:
            if slug not in last:  # else a person deleted it
                client.create_deployment_schedules(found.id, [DeploymentScheduleCreate(slug=slug, **code[slug])])
            continue
        now = there[slug].model_dump(mode="json", include={"schedule", "active", "parameters"})
        wanted = keep_changes(code.get(slug, ABSENT), last.get(slug, ABSENT), now)
        if wanted is ABSENT:
            client.delete_deployment_schedule(found.id, there[slug].id)
        elif wanted != now:
            update = DeploymentScheduleCreate(**wanted)
            client.update_deployment_schedule(found.id, there[slug].id, update.active, update.schedule, None, update.parameters)


def _create(declared: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(declared, file)
        file.flush()
        prefect("--no-prompt", "deploy", "--all", "--prefect-file", file.name)


def ensure_work_pool(client: SyncPrefectClient) -> None:
    """Create the work pool that prefect.yaml names, unless it is there, with what a person set on it."""
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        prefect("work-pool", "create", WORK_POOL, "--type", "process")


def prefect(*words: str) -> None:
    """Prefect's own command, in the project's folder.

    Raises:
        UserError: it failed; with the end of what it said.
    """
    answer = subprocess.run([sys.executable, "-m", "prefect", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    if answer.returncode:
        tail = (answer.stdout + answer.stderr).strip().splitlines()[-3:]
        raise UserError(f"`prefect {' '.join(words)}` failed: {' '.join(tail)}")


if __name__ == "__main__":
    with get_client(sync_client=True) as prefect_client:
        try:
            ensure_work_pool(prefect_client)
            deploy_all(prefect_client, artifact_home())
            if "--schedules" in sys.argv[1:]:
                prefect("--no-prompt", "deployment", "schedule", "resume", "--all")
        except UserError as error:
            sys.exit(str(error))
