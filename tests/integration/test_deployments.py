"""Deployments that code and person changed, at a server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from served import Served, runs_of

NIGHTLY = {"slug": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "active": False}
ENTRY = {
    "name": "kept",
    "description": "As in the code.",
    "entrypoint": "flows/retrain.py:retrain",
    "tags": ["cpt"],
    "parameters": {"params": {"preset": "demo"}},
    "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
    "schedules": [NIGHTLY],
    "work_pool": {"name": "local-process", "job_variables": {"env": {"CPT_HOME": "a"}}},
}


@pytest.fixture
def redeploy(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Any]:
    """`cpt up`'s deployment of one entry; what the server has afterwards."""
    from flows.orchestrator import deployments

    def deploy(entry: dict[str, Any]) -> Any:
        declared = {
            "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": "here"}}],
            "deployments": [entry],
        }
        monkeypatch.setattr(deployments, "declaration", lambda: json.loads(json.dumps(declared)))
        deployments.deploy_all(served.client, tmp_path)
        return served.client.read_deployment_by_name(deployments.Declared(entry).name)

    monkeypatch.setenv("PREFECT_API_URL", str(served.client.api_url))
    deployments.ensure_work_pool(served.client)
    return deploy


def test_a_restart_brings_the_code_s_changes_and_keeps_a_person_s(
    served: Served, redeploy: Callable[[dict[str, Any]], Any]
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    first = redeploy(ENTRY)
    assert redeploy(ENTRY).updated == first.updated, "nothing changed, and nothing was written"
    mine = {"parameters": {"params": {"preset": "smoke"}}, "paused": True, "concurrency_limit": 3}
    served.client.update_deployment(first.id, DeploymentUpdate(**mine))
    served.client.update_deployment_schedule(first.id, first.schedules[0].id, active=True)
    served.client.request("POST", f"/deployments/{first.id}/schedules", json=[{"schedule": {"interval": 3600}}])
    later = ENTRY | {
        "description": "As in the later code.",
        "tags": ["cpt", "later"],
        "parameters": {"params": {"preset": "demo", "name": "later"}},
        "schedules": [NIGHTLY | {"cron": "0 3 * * *"}, NIGHTLY | {"slug": "weekly", "cron": "0 4 * * 0"}],
        "work_pool": {"name": "local-process", "job_variables": {"env": {"CPT_HOME": "b"}}},
    }
    found = redeploy(later)
    assert (found.description, found.tags) == ("As in the later code.", ["cpt", "later"])
    assert found.job_variables == {"env": {"CPT_HOME": "b"}}
    assert found.parameters == {"params": {"preset": "smoke", "name": "later"}}
    assert (found.paused, found.global_concurrency_limit.limit) == (True, 3)
    schedules = {one.slug: (getattr(one.schedule, "cron", None), one.active) for one in found.schedules}
    assert schedules == {"nightly": ("0 3 * * *", True), "weekly": ("0 4 * * 0", False), None: (None, True)}

    served.client.delete_deployment_schedule(first.id, next(one.id for one in found.schedules if one.slug == "weekly"))
    assert {one.slug for one in redeploy(later).schedules} == {"nightly", None}, "what was deleted stays so"


def test_a_deployment_that_was_spoilt_and_deleted_comes_back_as_in_the_code(
    served: Served, redeploy: Callable[[dict[str, Any]], Any]
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    first = redeploy(ENTRY)
    spoilt = {"tags": ["mine"], "job_variables": {"command": "false"}, "paused": True}
    served.client.update_deployment(first.id, DeploymentUpdate(**spoilt))
    assert redeploy(ENTRY).job_variables["command"] == "false", "what a person set is kept, be it as it may"
    served.client.delete_deployment(first.id)
    found = redeploy(ENTRY)
    assert (found.tags, found.job_variables, found.paused) == (["cpt"], {"env": {"CPT_HOME": "a"}}, False)
    assert [(one.slug, one.active) for one in found.schedules] == [("nightly", False)]


def test_parameters_that_the_code_no_longer_takes_do_not_stop_a_start(
    served: Served, redeploy: Callable[[dict[str, Any]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = redeploy(ENTRY | {"enforce_parameter_schema": False})
    body = {"parameters": {"params": {"preset": "demo", "steps": "many"}}, "enforce_parameter_schema": False}
    served.client.request("PATCH", f"/deployments/{found.id}", json=body)
    later = redeploy(ENTRY | {"enforce_parameter_schema": True})
    assert later.parameters == {"params": {"preset": "demo"}}
    assert "retrain/kept: what was set in the UI does not fit the code" in capsys.readouterr().out


def test_a_night_that_is_refused_stops_neither_a_start_nor_another_night(
    served: Served, redeploy: Callable[[dict[str, Any]], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.orchestrator.declared import save_nights, saved_nights
    from flows.orchestrator.deployments import deploy_nights, remove_nights
    from pipeline_lib.errors import UserError

    def night(name: str, **params: Any) -> dict[str, Any]:
        return ENTRY | {"name": name, "parameters": {"params": {"name": name, "preset": "smoke", **params}}, "schedules": []}

    template = ENTRY | {"name": "nightly", "enforce_parameter_schema": True, "tags": ["of the code now"]}
    gone, good = night("gone", preset="removed"), night("good")
    save_nights(tmp_path, [gone, good])
    redeploy(template)
    assert "retrain/gone is not deployed" in capsys.readouterr().out
    assert served.client.read_deployment_by_name("retrain/good").tags == ["of the code now"]
    with pytest.raises(UserError):
        deploy_nights(served.client, tmp_path, [night("good", preset="removed")])
    assert saved_nights(tmp_path) == [gone, good], "it stays as it was"
    with pytest.raises(UserError, match="none-such: no night"):
        remove_nights(served.client, tmp_path, ["good", "none-such"])
    assert served.client.read_deployment_by_name("retrain/good") and saved_nights(tmp_path) == [gone, good]
    remove_nights(served.client, tmp_path, ["gone", "good"])
    assert saved_nights(tmp_path) == []


def test_a_deployment_with_another_name_takes_over_what_a_person_set_and_the_old_one_goes(
    served: Served, redeploy: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import states
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    from flows.orchestrator import deployments

    monkeypatch.setattr(deployments, "EARLIER_NAME", "before")
    old = redeploy({**ENTRY, "name": "before"})
    served.client.update_deployment(old.id, DeploymentUpdate(tags=["mine"], paused=True, concurrency_limit=3))
    served.client.update_deployment_schedule(old.id, old.schedules[0].id, active=True)
    served.client.request("POST", f"/deployments/{old.id}/schedules", json=[{"schedule": {"interval": 3600}, "active": False}])
    later = datetime.now(UTC) + timedelta(days=1)
    served.client.create_flow_run_from_deployment(old.id, name="planned", state=states.Scheduled(scheduled_time=later))
    suspended = served.client.create_flow_run_from_deployment(old.id).id
    served.client.set_flow_run_state(suspended, states.Suspended(timeout_seconds=900), force=True)
    automation = automation_of(served, old.id)

    renamed = {**ENTRY, "name": "retrain", "description": "As in the later code."}
    for _ in range(2):  # a second start finds all moved
        new = redeploy(renamed)
        assert (new.description, new.tags, new.paused) == ("As in the later code.", ["mine"], True)
        assert new.global_concurrency_limit.limit == 3
        assert sorted((one.slug or "", one.active) for one in new.schedules) == [("", False), ("nightly", True)]
        assert served.client.read_deployment_by_name("retrain/before").id == old.id, "its suspended run could not be resumed"
    wanted = {"flow_runs": {"deployment_id": {"any_": [str(new.id)]}, "name": {"any_": ["planned"]}}}
    (planned,) = served.client.request("POST", "/flow_runs/filter", json=wanted).json()
    assert datetime.fromisoformat(planned["expected_start_time"]) == later
    assert served.client.read_automation(automation).actions[0].deployment_id == new.id

    served.client.set_flow_run_state(suspended, states.Cancelled(), force=True)
    served.client.update_deployment(new.id, DeploymentUpdate(tags=["later"]))
    assert redeploy(renamed).tags == ["later"], "what was set since is kept"
    with pytest.raises(ObjectNotFound):
        served.client.read_deployment_by_name("retrain/before")


def automation_of(served: Served, deployment: UUID) -> UUID:
    """A person's automation that runs a deployment."""
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    trigger, action = EventTrigger(expect={"mine"}), RunDeployment(source="selected", deployment_id=deployment, parameters=None)
    return served.client.create_automation(AutomationCore(name="mine", trigger=trigger, actions=[action]))


REGISTERED = {
    "name": "on-registered",
    "description": "As in the code.",
    "enabled": False,
    "expect": ["cpt.checkpoint.registered"],
    "parameters": {
        "params": {
            "__prefect_kind": "json",
            "value": {"__prefect_kind": "jinja", "template": "{{ event.payload.params | tojson }}"},
        }
    },
}


def test_an_automation_follows_the_code_and_a_person_s_switch_and_runs_with_the_event_s_parameters(
    served: Served, redeploy: Callable[[dict[str, Any]], Any]
) -> None:
    evaluate = {
        **{key: value for key, value in ENTRY.items() if key not in ("schedules", "concurrency_limit")},
        "entrypoint": "flows/evaluate.py:evaluate",
        "name": "kept",
        "parameters": {"params": {}},
        "triggers": [REGISTERED],
    }
    found = redeploy(evaluate)
    (first,) = served.client.read_automations_by_name("on-registered")
    assert (first.enabled, first.actions[0].deployment_id) == (False, found.id)
    served.client.resume_automation(first.id)
    redeploy({**evaluate, "triggers": [REGISTERED | {"description": "As in the later code."}]})
    (later,) = served.client.read_automations_by_name("on-registered")
    assert (later.id, later.enabled, later.description) == (first.id, True, "As in the later code.")

    params = {"models": ["0123456789abcdef/step-000240"], "split": "validation", "machine": {"artifacts": "/a 'place'"}}
    event = {
        "event": "cpt.checkpoint.registered",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": "cpt.checkpoint.0123456789abcdef/step-000240"},
        "payload": {"params": params},
        "id": str(uuid4()),
    }
    served.client.request("POST", "/events", json=[event])
    for _ in range(300):
        if runs := runs_of(served, found.id):
            break
        time.sleep(0.1)
    assert [run["parameters"] for run in runs] == [{"params": params}]
