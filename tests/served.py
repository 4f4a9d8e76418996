"""A Prefect server of our own and `cpt up` as it runs, for the tests that ask one."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil

from flows.orchestrator.api import answer_to

PROJECT = Path(__file__).parents[1]


class Served(NamedTuple):
    """A client of a server of our own, and the server's home."""

    client: Any
    home: Path


def runs_of(served: Served, deployment: UUID) -> list[dict[str, Any]]:
    """The runs of a deployment, the earliest first."""
    wanted = {"flow_runs": {"deployment_id": {"any_": [str(deployment)]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(served.client.request("POST", "/flow_runs/filter", json=wanted).json())


class Platform:
    """`cpt up` as it runs: its API, what it said, its process and its artifact root; may be started again."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port, self.url = home, port, f"http://127.0.0.1:{port}/api"

    def start(self, *words: str, before_exec: Callable[[], object] | None = None) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up", "--port", str(self.port), *words],
            env=kept | {"CPT_HOME": str(self.home)},
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=before_exec,
        )
        assert self.process.stdout is not None
        self.said = ""
        while "Ctrl-C stops all" not in self.said:
            line = self.process.stdout.readline()
            assert line, f"cpt up ended: {self.said}"
            self.said += line

    def cut(self) -> None:
        """A power cut: SIGKILL to it and to all below it, at once."""
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in tree:
            process.send_signal(signal.SIGSTOP)
        for process in tree:
            process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def run(self, deployment: str, **params: Any) -> None:
        words = ["deployment", "run", deployment, "-p", f"params={json.dumps(params)}"]
        command = [sys.executable, "-m", "prefect", *words]
        subprocess.run(command, env={**os.environ, "PREFECT_API_URL": self.url}, capture_output=True, timeout=60, check=True)

    def states(self, deployment_id: str) -> list[str]:
        """State types of a deployment's runs, the oldest first."""
        return [row[0] for row in self.rows(deployment_id)]

    def rows(self, deployment_id: str) -> list[tuple[str, str]]:
        """State types and messages of a deployment's runs; read from the disk, where a stopped server left them."""
        with sqlite3.connect(f"file:{self.home}/prefect/prefect.db?mode=ro", uri=True) as database:
            wanted = (
                "select run.state_type, state.message from flow_run run join flow_run_state state on state.id = run.state_id"
                " where run.deployment_id = ? order by run.created"
            )
            return database.execute(wanted, (deployment_id,)).fetchall()


def post(url: str, body: Any, method: str = "POST") -> list[dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
    return json.loads(answer_to(request, 10) or "[]")


def runs_in(platform: Platform, state: str) -> list[dict[str, Any]]:
    return post(f"{platform.url}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}})


def deployment_named(platform: Platform, name: str) -> dict[str, Any]:
    return next(found for found in post(f"{platform.url}/deployments/filter", {}) if found["name"] == name)


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.5)
