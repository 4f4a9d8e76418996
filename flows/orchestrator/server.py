"""A Prefect server of our own: its home, database, port and pid lie under the artifact root, on loopback.

Another server is used only where PREFECT_API_URL names one. Import this before prefect: it sets prefect's environment.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline_lib.errors import UserError
from pipeline_lib.runtime.processes import is_stamped, stamp_of, start_child, stop_child, stop_processes
from pipeline_lib.store.files import exclusive, replace_file

HOST = "127.0.0.1"
START_SECONDS = 300.0  # two minutes are not enough on a machine on which much begins at once; one that died is not waited for
STOP_SECONDS = 10.0
ANSWER_SECONDS = 10.0
STALE_LOCK_SECONDS = 10.0  # held for milliseconds


def prefect_environment(home: Path) -> dict[str, str]:
    """Prefect's settings for this artifact root: its own home, nothing sent anywhere, leases that outlive the server."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
        # in memory, as is the default, a restart forgets who holds a deployment's slot, and nobody gives it back
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # of a failed run's exception: nothing here is pickled
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The API address of a healthy server for as long as the block lasts.

    Uses PREFECT_API_URL where it is set, else the server of a running `cpt up` of the same home, else starts one on a free
    port and stops it afterwards. What a killed run left behind is stopped first.

    Raises:
        UserError: the server does not answer within START_SECONDS; the message names its log.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if not _answers(given):
            raise UserError(f"PREFECT_API_URL {given}: no server answers; start it, or unset the variable to have one started")
        yield given
        return
    with _lock(home):
        found = _reap(home)
        owned = None if found else _start(home, free_port(), "run")
        url = found or owned.url  # type: ignore[union-attr]
    os.environ["PREFECT_API_URL"] = url
    try:
        yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        if owned:
            owned.stop()


@contextlib.contextmanager
def shared_server(home: Path, port: int) -> Iterator[OwnedServer]:
    """The server of `cpt up`, on a fixed port: runs of the same home find it and use it.

    Raises:
        UserError: the port is taken.
    """
    with _lock(home):
        if found := _reap(home):
            raise UserError(f"a server of {home} runs already at {found}: stop it first, or use it")
        if not port_is_free(port):
            raise UserError(f"port {port} on {HOST} is in use: stop what listens there, or choose another with --port")
        _forget_stale_lock(home)
        owned = _start(home, port, "up")
    try:
        yield owned
    finally:
        owned.stop()


class OwnedServer:
    """A server process that this process started, with its pid file."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, record: Path, log: Path) -> None:
        self.process = process
        self.url = url
        self.record = record
        self.log = log

    def stop(self) -> None:
        stop_child(self.process, STOP_SECONDS)
        self.record.unlink(missing_ok=True)


def record_child(home: Path, pid: int, url: str, role: str) -> Path:
    """A file by which the next start finds a child of this process, and stops it if its owner was killed."""
    record = home / "prefect" / "servers" / f"{pid}.json"
    entry = {
        "pid": pid,
        "created": stamp_of(pid),
        "owner": os.getpid(),
        "owner_created": stamp_of(os.getpid()),
        "url": url,
        "role": role,
    }
    replace_file(record, json.dumps(entry).encode())
    return record


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """True if a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_healthy(url: str, seconds: float = 2.0) -> bool:
    """True if the API answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as answer:  # noqa: S310 - a loopback address of ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _answers(url: str) -> bool:
    """True if anybody answers there, with whatever: a server of others may want a login or a certificate."""
    try:
        is_there = urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS)  # noqa: S310 - an address that the user gave
        is_there.close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _start(home: Path, port: int, role: str) -> OwnedServer:
    folder = home / "prefect" / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{role}-{port}.log"
    url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    log.unlink(missing_ok=True)
    with log.open("ab") as output:  # for appending: `cpt up` moves what is written meanwhile to a second file
        process = start_child(command, {**prefect_environment(home), "PREFECT_API_URL": url}, output)
    server = OwnedServer(process, url, record_child(home, process.pid, url, role), log)
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            raise UserError(f"the Prefect server did not start on port {port}; its log: {log}")
        time.sleep(0.1)
    return server


def _reap(home: Path) -> str | None:
    """Stop servers and workers whose owner is gone, forget dead ones; the address of a living `cpt up` server, or None."""
    for record in sorted((home / "prefect" / "servers").glob("*.json")):
        entry = json.loads(record.read_text())
        if not is_stamped(entry["pid"], entry["created"]):
            record.unlink(missing_ok=True)
        elif not is_stamped(entry["owner"], entry["owner_created"]):
            with contextlib.suppress(psutil.NoSuchProcess):
                stop_processes([psutil.Process(entry["pid"])], STOP_SECONDS)
            record.unlink(missing_ok=True)
        elif entry["role"] == "up" and is_healthy(entry["url"], ANSWER_SECONDS):  # it lives, and may only be busy
            return str(entry["url"])
    return None


def _forget_stale_lock(home: Path) -> None:
    """Remove the lock of Prefect's leases that a power cut left: it holds a pid, which another program may have by now."""
    with contextlib.suppress(FileNotFoundError):
        lock = home / "prefect" / "concurrency_leases" / "expirations.lock"
        if time.time() - lock.stat().st_mtime > STALE_LOCK_SECONDS:
            lock.unlink()


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One start at a time: two first starts on a new home would both create the database, and fail."""
    with exclusive(home / "prefect" / "start.lock"):
        yield
