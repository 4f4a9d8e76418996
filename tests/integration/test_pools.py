"""Work pools by role: one flow, its trainer and index on another pool's worker; and Prefect on PostgreSQL with two workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from corpus import write_corpus
from postgres_server import PASSWORD, Server, programs, running

from flows.orchestrator.api import answer_to
from flows.orchestrator.server import free_port, prefect_environment
from pipeline_lib.search.registry import history

PROJECT = Path(__file__).parents[2]
SOURCES = ("flows", "tasks", "pipeline_lib", "data_contracts", "deploy", "pyproject.toml")
ON_GPU = {"train", "evaluate_suite", "check_evaluations", "select", "export", "card", "index", "negatives", "batch_advice"}
FIRST = "cpu-worker"
SECOND = "gpu-worker"
PATIENCE = 3


class Cluster:
    """A Prefect server with workers of two pools, all on this machine; each worker clones the code."""

    def __init__(self, home: Path, repository: Path, **env: str) -> None:
        self.home, self.repository = home, repository
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_") and key != "PYTHONPATH"}
        own = {"PREFECT_API_URL": self.url, "CPT_HOME": str(home), "CPT_REPOSITORY": f"file://{repository}"}
        self.env = kept | prefect_environment(home) | own | {"CPT_REVISION": "main", "OMP_NUM_THREADS": "1"} | env
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, log: str, **env: str) -> subprocess.Popen[bytes]:
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        folder = self.home / "cwd" / log
        folder.mkdir(parents=True, exist_ok=True)
        with (self.home / "logs" / log).open("ab") as output:
            command = [sys.executable, "-m", "prefect", *words]
            child = subprocess.Popen(command, env=self.env | env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        self.started.append(child)
        return child

    def serve(self) -> None:
        server = self.start("server", "start", "--host", "127.0.0.1", "--port", str(self.port), log="server")
        wait_for(lambda: self.is_healthy() or self._ended(server), 120)

    def _ended(self, server: subprocess.Popen[bytes]) -> bool:
        assert server.poll() is None, (self.home / "logs" / "server").read_text()[-3000:]
        return False

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def prefect(self, *words: str) -> None:
        command = [sys.executable, "-m", "prefect", *words]
        answer = subprocess.run(
            command, env=self.env, cwd=self.repository, capture_output=True, text=True, timeout=120, check=False
        )
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]

    def deploy(self) -> None:
        for pool in ("cpu", "gpu"):
            self.prefect("work-pool", "create", pool, "--type", "process")
        self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml")

    def worker(self, pool: str, name: str, **env: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "start", "--pool", pool, "--name", name, "--limit", "2", log=name, **env)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        for _ in range(PATIENCE):
            with suppress(TimeoutError):  # the machine may be overloaded
                return json.loads(answer_to(request, 60) or "null")
        raise TimeoutError(f"{path}: Prefect's server does not answer")

    def run(self, flow: str, name: str, **params: Any) -> str:
        (deployment,) = self.post(
            "deployments/filter", {"deployments": {"name": {"any_": [name]}}, "flows": {"name": {"any_": [flow]}}}
        )
        run = self.post(
            f"deployments/{deployment['id']}/create_flow_run",
            {"parameters": {"params": params}, "state": {"type": "SCHEDULED"}},
        )
        return str(run["id"])

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        return self.post("flow_runs/filter", {"flow_runs": wanted, "sort": "START_TIME_ASC"})

    def ended(self, run_id: str) -> bool:
        (run,) = self.runs(id={"any_": [run_id]})
        return run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def told(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in (self.home / "logs").iterdir())

    def stop(self) -> None:
        for child in reversed(self.started):
            kill_tree(child.pid)
            child.wait(10)


def kill_tree(pid: int) -> None:
    """A power cut of a machine: a process and all below it, at once."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree, timeout=10)


def wait_for(done: Any, seconds: float) -> None:
    began = time.monotonic()
    while not done():
        # how many jobs share each core just now: 1 on a machine of one's own
        slowness = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
        assert time.monotonic() < began + seconds * slowness, f"not within {seconds:.0f} s"
        time.sleep(0.5)


@contextmanager
def cluster(home: Path, repository: Path, **env: str) -> Iterator[Cluster]:
    made = Cluster(home, repository, **env)
    try:
        made.serve()
        made.deploy()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's sources as a repository that workers clone."""
    place = tmp_path_factory.mktemp("repository") / "cpt-factory"
    for name in SOURCES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *words], cwd=place, check=True)
    return place


def manifests(home: Path) -> dict[str, bytes]:
    """Every artifact of a store: STAGE/KEY to its manifest's bytes."""
    return {
        path.parent.relative_to(home / "store").as_posix(): path.read_bytes()
        for path in (home / "store").glob("*/*/manifest.json")
    }


