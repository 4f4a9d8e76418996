"""Runs without a process, slots without a run, schedules missed: at a server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from served import Served, runs_of
from webhooks import listening

from flows.orchestrator import server


def start(served: Served, deployment: UUID, state: str, worker: str | None, pid: str | None = None) -> UUID:
    """A run as a worker leaves it in the middle of its work; the new one's id."""
    from prefect import states

    run = served.client.create_flow_run_from_deployment(deployment).id
    served.client.set_flow_run_state(run, states.Pending())
    if worker:
        served.client.request("PATCH", f"/flow_runs/{run}/labels", json={"prefect.worker.name": worker})
    if pid:
        served.client.update_flow_run(run, infrastructure_pid=pid)
    for step in {"Pending": [], "Running": ["Running"], "Cancelling": ["Running", "Cancelling"]}[state]:
        served.client.set_flow_run_state(run, getattr(states, step)())
    assert state_of(served, run) == state.upper()
    return run


def state_of(served: Served, run: UUID) -> str:
    return str(served.client.read_flow_run(run).state.type.value)


def slots(served: Served, deployment: UUID) -> int:
    return int(served.client.read_global_concurrency_limit_by_name(f"deployment:{deployment}").active_slots)


def process_of(run: UUID) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(120)"]
    child = subprocess.Popen(command, env={"PREFECT__FLOW_RUN_ID": str(run)}, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    return child


@pytest.mark.parametrize(
    ("state", "by_us", "pid"),
    [
        ("Running", True, "1"),
        ("Pending", True, None),
        ("Cancelling", True, None),
        ("Running", False, "2"),
        ("Pending", False, None),
    ],
)
def test_a_run_of_this_host_without_a_process_is_crashed_and_the_next_takes_its_slot(
    served: Served, deployment: UUID, lost_runs: Any, state: str, by_us: bool, pid: str | None
) -> None:
    known_by_pid = pid is not None and not by_us
    run = start(
        served,
        deployment,
        state,
        lost_runs.worker_name(served.home) if by_us else None,
        f"{lost_runs.HOST}:{pid}" if known_by_pid else pid,
    )
    assert slots(served, deployment) == 1
    lost_runs.close_lost(served.client, served.home)
    closed = served.client.read_flow_run(run).state
    assert closed.type.value == "CRASHED"
    assert "no process of it is left" in closed.message and state in closed.message
    start(served, deployment, "Running", "another")


def test_what_a_lost_run_called_is_closed_with_it(served: Served, deployment: UUID, lost_runs: Any) -> None:
    from prefect import flow, states, task
    from prefect.client.schemas.objects import TaskRun

    @flow
    def called() -> None:
        pass

    @task
    def caller() -> None:
        pass

    run = start(served, deployment, "Running", lost_runs.worker_name(served.home))
    step: TaskRun = served.client.create_task_run(caller, flow_run_id=run, dynamic_key="0", state=states.Running())
    child = served.client.create_flow_run(called, parent_task_run_id=step.id, state=states.Running()).id
    inner = served.client.create_task_run(caller, flow_run_id=child, dynamic_key="0", state=states.Running())
    lost_runs.close_lost(served.client, served.home)
    assert [state_of(served, run), state_of(served, child)] == ["CRASHED", "CRASHED"]
    assert [served.client.read_task_run(task.id).state.type.value for task in (step, inner)] == ["CRASHED", "CRASHED"]


def test_a_flow_whose_caller_was_reported_dead_is_closed(served: Served, deployment: UUID, lost_runs: Any) -> None:
    from prefect import flow, states, task

    run = start(served, deployment, "Running", "another")
    step = served.client.create_task_run(task(lambda: None, name="t"), flow_run_id=run, dynamic_key="0", state=states.Running())
    child = served.client.create_flow_run(flow(name="f")(print), parent_task_run_id=step.id, state=states.Running()).id
    lost_runs.SilenceWatch().look(served.client)
    assert state_of(served, child) == "RUNNING"
    served.client.set_flow_run_state(run, states.Crashed())
    lost_runs.SilenceWatch().look(served.client)
    assert state_of(served, child) == "CRASHED"


def test_runs_of_other_hosts_and_runs_with_a_process_are_left_alone(served: Served, deployment: UUID, lost_runs: Any) -> None:
    run = start(served, deployment, "Running", None, f"{lost_runs.HOST}:1")
    child = process_of(run)
    try:
        assert lost_runs.run_processes()[run].pid == child.pid
        lost_runs.close_lost(served.client, served.home)
        assert (state_of(served, run), child.poll()) == ("RUNNING", None)
    finally:
        child.kill()
        child.wait()
    served.client.request("PATCH", f"/flow_runs/{run}/labels", json={"prefect.worker.name": "cpt up on elsewhere"})
    lost_runs.close_lost(served.client, served.home)
    assert (state_of(served, run), slots(served, deployment)) == ("RUNNING", 1)


def test_a_process_that_outlived_its_worker_is_ended_before_its_run_is_closed(
    served: Served, deployment: UUID, lost_runs: Any
) -> None:
    run = start(served, deployment, "Running", lost_runs.worker_name(served.home))
    child = process_of(run)
    lost_runs.close_lost(served.client, served.home)
    assert child.wait(10) == -15
    assert state_of(served, run) == "CRASHED"


def test_the_end_of_a_lost_run_is_told_once(served: Served, deployment: UUID, lost_runs: Any) -> None:
    from flows.orchestrator.upkeep import UntoldEnds

    UntoldEnds(served.home).look(served.client, at_once=True)  # of what other tests left
    with listening() as hook:
        (served.home / "notify.yaml").write_text(f"notify: {{webhook: '{hook.url}'}}")
        untold = UntoldEnds(served.home)
        start(served, deployment, "Running", lost_runs.worker_name(served.home))
        lost_runs.close_lost(served.client, served.home)
        assert untold.look(served.client) == [], "its own hooks come first"
        (subject,) = untold.look(served.client, at_once=True)
        assert untold.look(served.client, at_once=True) == []
        assert UntoldEnds(served.home).look(served.client, at_once=True) == [], "nor after a restart"
    (got,) = hook.got
    assert (got["event"], got["subject"]) == ("failure", subject)
    assert "no process of it is left" in got["reason"] and got["next"] == "cpt status"


def test_slots_and_leases_that_no_run_holds_are_freed(served: Served, deployment: UUID, lost_runs: Any) -> None:
    name = f"deployment:{deployment}"
    body = {"names": [name], "slots": 1, "mode": "concurrency", "lease_duration": 86400}
    served.client.request("POST", "/v2/concurrency_limits/increment-with-lease", json=body)
    leases = served.home / "prefect" / "concurrency_leases"
    limit = str(served.client.read_global_concurrency_limit_by_name(name).id)
    assert [path for path in leases.glob("*-*.json") if limit in path.read_text()], "a restart would forget who holds the slot"
    lost_runs.close_lost(served.client, served.home)
    assert slots(served, deployment) == 0
    assert not [path for path in leases.glob("*-*.json") if limit in path.read_text()]
    served.client.request("POST", "/v2/concurrency_limits/increment", json={"names": [name], "slots": 1})
    lost_runs.close_lost(served.client, served.home)
    assert slots(served, deployment) == 0


def test_a_run_is_closed_when_its_heartbeats_stay_away_and_only_then(served: Served, deployment: UUID, lost_runs: Any) -> None:
    clock = [0.0]
    run, watch = start(served, deployment, "Running", "cpt up on elsewhere"), lost_runs.SilenceWatch(lambda: clock[0])
    for beat in range(2):
        clock[0] += lost_runs.LEAST_SILENCE_SECONDS + 1
        heartbeat(served, run, datetime.now(UTC) + timedelta(seconds=30 * beat - 3600))  # a clock of its own, an hour behind
        watch.look(served.client)
    clock[0] += lost_runs.LEAST_SILENCE_SECONDS - 1
    watch.look(served.client)
    assert state_of(served, run) == "RUNNING"
    clock[0] += 2
    watch.look(served.client)
    assert state_of(served, run) == "CRASHED"
    assert "last heartbeat" in served.client.read_flow_run(run).state.message


def heartbeat(served: Served, run: UUID, when: datetime) -> None:
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    event = {"event": "prefect.flow-run.heartbeat", "occurred": when.isoformat(), "resource": resource, "id": str(uuid4())}
    served.client.request("POST", "/events", json=[event])
    wanted = {"filter": {"resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"name": [event["event"]]}, "order": "DESC"}}
    for _ in range(100):
        found = served.client.request("POST", "/events/filter", json=wanted).json()["events"]
        if found and found[0]["id"] == event["id"]:
            return
        time.sleep(0.1)
    pytest.fail("the server did not store the heartbeat")


def test_of_the_runs_that_an_outage_missed_the_latest_of_each_schedule_is_left(
    served: Served, deployment: UUID, lost_runs: Any
) -> None:
    daily = [{"schedule": {"cron": f"{minute} 2 * * *", "timezone": "UTC"}, "slug": str(minute)} for minute in (0, 30)]
    served.client.request("POST", f"/deployments/{deployment}/schedules", json=daily)
    since = {"start_time": (datetime.now(UTC) - timedelta(days=4)).isoformat(), "end_time": datetime.now(UTC).isoformat()}
    served.client.request("POST", f"/deployments/{deployment}/schedule", json={**since, "min_runs": 3, "max_runs": 9})
    assert lost_runs.skip_missed(served.client) == 4
    wanted = {"flow_runs": {"deployment_id": {"any_": [str(deployment)]}}}
    due = [
        run
        for run in served.client.request("POST", "/flow_runs/filter", json=wanted).json()
        if run["state_type"] == "SCHEDULED" and datetime.fromisoformat(run["expected_start_time"]) < datetime.now(UTC)
    ]
    assert len(due) == 2
    assert {run["created_by"]["display_value"] for run in due} == {"0", "30"}


def test_the_lock_of_the_leases_that_a_power_cut_left_is_removed_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    lock = tmp_path / "prefect" / "concurrency_leases" / "expirations.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("1")  # a pid that is always alive
    server._forget_stale_lock(tmp_path)
    assert lock.exists()
    os.utime(lock, (0, 0))
    server._forget_stale_lock(tmp_path)
    assert not lock.exists()


@pytest.fixture
def restarts(served: Served, tmp_path: Path) -> Callable[[int], Any]:
    from flows.orchestrator.restarts import Restarts

    return lambda times: Restarts(served.client, tmp_path, times)


def lose(served: Served, lost_runs: Any, restarts: Any, run: UUID) -> None:
    """Cut a run off in the middle of its work, and note it."""
    from prefect import states

    for state in (states.Pending(), states.Running()):
        served.client.set_flow_run_state(run, state)
    served.client.request("PATCH", f"/flow_runs/{run}/labels", json={"prefect.worker.name": lost_runs.worker_name(served.home)})
    lost_runs.close_lost(served.client, served.home, restarts.note)
    assert state_of(served, run) == "CRASHED"


def test_a_lost_run_is_started_again_as_it_was_so_many_times_and_never_twice_for_one_loss(
    served: Served, deployment: UUID, lost_runs: Any, restarts: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    platform, noted = restarts(2), tmp_path / "prefect" / "cut_off.json"
    first = served.client.create_flow_run_from_deployment(deployment, name="mine", parameters={"a": [1, None]}, tags=["t"]).id
    lose(served, lost_runs, platform, first)
    note = noted.read_bytes()
    assert platform.start() == ["mine"]
    noted.write_bytes(note)  # as if it was killed before it forgot
    restarts(2).start()
    assert platform.start() == []
    _, second = runs_of(served, deployment)
    assert (second["name"], second["parameters"], second["tags"]) == ("mine", {"a": [1, None]}, ["t"])
    assert second["labels"]["cpt.restart-of"] == str(first)
    lose(served, lost_runs, platform, UUID(second["id"]))
    assert platform.start() == ["mine"]
    lose(served, lost_runs, platform, UUID(runs_of(served, deployment)[2]["id"]))
    assert platform.start() == []
    assert "not started again" in capsys.readouterr().out
    assert len(runs_of(served, deployment)) == 3


def test_a_run_is_started_again_only_where_that_is_asked_for_and_nobody_ended_it(
    served: Served, deployment: UUID, lost_runs: Any, restarts: Any
) -> None:
    from prefect import states
    from prefect.client.schemas.actions import DeploymentUpdate

    lose(served, lost_runs, restarts(0), served.client.create_flow_run_from_deployment(deployment).id)
    assert restarts(0).start() == []
    assert restarts(1).start() == [], "an earlier start decided, and forgot it"

    cancelled = start(served, deployment, "Cancelling", lost_runs.worker_name(served.home))
    lost_runs.close_lost(served.client, served.home, restarts(1).note)
    assert (state_of(served, cancelled), restarts(1).start()) == ("CRASHED", [])

    finished = start(served, deployment, "Running", lost_runs.worker_name(served.home))
    restarts(1).note_ids([finished, uuid4()])
    served.client.set_flow_run_state(finished, states.Completed())
    assert restarts(1).start() == [], "it came to its end before it was stopped"

    flow = served.client.create_flow_from_name(f"flow-{uuid4()}")
    rollback = served.client.create_deployment(flow_id=flow, name="one", entrypoint="flows/promotion.py:rollback")
    lose(served, lost_runs, restarts(1), served.client.create_flow_run_from_deployment(rollback).id)
    assert restarts(1).start() == [], "a second one would go further back"

    served.client.update_deployment(deployment, DeploymentUpdate(tags=["restart-lost"]))
    lose(served, lost_runs, restarts(0), served.client.create_flow_run_from_deployment(deployment, name="asked").id)
    assert restarts(0).start() == ["asked"]


def test_a_night_that_is_started_again_goes_through_the_gate_as_the_schedule_s(
    served: Served, deployment: UUID, lost_runs: Any, restarts: Any
) -> None:
    from flows.approval import starter_of

    daily = [{"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}, "slug": "daily"}]
    served.client.request("POST", f"/deployments/{deployment}/schedules", json=daily)
    served.client.request("POST", f"/deployments/{deployment}/schedule", json={"min_runs": 1, "max_runs": 1})
    run = UUID(runs_of(served, deployment)[0]["id"])
    for _ in range(3):
        assert starter_of(served.client.read_flow_run(run)) == "schedule"
        lose(served, lost_runs, restarts(9), run)
        assert len(restarts(9).start()) == 1
        origins = {found["labels"].get("cpt.restart-of"): found["id"] for found in runs_of(served, deployment)}
        run = UUID(origins[str(run)])
    by_hand = served.client.create_flow_run_from_deployment(deployment).id
    assert starter_of(served.client.read_flow_run(by_hand)) == "person"
