"""`cpt up`: a schedule yields runs (a broken scheduler starts and serves all the same), and a cancelled run stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from training_runs import rank_processes

from flows.server import free_port

PROJECT = Path(__file__).parents[2]
SCHEDULED_WITHIN_SECONDS = 75.0


class Platform(NamedTuple):
    """`cpt up` as it runs: its API, what it said, its process and its artifact root."""

    url: str
    said: str
    process: subprocess.Popen[str]
    home: Path


def post(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home, port = tmp_path_factory.mktemp("home"), free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {"CPT_HOME": str(home)}
    words = [sys.executable, "-m", "flows", "up", "--port", str(port), "--schedules"]
    process = subprocess.Popen(words, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    while "Ctrl-C stops all" not in said:
        line = process.stdout.readline()
        assert line, f"cpt up ended: {said}"
        said += line
    yield Platform(f"http://127.0.0.1:{port}/api", said, process, home)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    process.stdout.close()


def test_up_deploys_everything_and_says_what_to_do_next(platform: Platform) -> None:
    url, said = platform.url, platform.said
    deployments = post(f"{url}/deployments/filter", {})
    names = {(d["name"], str(d["entrypoint"]).rsplit(":", 1)[1]) for d in deployments}
    assert {("demo", "retrain"), ("nightly", "retrain"), ("manual", "evaluate"), ("manual", "build_dataset")} <= names
    assert "prefect deployment run 'retrain/demo'" in said
    for deployment in deployments:
        schema = deployment["parameter_openapi_schema"]
        assert "params" in schema["required"]


def test_the_nightly_deployment_is_scheduled_and_cancels_a_second_run(platform: Platform) -> None:
    url = platform.url
    nightly = next(d for d in post(f"{url}/deployments/filter", {}) if d["name"] == "nightly")
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"any_": [nightly["id"]]}}}
    wait_until(lambda: bool(post(f"{url}/flow_runs/filter", wanted)), SCHEDULED_WITHIN_SECONDS)
    runs = post(f"{url}/flow_runs/filter", wanted)
    assert runs[0]["parameters"]["params"]["preset"] == "demo"


def test_parameters_without_a_preset_are_refused_before_a_run_exists(platform: Platform) -> None:
    url = platform.url
    answer = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "retrain/demo", "-p", 'params={"steps": 3}'],
        env={**os.environ, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert "preset" in answer.stdout + answer.stderr


@pytest.mark.slow
def test_a_cancelled_run_keeps_its_step_and_leaves_no_trainer(platform: Platform, corpus: Path) -> None:
    url, process = platform.url, platform.process

    def prefect(*words: str) -> None:
        command = [sys.executable, "-m", "prefect", *words]
        subprocess.run(command, env={**os.environ, "PREFECT_API_URL": url}, capture_output=True, timeout=60, check=True)

    def run() -> dict[str, Any]:
        (found,) = post(f"{url}/flow_runs/filter", {"flow_runs": {"name": {"any_": ["retrain-smoke"]}}})
        return found

    def steps() -> list[dict[str, Any]]:
        return [json.loads(line) for path in job.glob("*/timing.jsonl") for line in path.read_text().splitlines()]

    params = {"preset": "smoke", "source": str(corpus), "steps": 100_000, "processes": 2, "name": "cancelled"}
    prefect("deployment", "run", "retrain/smoke", "-p", f"params={json.dumps(params)}")
    job = platform.home / "store" / "train"
    wait_until(lambda: any(path.read_text().count("\n") >= 3 for path in job.glob("*/timing.jsonl")), 240)
    trainers = rank_processes(psutil.Process(process.pid))
    assert len(trainers) == 2
    prefect("flow-run", "cancel", run()["id"])
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert alive == []
    wait_until(lambda: run()["state_type"] == "CANCELLED", 60)
    assert rank_processes(psutil.Process(process.pid)) == []
    saved = [json.loads(path.read_text())["step"] for path in job.glob("*/states/parts/*/state.json")]
    assert max(saved) == steps()[-1]["step"], "the last step that was taken is saved, not the last of the clock's saves"


def test_stopping_up_stops_all(platform: Platform) -> None:
    url, process = platform.url, platform.process
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url}/health", timeout=2)
