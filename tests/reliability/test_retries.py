"""R16: a transient error is retried with growing delays, a bad input is not; states as the server keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

PROGRAM = """
import json, os, sys
from pathlib import Path
from flows.orchestrator.server import prefect_environment, prefect_server

home = Path(sys.argv[1])
os.environ.update(prefect_environment(home))
with prefect_server(home):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from pipeline_lib.errors import TransientError, UserError
    from tasks.ui import stage_task

    attempts = {"busy": 0, "bad": 0}

    @stage_task("busy")
    def busy():
        attempts["busy"] += 1
        if attempts["busy"] < 3:
            raise TransientError("the port is busy")
        return "done"

    @stage_task("bad")
    def bad():
        attempts["bad"] += 1
        raise UserError("this file is no dump")

    @flow
    def life():
        assert busy() == "done"
        bad()

    state = life(return_state=True)
    with get_client(sync_client=True) as client:
        runs = {run.name.rsplit("-", 1)[0]: run for run in client.read_task_runs()}
    print(json.dumps({
        "attempts": attempts,
        "flow": state.type.value,
        "message": state.message,
        "busy": [runs["busy"].state.type.value, runs["busy"].run_count],
        "bad": [runs["bad"].state.type.value, runs["bad"].run_count],
    }))
    from prefect.logging.handlers import APILogWorker
    APILogWorker.drain_all()  # what is left is sent while there is a server: without one, Prefect tries for two minutes
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    words = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("home"))]
    answer = subprocess.run(words, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.strip().splitlines()[-1])


def test_r16_a_transient_error_is_retried_until_it_passes(outcome: dict[str, object]) -> None:
    assert outcome["attempts"]["busy"] == 3  # type: ignore[index]
    assert outcome["busy"] == ["COMPLETED", 3]


def test_r16_a_bad_input_is_not_retried_and_fails_the_flow_with_its_reason(outcome: dict[str, object]) -> None:
    assert outcome["attempts"]["bad"] == 1  # type: ignore[index]
    assert outcome["bad"] == ["FAILED", 1]
    assert outcome["flow"] == "FAILED"
    assert "this file is no dump" in str(outcome["message"])
