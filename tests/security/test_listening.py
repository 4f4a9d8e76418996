"""Nothing listens beyond loopback by default: server, worker, Dask's scheduler and workers, trainers and their rendezvous."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.orchestrator.api import answer_to
from flows.orchestrator.server import free_port

PROJECT = Path(__file__).parents[2]
LISTEN = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def listening() -> dict[str, str]:
    """Inode of each listening socket of this machine to its address in hexadecimal, as the kernel has it."""
    rows = [line.split() for table in TABLES if Path(table).exists() for line in Path(table).read_text().splitlines()[1:]]
    return {row[9]: row[1].split(":")[0] for row in rows if row[3] == LISTEN}


def sockets_of(pid: int) -> dict[str, str]:
    """Command line and inode of each listening socket of a process and all below it, to its address."""
    found: dict[str, str] = {}
    at = listening()
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in tree:
        links = []
        with suppress(OSError, psutil.Error):  # it ends meanwhile
            name = " ".join(process.cmdline())
            for path in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    links.append(str(path.readlink()))
        inodes = [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]
        found |= {f"{name} #{inode}": at[inode] for inode in inodes if inode in at}
    return found


def ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(answer_to(request, 30) or "null")


@pytest.mark.slow
@pytest.mark.skipif(not Path(TABLES[0]).exists(), reason="no /proc/net: another system than Linux")
def test_a_platform_at_work_listens_on_loopback_alone(tmp_path: Path, corpus: Path) -> None:
    port = free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.cli", "up", "--port", str(port)]
    with (tmp_path / "said").open("wb") as said:
        platform = subprocess.Popen(command, env=kept | {"CPT_HOME": str(tmp_path)}, cwd=PROJECT, stdout=said, stderr=said)
    seen: dict[str, str] = {}
    try:
        deadline = time.monotonic() + 180
        while b"Ctrl-C stops all" not in (tmp_path / "said").read_bytes():
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.5)
        url = f"http://127.0.0.1:{port}/api"
        (smoke,) = [found for found in ask(f"{url}/deployments/filter", {}) if found["name"].startswith("smoke")]
        words = ["train.processes=2", "extract.workers=2", "train.threads=1"]
        params = {"preset": "smoke", "source": str(corpus), "set": words}
        run = ask(f"{url}/deployments/{smoke['id']}/create_flow_run", {"parameters": {"params": params}})
        deadline = time.monotonic() + 400
        while ask(f"{url}/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]["state_type"] != "COMPLETED":
            assert time.monotonic() < deadline, (tmp_path / "prefect" / "worker.log").read_text()[-3000:]
            seen |= sockets_of(platform.pid)
            time.sleep(0.1)
    finally:
        platform.send_signal(signal.SIGINT)
        platform.wait(90)
    for kind in ("prefect server", "spawn_main", "pipeline_lib.train"):
        assert any(kind in name for name in seen), f"{kind} was not seen at work: {sorted(seen)}"
    assert {name: address for name, address in seen.items() if address not in LOOPBACK} == {}


def test_the_kernels_table_is_read_aright() -> None:
    with socket.socket() as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 0))
        outside.bind(("0.0.0.0", 0))
        for one in (inside, outside):
            one.listen()
        addresses = list(sockets_of(os.getpid()).values())
    assert LOOPBACK[0] in addresses
    assert "00000000" in addresses
