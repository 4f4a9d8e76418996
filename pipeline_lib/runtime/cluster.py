"""Dask cluster of one stage: worker processes on this machine, on loopback, gone when the work is done; and its tasks."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import dask
from distributed import Client, Future, LocalCluster, Security
from distributed.scheduler import KilledWorker

from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.runtime.interruption import postponed
from pipeline_lib.runtime.processes import deaf_children

POLL_SECONDS = 0.2
TASKS_A_WORKER = 3  # in flight: enough to keep a worker busy, few enough that a huge dump does not fill the scheduler
# The first death of a worker may be chance (memory pressure, an impatient operator), the third in a row on one task is not.
ALLOWED_DEATHS = 2
# What a task may raise; it travels as text, since not every exception survives the way between two processes
FAILURES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    EOFError,
)
KEPT_BYTES = 64 * 1024**2  # of free memory that a worker keeps for its next file
NO_WORKER_SECONDS = 180.0  # a restart takes 1 to 2 s, on an overloaded machine 20 s
COUNT_SECONDS = 2.0  # how often the workers are counted: clusters grow and shrink
_OWN = {kind.__name__: kind for kind in (UserError, TransientError)}


def worker_count(configured: int | None, tasks: int) -> int:
    """Worker processes for that many tasks; one a core where none is configured."""
    return max(1, min(configured or len(os.sched_getaffinity(0)), tasks))


@contextmanager
def local_cluster(workers: int, memory_bytes: int) -> Iterator[Client]:
    """A cluster of single-threaded worker processes.

    Its connections are encrypted with a certificate made for the occasion: without one, any local user could hand the
    scheduler a function to run. A worker leaves when its parent dies, be it by SIGKILL.
    """
    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
        # one task a worker and the rest queued at the scheduler: a death is blamed on the task that ran, not on others
        "distributed.scheduler.worker-saturation": 1.0,
        # the default gives a worker up for good that is absent 15 s after an earlier death of it, restarting or not
        "distributed.deploy.lost-worker-timeout": "30 days",
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.active-memory-manager.start": False,
        # Dask's 64 KiB gives the memory of each syntax tree back to the system, only to ask for it again for the next file
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
        "distributed.worker.profile.enabled": False,  # samples the stack 100 times a second
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with dask.config.set(settings), ExitStack() as running:
        # half started, or half stopped, it would leave its processes behind
        with postponed(), deaf_children():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tls",
                security=Security.temporary(),
                dashboard_address="127.0.0.1:0",  # None would still serve HTTP, on port 8787 if that is free
                scheduler_kwargs={"dashboard": False},
                worker_dashboard_address=None,
                memory_limit=memory_bytes,
                silence_logs=logging.CRITICAL,
            )
            running.callback(_postponing, cluster.close)
            client = Client(cluster)
            running.callback(_postponing, client.close)
        yield client


def _postponing(close: Callable[[], None]) -> None:
    with postponed():
        close()


class Killed:
    """Result of a task that killed every worker that it was given to."""


@dataclass(frozen=True)
class Failure:
    """An exception that a task raised, as text.

    Exceptions do not cross the wire themselves: one whose traceback cannot be pickled (a deep recursion is enough) would break
    the client's handler and leave it waiting for ever.
    """

    kind: str
    errno: int | None
    message: str
    traceback: str

    def raise_here(self) -> NoReturn:
        """Raise it in this process: an OSError with its number, ours as they were, anything else as a RuntimeError."""
        if self.errno is not None:
            raise OSError(self.errno, self.message)
        if self.kind in _OWN:
            raise _OWN[self.kind](self.message)
        raise RuntimeError(f"a task failed: {self.message}\n{self.traceback}")


def guarded(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    """The result of `function(*task)`, or the failure that the caller is to raise."""
    try:
        return function(*task)
    except FAILURES as error:  # raised again by run_tasks, in the process that asked
        errno = error.errno if isinstance(error, OSError) else None
        kind = type(error).__name__
        message = os.strerror(errno) if errno else str(error) if kind in _OWN else f"{kind}: {error}"
        return Failure(kind, errno, message, traceback.format_exc(limit=-20))


def run_tasks(
    client: Client,
    function: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    on_result: Callable[[int, Any], None],
    tick: Callable[[], None],
    wait_seconds: float = NO_WORKER_SECONDS,
) -> None:
    """Run `function(*task)` for each task, a few a worker at a time. Dask repeats a task whose worker died, nothing else.

    Args:
        tasks: asked for as workers become free; a task may be made when it is asked for.
        on_result: called with a task's index and its result, or `Killed`, in the order of completion.
        tick: called several times a second while waiting.
        wait_seconds: how long there may be no worker at all.

    Raises:
        OSError, UserError, RuntimeError: what a task raised.
        TransientError: a task raised it, or no worker process comes up any more.
    """
    waiting = enumerate(tasks)
    index_of: dict[str, int] = {}
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()

    def submit_up_to(limit: int) -> None:
        while len(index_of) < limit and (following := next(waiting, None)) is not None:
            index, task = following
            future = client.submit(guarded, function, task, pure=False)
            index_of[str(future.key)] = index
            future.add_done_callback(ended.put)

    crew = _Crew(client, wait_seconds)
    submit_up_to(TASKS_A_WORKER * crew.count())
    while index_of:
        with contextlib.suppress(queue.Empty):
            future = ended.get(timeout=POLL_SECONDS)
            on_result(index_of.pop(str(future.key)), _result(future))
        submit_up_to(TASKS_A_WORKER * crew.count())
        tick()


class _Crew:
    """The number of workers now, and the error when none comes up any more: Dask would wait for ever."""

    def __init__(self, client: Client, wait_seconds: float) -> None:
        self.client = client
        self.wait_seconds = wait_seconds
        self.seen = time.monotonic()
        self.asked, self.workers = -COUNT_SECONDS, 0

    def count(self) -> int:
        """The number at the last count, no more than two seconds ago; 1 where all have just died and are being restarted."""
        now = time.monotonic()
        if now - self.asked >= COUNT_SECONDS:
            self.asked = now
            self.workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
            if self.workers:
                self.seen = now
            elif now - self.seen > self.wait_seconds:
                since = f"no worker process has come up for {self.wait_seconds:.0f} s"
                raise TransientError(f"{since}: is memory used up, or the number of processes?")
        return max(1, self.workers)


def _result(future: Future) -> Any:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Killed()
    if error is not None:
        raise error
    result = future.result()
    if isinstance(result, Failure):
        result.raise_here()
    return result
