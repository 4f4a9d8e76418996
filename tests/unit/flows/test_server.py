"""The server of our own: found, refused, reaped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from flows.orchestrator import server, up
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.processes import start_child, stop_child


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use") as caught,
            server.shared_server(tmp_path, port),
        ):
            pytest.fail("started on a port in use")
    assert "\n" not in str(caught.value)


def test_what_a_killed_owner_left_is_stopped_by_the_next_start(tmp_path: Path) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    folder = tmp_path / "prefect" / "servers"
    folder.mkdir(parents=True)
    record = {
        "pid": orphan.pid,
        "created": psutil.Process(orphan.pid).create_time(),
        "owner": 2**22 + 1,  # above the largest pid: nobody
        "owner_created": 0.0,
        "url": "http://127.0.0.1:1/api",
        "role": "run",
    }
    (folder / f"{orphan.pid}.json").write_text(json.dumps(record))
    assert server._reap(tmp_path) is None
    orphan.wait(10)
    assert not psutil.pid_exists(orphan.pid)
    assert not list(folder.iterdir())


def test_a_server_that_is_busy_is_used_and_no_second_one_is_started(tmp_path: Path) -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(3)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer((server.HOST, 0), Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        url = f"http://{server.HOST}:{busy.server_port}/api"
        server.record_child(tmp_path, os.getpid(), url, "up")
        assert server._reap(tmp_path) == url
        busy.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="where psutil asks for the time of the start is the system's own")
def test_a_server_is_found_whatever_the_clock_was_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start_child([sys.executable, "-c", "import time; time.sleep(60)"], {}, None)
    record = server.record_child(tmp_path, child.pid, "http://127.0.0.1:1/api", "run")
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before - 7200)  # as after a step of the clock
    monkeypatch.setattr("psutil.boot_time", lambda: before - 7200)
    try:
        assert server._reap(tmp_path) is None
        assert record.exists() and child.poll() is None, "else a second server would start on the same database"
    finally:
        stop_child(child, 10)


def test_a_process_with_a_recycled_pid_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "prefect" / "servers"
    folder.mkdir(parents=True)
    record = {"pid": os.getpid(), "created": 1.0, "owner": 1, "owner_created": 0.0, "url": "", "role": "run"}
    (folder / "x.json").write_text(json.dumps(record))
    assert server._reap(tmp_path) is None
    assert not list(folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pipeline_lib.runtime.processes import start_child\n"
        "child = start_child([sys.executable, '-c', 'import time; time.sleep(60)'], {}, None)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def test_stopping_ends_a_child_that_ignores_sigterm() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    child = start_child([sys.executable, "-c", program], {}, subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    stop_child(child, 0.2)
    assert child.returncode == -9


def test_ctrl_c_reaches_the_child_of_a_parent_that_ignores_it() -> None:
    program = "print(flush=True); import time; time.sleep(60)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as below `nohup ... &`
    try:
        child = start_child([sys.executable, "-c", program], {}, subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    try:
        assert child.wait(10) == -signal.SIGINT
    finally:
        stop_child(child, 0.1)


def test_stopping_ends_what_a_child_started_in_a_session_of_its_own() -> None:
    program = (
        "import subprocess, sys\n"
        "inner = [sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)']\n"
        "below = subprocess.Popen(inner, start_new_session=True); print(below.pid, flush=True); below.wait()"
    )
    child = start_child([sys.executable, "-c", program], {}, subprocess.PIPE)
    assert child.stdout is not None
    below = psutil.Process(int(child.stdout.readline()))
    stop_child(child, 5)
    below.wait(10)
    assert not below.is_running()


def test_the_platform_outlives_a_look_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform = up._Platform(tmp_path, None, None, "")  # type: ignore[arg-type]  # a look is given what it asks

    def full() -> list[str]:
        raise OSError(28, "No space left on device")

    assert [platform._look("told", look) for look in (full, full, lambda: ["a-night"])] == [[], [], ["a-night"]]
    said = capsys.readouterr().out
    assert said.count("No space left on device") == 1 and "told: a-night" in said