def workers(home: Path) -> dict[str, set[str]]:
    """Stage to the workers that made an artifact of it, as each noted down."""
    found: dict[str, set[str]] = {}
    for note in (home / "store").glob("*/*/run.json"):
        found.setdefault(note.parent.parent.name, set()).add(json.loads(note.read_bytes())["worker"])
    return found


def in_process(home: Path, corpus: Path, env: dict[str, str]) -> dict[str, bytes]:
    """What the same run makes in one process."""
    command = [sys.executable, "-m", "flows.cli", "run", "--preset", "smoke", "--source", str(corpus)]
    subprocess.run(command, env=env | {"CPT_HOME": str(home)}, cwd=PROJECT, capture_output=True, timeout=400, check=True)
    return manifests(home)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trainer_and_index_run_on_the_gpu_pool_and_make_the_same_artifacts(
    tmp_path: Path, corpus: Path, repository: Path
) -> None:
    home = tmp_path / "home"
    with cluster(home, repository) as made:
        made.worker("cpu", FIRST)
        made.worker("gpu", SECOND)
        run_id = made.run("retrain", "by-hand", preset="smoke", source=str(corpus), set=["pools.gpu=gpu"])
        wait_for(lambda: made.ended(run_id), 400)
        (run,) = made.runs(id={"any_": [run_id]})
        assert run["state_type"] == "COMPLETED", f"{run['state']['message']}\n{made.told()}"
        of_pools = {run["name"]: run["work_pool_name"] for run in made.runs() if run["work_pool_name"]}
        assert sorted(of_pools.values()) == ["cpu", "gpu", "gpu", "gpu"], "training, publication, and its figures"
        by_worker = workers(home)
        assert {stage for stage, names in by_worker.items() if SECOND in names} >= {
            "train",
            "evaluate_suite",
            "export",
            "index",
        }
        assert all(names == {SECOND} for stage, names in by_worker.items() if stage in ON_GPU), by_worker
        assert all(names == {FIRST} for stage, names in by_worker.items() if stage not in ON_GPU), by_worker
        alone = in_process(tmp_path / "alone", corpus, made.env)
    assert manifests(home) == alone


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gpu_worker_that_is_lost_is_replaced_and_no_artifact_differs(tmp_path: Path, corpus: Path, repository: Path) -> None:
    home = tmp_path / "home"
    with cluster(home, repository) as made:
        made.worker("cpu", FIRST)
        lost = made.worker("gpu", "lost-worker")
        words = ["pools.gpu=gpu", "pools.silence_seconds=60"]
        run_id = made.run("retrain", "by-hand", preset="smoke", source=str(corpus), set=words)
        wait_for(lambda: any((home / "store" / "train").glob("*/timing.jsonl")), 300)
        kill_tree(lost.pid)
        made.worker("gpu", SECOND)
        wait_for(lambda: made.ended(run_id), 600)
        (run,) = made.runs(id={"any_": [run_id]})
        assert run["state_type"] == "COMPLETED", f"{run['state']['message']}\n{made.told()}"
        gpu = [run["state_type"] for run in made.runs() if run["work_pool_name"] == "gpu"]
        assert gpu == ["CRASHED", "COMPLETED", "COMPLETED", "COMPLETED"]
        assert workers(home)["train"] == {SECOND}
        alone = in_process(tmp_path / "alone", corpus, made.env)
    assert manifests(home) == alone


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_flow_s_run_is_found_again_and_a_cancelled_flow_s_is_cancelled(
    tmp_path: Path, corpus: Path, repository: Path
) -> None:
    home = tmp_path / "home"
    params = {"preset": "smoke", "source": str(corpus), "set": ["pools.gpu=gpu", "train.steps=100000"]}
    with cluster(home, repository) as made:
        lost = made.worker("cpu", "lost-worker")
        made.worker("gpu", SECOND)

        def on_gpu() -> list[str]:
            return [run["state_type"] for run in made.runs() if run["work_pool_name"] == "gpu"]

        made.run("retrain", "by-hand", **params)
        wait_for(lambda: any((home / "store" / "train").glob("*/timing.jsonl")), 300)
        kill_tree(lost.pid)
        made.worker("cpu", FIRST)
        again = made.run("retrain", "by-hand", **params)
        wait_for(lambda: "on the work pool gpu" in (home / "logs" / FIRST).read_text(), 200)
        assert on_gpu() == ["RUNNING"], "the run that was left, and no second one"
        made.post(f"flow_runs/{again}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: made.ended(again) and on_gpu() == ["CANCELLED"], 120)
        (run,) = made.runs(id={"any_": [again]})
        assert run["state_type"] == "CANCELLED"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_nodes_of_the_pool_train_as_one(tmp_path: Path, corpus: Path, repository: Path) -> None:
    home = tmp_path / "home"
    with cluster(home, repository) as made:
        made.worker("cpu", FIRST)
        for name in ("node-a", "node-b"):
            made.worker("gpu", name)
        words = ["pools.gpu=gpu", "train.nodes=2", "train.processes=1"]
        run_id = made.run("retrain", "by-hand", preset="smoke", source=str(corpus), set=words)
        wait_for(lambda: made.ended(run_id), 500)
        (run,) = made.runs(id={"any_": [run_id]})
        assert run["state_type"] == "COMPLETED", f"{run['state']['message']}\n{made.told()}"
        gpu = [run for run in made.runs() if run["work_pool_name"] == "gpu"]
        wait_for(lambda: all(made.ended(run["id"]) for run in gpu), 60)
        assert [run["state_type"] for run in made.runs() if run["work_pool_name"] == "gpu"] == ["COMPLETED"] * 4
        jobs = [json.loads(path.read_text())["config"] for path in (home / "store" / "train").glob("*/job*.json")]
        assert {job["node_rank"] for job in jobs} == {0, 1}
        assert len({job["rendezvous"] for job in jobs}) == 1
        assert len(list((home / "store" / "train").glob("*/manifest.json"))) == 1


STAGES = ("extract", "validate", "curate", "tokenizer", "shards", "check-shards")


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A PostgreSQL of this test's own."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql: apt-get install postgresql")
    with running(found) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_postgresql_two_workers_do_runs_at_once_and_every_state_is_kept(
    tmp_path: Path, repository: Path, postgres: Server
) -> None:
    home = tmp_path / "home"
    sources = [write_corpus(tmp_path / f"corpus-{seed}", packages=6, functions=6, seed=seed) for seed in range(5)]
    with cluster(home, repository, PREFECT_API_DATABASE_CONNECTION_URL=postgres.url) as made:
        for name in (FIRST, "other-worker"):
            made.worker("cpu", name)
        ids = [made.run("build-dataset", "by-hand", preset="smoke", source=str(source)) for source in sources]
        wait_for(lambda: all(map(made.ended, ids)), 500)
        runs = made.runs(id={"any_": ids})
        assert [run["state_type"] for run in runs] == ["COMPLETED"] * len(ids), made.told()
        assert {run["labels"]["prefect.worker.name"] for run in runs} == {FIRST, "other-worker"}
        for run_id in ids:
            tasks = made.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
            assert {task["name"].rsplit("-", 1)[0]: task["state_type"] for task in tasks} == dict.fromkeys(STAGES, "COMPLETED")
        assert asked(postgres, "select count(*) from flow_run where state_type = 'COMPLETED'") == str(len(ids))
        assert not list(home.rglob("prefect.db")), "nothing is kept in SQLite"
        found = [path for path in home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
        assert found == []


def asked(postgres: Server, query: str) -> str:
    """What the database itself says."""
    return postgres.psql("-c", query).strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_postgresql_a_whole_run_by_workers_of_two_pools_makes_what_one_process_makes(
    tmp_path: Path, corpus: Path, repository: Path, postgres: Server
) -> None:
    home = tmp_path / "home"
    with cluster(home, repository, PREFECT_API_DATABASE_CONNECTION_URL=postgres.url) as made:
        words = {"preset": "smoke", "source": str(corpus), "set": ["pools.gpu=gpu"]}
        ids = [made.run("retrain", "by-hand", **words)]
        wait_for(lambda: made.runs(id={"any_": ids})[0]["state_name"] == "Late", 120)  # as long as no worker takes it
        made.worker("cpu", FIRST)
        made.worker("gpu", SECOND)
        wait_for(lambda: made.ended(ids[0]), 500)
        ids.append(made.run("evaluate", "by-hand", preset="smoke", source=str(corpus), split="validation"))
        wait_for(lambda: made.ended(ids[1]), 300)
        assert [run["state_type"] for run in made.runs(id={"any_": ids})] == ["COMPLETED"] * 2, made.told()
        assert asked(postgres, "select count(*) from flow_run where state_type <> 'COMPLETED'") == "0"
        assert asked(postgres, "select count(*) from task_run where state_type <> 'COMPLETED'") == "0"
        tasks = asked(postgres, "select distinct regexp_replace(name, '-[^-]*$', '') from task_run").split()
        assert {*STAGES, "train", "select", "export", "card", "index", "hardest-negatives", "report"} <= set(tasks)
        assert int(asked(postgres, "select count(*) from log")) > 10
        assert int(asked(postgres, "select count(*) from events")) > 50
        assert int(asked(postgres, "select count(*) from artifact where type = 'table'")) >= 8
        assert [event["event"] for event in history(home, corpus.name)] == ["tried"]
        assert not list(home.rglob("prefect.db")), "nothing is kept in SQLite"
        alone = in_process(tmp_path / "alone", corpus, made.env)
    found = manifests(home)
    assert {name: found.get(name) for name in alone} == alone
