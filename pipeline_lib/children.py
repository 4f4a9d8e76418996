"""Child processes that never outlive their parent, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in the child before exec: let the kernel send SIGTERM when the parent's thread ends."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
        env={**os.environ, **env},
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread holds a lock that prctl needs
    )


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes and threads started in the block, and all that these start, do not hear a terminal's Ctrl-C.

    It goes to every process in the foreground; one that is not in a group of its own would die of it, with a traceback, before
    its parent stops it.
    """
    resource_tracker.ensure_running()  # started later, it would lift the block for the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_child(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """SIGTERM to the whole group, and SIGKILL to what is left after the grace."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
