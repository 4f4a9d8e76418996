"""Runs from the UI at a running platform: a typed name, suspended and resumed; evaluated by event, and found evaluated."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import Platform, deployment_named, post, wait_until

from flows.orchestrator.api import answer_to
from flows.orchestrator.server import free_port

NAME = "as I typed it"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("home"), free_port())
    platform.start()
    yield platform
    platform.process.terminate()
    platform.process.wait(90)
    assert platform.process.stdout is not None
    platform.process.stdout.close()


def start(platform: Platform, deployment: str, name: str | None = None, **params: Any) -> str:
    """Start a run as the UI does; its id."""
    (found,) = [one for one in post(f"{platform.url}/deployments/filter", {}) if one["name"] == deployment]
    body = {"parameters": {"params": params}, **({"name": name} if name else {})}
    return str(dict(post(f"{platform.url}/deployments/{found['id']}/create_flow_run", body))["id"])


def read(platform: Platform, run: str) -> dict[str, Any]:
    return dict(json.loads(answer_to(urllib.request.Request(f"{platform.url}/flow_runs/{run}"), 10)))


def wait_for(platform: Platform, run: str, state: str, seconds: float) -> None:
    def is_there() -> bool:
        now = read(platform, run)["state"]
        assert now["type"] == state or now["type"] not in ("FAILED", "CRASHED"), now
        return bool(now["type"] == state)

    wait_until(is_there, seconds)


def called(platform: Platform) -> list[str]:
    """The states of the flow that trains, of which there should be one."""
    found = post(f"{platform.url}/flow_runs/filter", {"flow_runs": {"name": {"any_": ["train-tree"]}}})
    return [run["state"]["type"] for run in found]


def steps_of(platform: Platform) -> list[int]:
    files = (platform.home / "store" / "train").glob("*/timing.jsonl")
    return [json.loads(line)["step"] for path in files for line in path.read_text().splitlines()]


def processes_of(run: str) -> list[psutil.Process]:
    def is_of(process: psutil.Process) -> bool:
        try:
            return process.environ().get("PREFECT__FLOW_RUN_ID") == run and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if process.pid != os.getpid() and is_of(process)]


@pytest.mark.slow
def test_a_suspended_run_stops_at_a_saved_step_and_goes_on_from_it_when_it_is_resumed(platform: Platform, corpus: Path) -> None:
    run = start(platform, "smoke", NAME, preset="smoke", source=str(corpus), set=["train.steps=100000"])
    wait_until(lambda: len(steps_of(platform)) >= 3, 240)
    limit = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    suspended = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_timeout": limit, "pause_reschedule": True}}
    post(f"{platform.url}/flow_runs/{run}/set_state", {"state": suspended})
    wait_until(lambda: processes_of(run) == [], 60)
    before = read(platform, run)
    assert (before["name"], before["state"]["name"]) == (NAME, "Suspended")
    assert called(platform) == ["PAUSED"]
    saved = [json.loads(path.read_text())["step"] for path in platform.home.glob("store/train/*/states/parts/*/state.json")]
    assert max(saved) == steps_of(platform)[-1], "the last step that was taken is saved"
    wanted = {"task_runs": {"state": {"type": {"any_": ["RUNNING"]}}, "name": {"like_": "train-%"}}}
    assert [task for task in post(f"{platform.url}/task_runs/filter", wanted) if task["task_key"].startswith("body")] == []

    post(f"{platform.url}/flow_runs/{run}/resume", {})
    wait_until(lambda: len(steps_of(platform)) > max(saved) + 3, 120)
    steps = steps_of(platform)
    assert steps == [*range(1, len(steps) + 1)], "no step is taken twice, and none is left out"
    assert (read(platform, run)["name"], read(platform, run)["state"]["type"]) == (NAME, "RUNNING")
    assert called(platform) == ["RUNNING"], "the flow that it called goes on too"
    post(f"{platform.url}/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for(platform, run, "CANCELLED", 60)


@pytest.mark.slow
def test_a_registered_checkpoint_is_evaluated_by_event_and_publication_finds_that_done(
    platform: Platform, corpus: Path
) -> None:
    (automation,) = [
        found for found in post(f"{platform.url}/automations/filter", {}) if found["name"] == "evaluate-registered"
    ]
    assert not automation["enabled"], "else a laptop evaluates twice"
    post(f"{platform.url}/automations/{automation['id']}", {"enabled": True}, "PATCH")
    params = {"preset": "smoke", "source": str(corpus), "set": ["train.steps=12"], "name": "by-event"}
    trained = start(platform, "train", **params)
    wait_for(platform, trained, "COMPLETED", 400)
    checkpoints = sorted(
        part["label"]
        for path in platform.home.glob("store/train/*/manifest.json")
        for part in json.loads(path.read_text())["parts"]
        if part["label"].startswith("step-")
    )
    evaluate = deployment_named(platform, "evaluate")["id"]
    wait_until(lambda: platform.states(evaluate) == ["COMPLETED"] * len(checkpoints), 600)
    before = made(platform)
    assert {label for label, _, _ in before} >= set(checkpoints)

    published = start(platform, "publish", **{**params, "name": None, "set": ["train.steps=12", "name=by-event"]})
    wait_for(platform, published, "COMPLETED", 400)
    after = made(platform)
    assert {row for row in after if row[0] in checkpoints} == {row for row in before if row[0] in checkpoints}
    links = [found["data"] for found in post(f"{platform.url}/artifacts/filter", {}) if "](http" in str(found["data"])]
    assert any("/evaluations/validation-" in link for link in links)
    assert any("/cards/" in link for link in links)
    for link in links:
        with urllib.request.urlopen(link.partition("](")[2].rstrip(")"), timeout=10) as answer:
            assert answer.status == 200


def made(platform: Platform) -> set[tuple[str, str, float]]:
    """The model, suite and time of every evaluation on validation that is there."""
    found = set()
    for path in platform.home.glob("store/evaluate_suite/*/manifest.json"):
        config = json.loads(path.read_text())["config"]
        began = json.loads((path.parent / "run.json").read_text())["started_at"]
        if config["split"] == "validation":
            found.add((config["model"], config["suite"], began))
    return found
