"""Locks of the processes at work in a store: each holds a lock file while it lives, and its scratch folders carry its name.

The kernel frees the lock of a killed process, so that what it left can be told from what another one is writing.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from functools import cache
from io import TextIOWrapper
from pathlib import Path

LOCKS = "locks"

_HELD: dict[Path, TextIOWrapper] = {}  # open for as long as this process lives


def sign_in(root: Path) -> str:
    """The name of this process in the store at `root`, whose lock it holds from now on until it ends."""
    name = _process_name(os.getpid())
    path = root / LOCKS / name
    if path not in _HELD:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
        _HELD[path] = stream
        atexit.register(path.unlink, missing_ok=True)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: then only what nobody touches for long is taken for left behind
            path.unlink()
    return name


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file while inside; waits for another holder, and the kernel frees a dead one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_alive(root: Path, owner: str) -> bool | None:
    """True where the process of that name holds its lock; None where there is no such lock."""
    path = root / LOCKS / owner
    return is_held(path) if owner and path.is_file() else None


def at_work(root: Path) -> list[Path]:
    """The locks that are held: of processes that make an artifact, and of trainers."""
    own = root / LOCKS / _process_name(os.getpid())
    locks = [*sorted((root / LOCKS).glob("*")), *sorted(root.glob("*/*/*.lock"))]
    return [path for path in locks if path != own and is_held(path)]


def is_held(path: Path) -> bool:
    """True where a living process holds this lock file."""
    with path.open("r") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@cache
def _process_name(pid: int) -> str:
    """Host, process id and a few random digits: ids are given again."""
    return f"{socket.gethostname()}.{pid}.{os.urandom(4).hex()}"
