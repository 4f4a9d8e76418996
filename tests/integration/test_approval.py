"""A question about a promotion that waits without a process: it outlives a restart of the platform, and it has an end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from corpus import write_corpus
from integration.test_lost_runs import start as start_run
from integration.test_suspending import processes_of, read, start, wait_for
from served import Platform, Served, runs_of, wait_until

from flows.orchestrator.api import answer_to
from flows.orchestrator.server import free_port
from pipeline_lib.runtime.outcomes import read_outcomes
from pipeline_lib.search.registry import champion, history

KEY = f"promotion-{'0' * 16}-60s"
LIMIT = "Deployment concurrency limit reached."


def asks(served: Served, deployment: UUID, key: str) -> UUID:
    """A run that has put a question and left its process."""
    from prefect import states
    from prefect.input import keyset_from_paused_state

    from flows.approval import Approval

    run = start_run(served, deployment, "Running", "a worker")
    state: Any = states.Suspended(pause_key=key)
    state.state_details.run_input_keyset = keyset_from_paused_state(state)
    answer = served.client.set_flow_run_state(run, state)
    assert answer.state.name == "Suspended", answer
    schema = json.dumps(Approval.model_json_schema())
    body = {"key": state.state_details.run_input_keyset["schema"], "value": schema}
    served.client.request("POST", f"/flow_runs/{run}/input", json=body)
    return run


def test_a_question_that_nobody_answers_is_answered_with_no_when_its_time_is_over(served: Served, deployment: UUID) -> None:
    from flows.approval import NOBODY, expire

    run, by_hand = asks(served, deployment, KEY), asks(served, deployment, "1")
    began = datetime.now(UTC)
    assert expire(served.client, lambda: began + timedelta(seconds=50)) == []
    assert expire(served.client, lambda: began + timedelta(seconds=70)) == [served.client.read_flow_run(run).name]
    assert served.client.read_flow_run(run).state.name == "Resuming"
    assert served.client.read_flow_run(by_hand).state.name == "Suspended", "somebody suspended it for another reason"
    value = served.client.request("GET", f"/flow_runs/{run}/input/suspended-{KEY}-response").json()
    assert value == {"promote": False, "reason": NOBODY}


def test_an_answer_that_finds_the_slot_taken_waits_for_it(served: Served, deployment: UUID) -> None:
    from prefect import states

    from flows.approval import is_turned_away, let_in_again
    from flows.orchestrator.upkeep import UntoldEnds

    run = asks(served, deployment, KEY)
    night = start_run(served, deployment, "Running", "a worker")
    served.client.resume_flow_run(run, run_input={"promote": True, "reason": ""})
    answer = served.client.set_flow_run_state(run, states.Pending()).state
    assert (answer.type.value, answer.message) == ("CANCELLED", LIMIT), "what the worker is told"
    assert is_turned_away(served.client.read_flow_run(run))
    other = served.client.create_flow_run_from_deployment(deployment).id
    served.client.set_flow_run_state(other, states.Pending())
    assert let_in_again(served.client) == [], "the night is at work"
    told = UntoldEnds(served.home).look(served.client, at_once=True)
    assert not any(served.client.read_flow_run(run).name in subject for subject in told), "it will go on"
    served.client.set_flow_run_state(night, states.Completed())
    assert let_in_again(served.client) == [served.client.read_flow_run(run).name]
    assert served.client.read_flow_run(run).state.name == "Resuming"
    by_state = {row["id"]: row["state_type"] for row in runs_of(served, deployment)}
    assert by_state[str(other)] == "CANCELLED", "a night that came too soon stays cancelled"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "little.yaml").write_text(yaml.safe_dump({"base": "smoke", "tests_plumbing": False}))
    platform = Platform(tmp_path, free_port())
    platform.start()
    yield platform
    stop(platform)


def stop(platform: Platform) -> None:
    platform.process.terminate()
    platform.process.wait(90)
    assert platform.process.stdout is not None
    platform.process.stdout.close()


def opened(home: Path) -> int:
    """Evaluations on a test split."""
    manifests = home.glob("store/evaluate_suite/*/manifest.json")
    return sum(json.loads(path.read_text())["config"]["split"] == "test" for path in manifests)


def last(home: Path) -> tuple[str, str]:
    event = history(home, "mine")[-1]
    return event["event"], event["why"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_question_outlives_a_restart_of_the_platform_and_its_answer_counts(platform: Platform, tmp_path: Path) -> None:
    """The first run is champion; a night asks, without a process; another night is answered by nobody."""
    source = write_corpus(tmp_path / "dump", packages=20, functions=8)
    sizes = ["export.onnx=false", "curate.validation_percent=30", "name=mine"]
    given = {"preset": "little", "source": str(source)}
    first = start(platform, "smoke", **given, set=[*sizes, "train.steps=4"])
    wait_for(platform, first, "COMPLETED", 400)
    assert last(platform.home) == ("promoted", "the first of its name")
    tested = opened(platform.home)

    asking = {**given, "set": [*sizes, "train.steps=20", "nightly.policy=restart"], "promote": "ask"}
    second = start(platform, "smoke", **asking)
    wait_for(platform, second, "PAUSED", 400)
    wait_until(lambda: processes_of(second) == [], 60)
    assert read(platform, second)["state"]["name"] == "Suspended" and opened(platform.home) == tested
    assert [one.state for one in read_outcomes(platform.home) if one.name == "mine"] == ["suspended"]
    assert json.loads(cpt(platform, "status", "--json"))["last_failure"] is None
    made = manifests(platform.home)

    stop(platform)
    platform.start()
    assert read(platform, second)["state"]["name"] == "Suspended", "the question is still there"
    again = start(platform, "smoke", **asking)
    wait_for(platform, again, "COMPLETED", 400)
    told = [(event["event"], event["why"].partition(";")[0]) for event in history(platform.home, "mine")]
    assert told[-2] == ("rejected", f"the run {read(platform, second)['name']} asks about it already"), told
    assert opened(platform.home) == tested

    write_corpus(source / "more", packages=2, functions=8, seed=9)  # the dump goes on; the answer is about what was asked
    body = json.dumps({"run_input": {"promote": True, "reason": "after a restart"}})
    assert call(f"{platform.url}/flow_runs/{second}/resume", body)["status"] == "ACCEPT"
    wait_for(platform, second, "COMPLETED", 400)
    told = [(event["event"], event["why"].partition(";")[0]) for event in history(platform.home, "mine")]
    assert told[-2] == ("promoted", "a person said yes: after a restart"), told
    event = history(platform.home, "mine")[-1]
    assert (event["event"], event["outcome"]) == ("night", "promoted")
    assert champion(platform.home, "mine").checkpoint == "step-000020" and opened(platform.home) > tested  # type: ignore[union-attr]
    after = manifests(platform.home)
    assert made.items() <= after.items(), "nothing was made again"
    assert not {name for name in set(after) - set(made) if name.startswith(("extract/", "curate/", "train/"))}

    tested, soon = opened(platform.home), [*sizes, "train.steps=8", "promote.ask_hours=0.001"]
    third = start(platform, "smoke", **given, set=soon, promote="ask")
    wait_for(platform, third, "COMPLETED", 400)
    event, why = last(platform.home)
    assert event == "rejected" and why.startswith("nobody answered within 0.001 h") and opened(platform.home) == tested


def manifests(home: Path) -> dict[str, int]:
    """STAGE/KEY to when it was made."""
    store = home / "store"
    return {path.parent.relative_to(store).as_posix(): path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}


def cpt(platform: Platform, *words: str) -> str:
    command, env = [sys.executable, "-m", "flows.cli", *words], {**os.environ, "CPT_HOME": str(platform.home)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout


def call(url: str, body: str) -> dict[str, Any]:
    import urllib.request

    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    return dict(json.loads(answer_to(request, 30)))
