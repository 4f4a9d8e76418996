"""`cpt up`: server, work pool, deployments and worker on loopback, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import typer

from flows.server import prefect_environment, shared_server
from pipeline_lib.children import start_child, stop_child
from pipeline_lib.errors import UserError

WORK_POOL = "local-process"
PROJECT = Path(__file__).resolve().parents[1]
WORKER_STOP_SECONDS = 30.0
PARALLEL_RUNS = 2


def serve_platform(home: Path, port: int, schedules: bool) -> None:
    """Serve Prefect for this artifact root until a signal comes; the worker stops before the server.

    Args:
        home: the artifact root; Prefect's database and the worker's runs lie below it.
        port: of the UI and the API.
        schedules: switch the cron schedules on, which are deployed paused.

    Raises:
        UserError: the port is taken, or a deployment is refused.
    """
    os.environ.update(prefect_environment(home))
    with shared_server(home, port) as url:
        env = {"PREFECT_API_URL": url, "CPT_HOME": str(home), "PIPELINE_HOME": str(PROJECT), "PATH": _path_with_venv()}
        _prefect(env, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _prefect(env, "--no-prompt", "deploy", "--all")
        if schedules:
            _prefect(env, "--no-prompt", "deployment", "schedule", "resume", "--all")
        log = home / "prefect" / "worker.log"
        with log.open("ab") as output:
            worker = start_child(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--limit", str(PARALLEL_RUNS)],
                env,
                output,
                cwd=PROJECT,
            )
        try:
            typer.echo(_welcome(url, log, schedules))
            _wait_for_signal()
            typer.echo("stopping the worker and the server")
        finally:
            stop_child(worker, WORKER_STOP_SECONDS)


def _welcome(url: str, log: Path, schedules: bool) -> str:
    nightly = "switched on" if schedules else "paused: switch it on in the UI, or start with --schedules"
    return "\n".join(
        [
            f"Prefect's UI:  {url.removesuffix('/api')}    (worker's log: {log})",
            f"retrain/nightly is {nightly}.",
            "From another terminal:",
            f"  export PREFECT_API_URL={url}",
            "  prefect deployment run 'retrain/demo' --watch",
            """  prefect deployment run 'evaluate/manual' -p 'params={"preset": "demo", "checkpoint": "step-000100"}'""",
            "Ctrl-C stops all.",
        ]
    )


def _wait_for_signal() -> None:
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()


def _prefect(env: dict[str, str], *words: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        env={**os.environ, **env},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        tail = (answer.stdout + answer.stderr).strip().splitlines()[-3:]
        raise UserError(f"`prefect {' '.join(words)}` failed: {' '.join(tail)}")


def _path_with_venv() -> str:
    """PATH with this interpreter's folder first, so that the worker's `prefect` and `python` are these."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
