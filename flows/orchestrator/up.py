"""`cpt up`: server, work pool, deployments and worker on loopback, until Ctrl-C; what an earlier one left is closed first."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import typer

from flows.orchestrator.declared import PROJECT
from flows.orchestrator.pages import pages_server
from flows.orchestrator.server import prefect_environment, record_child, shared_server
from pipeline_lib.errors import UserError, redacted
from pipeline_lib.runtime.processes import start_child, stop_child, stop_processes

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.orchestrator.restarts import Restarts
    from flows.orchestrator.server import OwnedServer

WORKER_STOP_SECONDS = 30.0
LOOK_SECONDS = 15.0
PARALLEL_RUNS = 2
TOLD = "`cpt status` says why"
# of a server, a disk, a record that another process wrote, a process that has ended
TROUBLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, httpx.HTTPError, psutil.Error)
AGAIN = "started again after they were cut off"
CLOSED = "closed as Crashed, for nobody works at them any more"


def serve_platform(home: Path, port: int, schedules: bool, restart_lost: int = 0) -> None:
    """Serve Prefect for this artifact root until a signal comes; the runs and the worker stop before the server.

    Args:
        home: the artifact root; Prefect's database and the worker's runs lie below it.
        port: of the UI and the API.
        schedules: switch the cron schedules on, which are deployed paused.
        restart_lost: times that a run is started again which a restart cut off; 0: only where its deployment asks for it.

    Raises:
        UserError: the port is taken, a deployment is refused, or the server ends by itself.
    """
    os.environ.update(prefect_environment(home))
    with shared_server(home, port) as server, pages_server(home, port + 1) as pages:
        venv = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the worker's `python` is this one
        os.environ.update({"PREFECT_API_URL": server.url, "CPT_HOME": str(home), "PIPELINE_HOME": str(PROJECT), "PATH": venv})
        _deploy(schedules)
        from prefect.client.orchestration import get_client  # takes seconds, and reads the environment

        with get_client(sync_client=True) as client:
            _Platform(home, server, client, pages).serve(restart_lost)


class _Platform:
    """The worker beside its server, and what is done about runs that either of them leaves."""

    def __init__(self, home: Path, server: OwnedServer, client: SyncPrefectClient, pages: str) -> None:
        self.home, self.server, self.client, self.pages = home, server, client, pages
        self.log = home / "prefect" / "worker.log"
        self._trouble = ""  # that was said last

    def serve(self, restart_lost: int) -> None:
        """Work until a signal comes."""
        from flows.approval import expire, let_in_again
        from flows.orchestrator.lost_runs import SilenceWatch, skip_missed
        from flows.orchestrator.restarts import Restarts
        from flows.orchestrator.upkeep import UntoldEnds, Upkeep

        stopped, watch, restarts = _stop_signal(), SilenceWatch(), Restarts(self.client, self.home, restart_lost)
        untold, upkeep = UntoldEnds(self.home), Upkeep(self.home, [self.log, self.server.log])
        while not stopped.is_set():
            closed = self._close_lost(restarts)
            self._look(AGAIN, restarts.start)
            self._look("", lambda: skip_missed(self.client))
            with self._worker(restarts) as worker:
                typer.echo(self._welcome())
                while not stopped.wait(LOOK_SECONDS) and worker.poll() is None:
                    if self.server.process.poll() is not None:
                        raise UserError(f"Prefect's server ended by itself; its logs: {self.home / 'prefect' / 'servers'}")
                    self._look("", upkeep.look)
                    self._look(AGAIN, restarts.start)  # of a server that was busy at first
                    silent = self._look(CLOSED, lambda: watch.look(self.client))
                    self._look("held back, for nobody answered", lambda: expire(self.client))
                    self._look("answered, and free to go on", lambda: let_in_again(self.client))
                    self._look(TOLD, partial(untold.look, self.client, at_once=bool(closed or silent)))
                    closed = []
                died = f"the worker ended by itself (exit {worker.poll()}), and is started again; its log: {self.log}"
                typer.echo("stopping the runs, the worker and the server" if stopped.is_set() else died)

    def _look(self, what: str, look: Callable[[], object]) -> list[str]:
        """The names that a look found, which it says; nothing where it failed.

        The nights go on without it: the server may be busy, the disk full or a record damaged; the next look finds the rest.
        """
        from prefect.exceptions import PrefectException

        try:
            found = look()
        except (*TROUBLE, PrefectException) as error:
            told = f"{type(error).__name__}: {redacted(str(error))}"
            if not isinstance(error, httpx.HTTPError) and told != self._trouble:
                self._trouble = told
                typer.echo(f"warning: {told}")
            return []
        names = [str(name) for name in found] if isinstance(found, list) else []
        _say(what, names)
        return names

    @contextlib.contextmanager
    def _worker(self, restarts: Restarts) -> Iterator[subprocess.Popen[bytes]]:
        """A worker for as long as the block lasts; after it, no run of it is left unfinished."""
        from flows.orchestrator.lost_runs import run_processes, worker_name

        words = ["worker", "start", "--pool", "local-process", "--name", worker_name(self.home), "--limit", str(PARALLEL_RUNS)]
        with self.log.open("ab") as output:
            worker = start_child([sys.executable, "-m", "prefect", *words], {}, output, cwd=PROJECT)
        record = record_child(self.home, worker.pid, self.server.url, "worker")
        try:
            yield worker
        finally:
            with contextlib.suppress(httpx.HTTPError, psutil.Error, OSError):  # of a full disk: the worker ends anyway
                restarts.note_ids(id_ for id_, process in run_processes().items() if process.ppid() == worker.pid)
            _stop_worker(worker)
            record.unlink(missing_ok=True)
            with contextlib.suppress(httpx.HTTPError, OSError):  # the server is gone: the next start closes them
                self._close_lost(restarts)

    def _close_lost(self, restarts: Restarts) -> list[str]:
        from flows.orchestrator.lost_runs import close_lost

        closed = close_lost(self.client, self.home, restarts.note)
        _say(CLOSED, closed)
        return closed

    def _welcome(self) -> str:
        from prefect.exceptions import ObjectNotFound

        try:
            found = self.client.read_deployment_by_name("retrain/nightly")
            is_on = not found.paused and any(schedule.active for schedule in found.schedules)
            nightly = "switched on" if is_on else "paused: switch it on in the UI, or start with --schedules"
        except ObjectNotFound:  # a person removed it since the start
            nightly = "removed, until the next start"
        url = self.server.url
        return "\n".join(
            [
                f"Prefect's UI:  {url.removesuffix('/api')}    (worker's log: {self.log})",
                f"Reports:       {self.pages}    (Prometheus: {self.pages}/metrics)",
                f"retrain/nightly is {nightly}.",
                "From another terminal:",
                f"  export PREFECT_API_URL={url}",
                "  prefect deployment run 'retrain/demo' --watch",
                """  prefect deployment run 'evaluate/evaluate' --watch      # of the published model""",
                "Ctrl-C stops all.",
            ]
        )


def _stop_worker(worker: subprocess.Popen[bytes]) -> None:
    """Let its runs report their end, then stop it. Told to stop while they run, it would kill them with no word said."""
    from flows.orchestrator.lost_runs import RUN_STOP_SECONDS

    if worker.poll() is None:
        os.kill(worker.pid, signal.SIGSTOP)  # it must not take the next run in place of one that ends
        stop_processes(psutil.Process(worker.pid).children(), RUN_STOP_SECONDS)
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGCONT)
    stop_child(worker, WORKER_STOP_SECONDS)


def _say(what: str, names: list[str]) -> None:
    if names:
        typer.echo(f"{what}: {', '.join(names)}")


def _stop_signal() -> threading.Event:
    """Set by Ctrl-C, by SIGTERM, and by the end of the terminal, unless `nohup` has that ignored."""
    stopped = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def _deploy(schedules: bool) -> None:
    """Run deployments.py as a process: it imports every flow, 600 MB that this one need not hold for weeks."""
    words = [sys.executable, "-m", "flows.orchestrator.deployments", *(["--schedules"] if schedules else [])]
    answer = subprocess.run(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise UserError(answer.stderr.strip().splitlines()[-1])
