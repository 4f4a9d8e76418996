"""Child processes that never outlive their parent, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CODE = Path(__file__).resolve().parents[2]  # the folder that this very code is imported from


def stamp_of(pid: int) -> str:
    """What tells a process from all that had its number or will have it, whatever becomes of the clock.

    It is the machine's start, and the seconds from there to the process's: a time of day would change with the clock, which a
    machine may set long after it has started.
    """
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    return f"{boot} {psutil.Process(pid).create_time() - psutil.boot_time():.2f}"


def is_stamped(pid: int, stamp: object) -> bool:
    """True if the process of that number and stamp runs; of an earlier version's records the stamp is its time of day."""
    try:
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - stamp) < 1 if isinstance(stamp, int | float) else stamp_of(pid) == stamp
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _before_exec() -> None:
    """Runs in the child: Ctrl-C as a program expects it, and SIGTERM from the kernel when the parent's thread ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored below `nohup cpt up &`, and a Prefect worker stops by it
    end_with_parent()


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent's thread ends."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _put_code_first() -> None:
    """Have processes that take over this path import this very code: beside a clone an older copy may be installed."""
    if str(CODE) not in sys.path:
        sys.path.insert(0, str(CODE))


def _code_path() -> dict[str, str]:
    """The same for a program, by its environment; nothing for an installed copy, which is found."""
    if "site-packages" in CODE.parts:
        return {}
    rest = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place != str(CODE)]
    return {"PYTHONPATH": os.pathsep.join([str(CODE), *rest])}


def start_child(
    command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | int | None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own that gets SIGTERM when this one ends.

    Args:
        command: the words; never a shell line.
        env: added to this process's environment.
        output: a file or subprocess constant for stdout and stderr together.
        cwd: its working folder.

    Raises:
        OSError: the program cannot be started.
    """
    return subprocess.Popen(
        list(command),
        env={**os.environ, **_code_path(), **env},
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_before_exec,  # noqa: PLW1509 - no other thread holds a lock that prctl needs
    )


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes and threads started in the block, and all that these start, do not hear a terminal's Ctrl-C.

    It goes to every process in the foreground; one that is not in a group of its own would die of it, with a traceback, before
    its parent stops it.
    """
    _put_code_first()
    resource_tracker.ensure_running()  # started later, it would lift the block for the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_child(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """SIGTERM to the whole group, and SIGKILL to what is left of its tree after the grace, other groups included."""
    below = descendants(child.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below this one; empty where it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_running(process: psutil.Process) -> bool:
    """True if it has not ended; a zombie, which nobody has waited for yet, has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop_processes(roots: Sequence[psutil.Process], grace_seconds: float) -> None:
    """SIGTERM to processes that need not be children of this one; SIGKILL to what is left of their trees after the grace."""
    tree = [*roots, *(below for root in roots for below in descendants(root.pid))]
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root.terminate()
    deadline = time.monotonic() + grace_seconds
    while any(is_running(process) for process in tree) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
