"""`cpt up`: a schedule yields runs, a cancelled run stops, and neither a power cut nor a restart is felt by the next run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import PROJECT, Platform, deployment_named, post, runs_in, wait_until
from training_runs import rank_processes

from flows.orchestrator.server import free_port
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.processes import is_running

SCHEDULED_WITHIN_SECONDS = 75.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("home"), free_port())
    platform.start("--schedules")
    yield platform
    if platform.process.poll() is None:
        platform.process.send_signal(signal.SIGINT)
        platform.process.wait(60)
    assert platform.process.stdout is not None
    platform.process.stdout.close()


def test_up_deploys_everything_and_says_what_to_do_next(platform: Platform) -> None:
    url, said = platform.url, platform.said
    deployments = post(f"{url}/deployments/filter", {})
    names = {(d["name"], str(d["entrypoint"]).rsplit(":", 1)[1]) for d in deployments}
    assert {("demo", "retrain"), ("nightly", "retrain"), ("evaluate", "evaluate"), ("build-dataset", "build_dataset")} <= names
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
        [sys.executable, "-m", "prefect", "deployment", "run", "retrain/demo", "-p", 'params={"name": "x"}'],
        env={**os.environ, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert "preset" in answer.stdout + answer.stderr


def test_nights_of_a_users_file_are_deployed_and_a_persons_changes_stay(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PREFECT_API_URL", platform.url), ("CPT_HOME", platform.home), ("PIPELINE_HOME", PROJECT)):
        monkeypatch.setenv(name, str(value))
    from prefect.client.orchestration import SyncPrefectClient

    from flows.cli.deploy import entries_of
    from flows.orchestrator.deployments import deploy_nights, remove_nights

    path = tmp_path / "nights.yaml"
    entry = {"name": "handbook", "preset": "smoke", "source": str(tmp_path), "schedule": {"cron": "0 2 * * *", "active": False}}

    def deploy(**changes: Any) -> dict[str, list[str]]:
        path.write_text(json.dumps({**entry, **changes}))
        with SyncPrefectClient(api=platform.url) as client:
            return deploy_nights(client, platform.home, entries_of([path]))

    assert deploy() == {"handbook": []}
    found = deployment_named(platform, "handbook")
    words = found["parameters"]["params"]
    assert (words["preset"], words["name"], words["set"]) == ("smoke", "handbook", ["nightly.policy=continue"])
    (schedule,) = found["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 2 * * *", False)
    post(f"{platform.url}/deployments/{found['id']}", {"tags": ["mine"]}, "PATCH")
    post(f"{platform.url}/deployments/{found['id']}/schedules/{schedule['id']}", {"active": True}, "PATCH")
    assert deploy(min_new_share=0.1) == {"handbook": ["tags", "schedule"]}, "what is not as the file says is told"
    found = deployment_named(platform, "handbook")
    assert found["tags"] == ["mine"] and found["schedules"][0]["active"] is True
    assert found["parameters"]["params"]["set"] == ["nightly.policy=continue", "nightly.min_new_share=0.1"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    alone = {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}  # no second server beside the platform's
    words = [sys.executable, "-m", "flows.cli", "deploy", "--config", str(path)]
    answer = subprocess.run(words, env=kept | alone, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    with SyncPrefectClient(api=platform.url) as client:
        remove_nights(client, platform.home, ["handbook"])
        with pytest.raises(UserError, match="no night that `cpt deploy` deployed; there are: none"):
            remove_nights(client, platform.home, ["handbook"])
    assert "handbook" not in {found["name"] for found in post(f"{platform.url}/deployments/filter", {})}


@pytest.mark.slow
def test_a_cancelled_run_keeps_its_step_and_leaves_no_trainer(platform: Platform, corpus: Path) -> None:
    url, process = platform.url, platform.process

    def run() -> dict[str, Any]:
        (found,) = post(f"{url}/flow_runs/filter", {"flow_runs": {"name": {"any_": ["retrain-smoke-cancelled"]}}})
        return found

    def steps() -> list[dict[str, Any]]:
        return [json.loads(line) for path in job.glob("*/timing.jsonl") for line in path.read_text().splitlines()]

    endless = ["train.steps=100000", "train.processes=2"]
    platform.run("retrain/smoke", preset="smoke", source=str(corpus), set=endless, name="cancelled")
    job = platform.home / "store" / "train"
    wait_until(lambda: any(path.read_text().count("\n") >= 3 for path in job.glob("*/timing.jsonl")), 240)
    trainers = rank_processes(psutil.Process(process.pid))
    assert len(trainers) == 2
    post(f"{url}/flow_runs/{run()['id']}/set_state", {"state": {"type": "CANCELLING"}})
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert alive == []
    wait_until(lambda: run()["state_type"] == "CANCELLED", 60)
    assert rank_processes(psutil.Process(process.pid)) == []
    saved = [json.loads(path.read_text())["step"] for path in job.glob("*/states/parts/*/state.json")]
    assert max(saved) == steps()[-1]["step"], "the last step that was taken is saved, not the last of the clock's saves"


def test_after_a_power_cut_the_cut_run_is_crashed_and_started_again_where_that_is_asked_for(
    platform: Platform, corpus: Path
) -> None:
    demo, nightly = deployment_named(platform, "demo"), deployment_named(platform, "nightly")
    post(f"{platform.url}/deployments/{demo['id']}", {"parameters": {"params": {"preset": "smoke"}}, "tags": ["mine"]}, "PATCH")
    weekly = {"schedule": {"cron": "0 5 * * 0"}, "active": True, "parameters": {"params": {"preset": "smoke"}}}
    post(f"{platform.url}/deployments/{nightly['id']}/schedules", [weekly])
    params = {"preset": "smoke", "source": str(corpus), "set": ["train.steps=100000"]}
    platform.run("retrain/demo", **params, name="cut")
    wait_until(lambda: any(run["parent_task_run_id"] for run in runs_in(platform, "RUNNING")), 120)
    platform.cut()

    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731 - as below `nohup cpt up &`
    platform.start("--restart-lost", "1", before_exec=ignore)
    assert "closed as Crashed" in platform.said
    (cut,) = [run for run in runs_in(platform, "CRASHED") if run["deployment_id"] == demo["id"]]
    assert "no process of it is left" in cut["state"]["message"]
    called = runs_in(platform, "CRASHED")
    assert len(called) > 1, "the flow that it called is not Running for ever"
    wait_until(lambda: platform.states(demo["id"]) == ["CRASHED", "RUNNING"], 60)
    (again,) = [run for run in runs_in(platform, "RUNNING") if run["deployment_id"] == demo["id"]]
    assert (again["name"], again["parameters"]) == (cut["name"], cut["parameters"])
    assert cut["name"] == "retrain-smoke-cut"

    after = deployment_named(platform, "demo")
    assert (after["parameters"], after["tags"]) == ({"params": {"preset": "smoke"}}, ["mine"])
    schedules = deployment_named(platform, "nightly")["schedules"]
    assert {s["schedule"]["cron"]: s["active"] for s in schedules} == {"0 2 * * *": True, "0 5 * * 0": True}
    assert "retrain/nightly is switched on" in platform.said


def test_status_and_metrics_tell_of_the_cut_run_and_of_the_one_at_work(platform: Platform) -> None:
    cut = platform.home / "outcomes" / "retrain--cut.json"
    wait_until(lambda: cut.exists() and '"failing": true' in cut.read_text(), 60)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {"CPT_HOME": str(platform.home)}
    for _ in range(10):  # it waits a second for each answer, which the server may not have while a run begins beside it
        command = [sys.executable, "-m", "flows.cli", "status", "--json"]
        found = json.loads(subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, timeout=60, check=True).stdout)
        if found["server"] and not found["problems"]:
            break
    assert found["server"] == platform.url and found["problems"] == []
    assert found["last_failure"]["name"] == "cut"
    ends = ("no process of it is left", "its process was killed")  # by whom it was found first
    assert found["last_failure"]["reason"].startswith(ends) or ends[0] in found["last_failure"]["reason"]
    assert found["last_failure"]["next"].startswith("cpt run --preset smoke")
    assert [run["flow"] for run in found["running"]] == ["retrain"] and found["running"][0]["deployment"] == "demo"
    assert "retrain/nightly" in {run["deployment"] for run in found["next"]}
    pages = (platform.home / "prefect" / "pages").read_text()
    with urllib.request.urlopen(f"{pages}/metrics", timeout=30) as page:
        metrics = page.read().decode()
    assert 'cpt_flow_runs{flow="retrain",state="running"} 1.0' in metrics and "cpt_server_up 1.0" in metrics
    assert 'cpt_failing{flow="retrain",name="cut"} 1.0' in metrics
    assert 'cpt_disk_bytes{room="prefect"}' in metrics and "cpt_disk_free_bytes" in metrics


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_its_run_is_ended(platform: Platform, corpus: Path) -> None:
    demo = deployment_named(platform, "demo")["id"]
    words = {"preset": "smoke", "source": str(corpus), "set": ["train.steps=100000"]}
    if platform.states(demo)[-1:] != ["RUNNING"]:  # where no test before this one left a run
        platform.run("retrain/demo", **words, name="second")
        wait_until(lambda: platform.states(demo)[-1:] == ["RUNNING"], 90)
    (worker,) = [child for child in psutil.Process(platform.process.pid).children() if "worker" in child.cmdline()]
    flows = worker.children()
    worker.kill()
    wait_until(lambda: platform.states(demo)[-1] == "CRASHED", 90)
    wait_until(lambda: not any(map(is_running, flows)), 5)
    platform.run("retrain/demo", **words, name="third")
    wait_until(lambda: platform.states(demo)[-1] == "RUNNING", 90)
    assert platform.states(demo)[-2:] == ["CRASHED", "RUNNING"]


def test_stopping_up_stops_all_once_the_runs_have_reported_their_end(platform: Platform) -> None:
    (run,) = [run for run in runs_in(platform, "RUNNING") if run["deployment_id"]]
    wait_until(lambda: any(child["parent_task_run_id"] for child in runs_in(platform, "RUNNING")), 120)
    below = psutil.Process(platform.process.pid).children(recursive=True)
    platform.process.send_signal(signal.SIGINT)
    assert platform.process.wait(60) == 0
    assert platform.rows(run["deployment_id"])[-1] == ("CRASHED", "Execution was aborted by a termination signal.")
    wait_until(lambda: not any(map(is_running, below)), 5)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{platform.url}/health", timeout=2)
