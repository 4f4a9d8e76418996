"""Atomic files, whole or not there, and locks, under every artifact; with fault points, which only a test arms."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any

_armed: dict[str, Callable[[], None]] = {}


def fault_point(name: str) -> None:
    """Run the fault armed under that name, if any."""
    if _armed and name in _armed:
        _armed[name]()


def arm(name: str, fault: Callable[[], None]) -> None:
    """Let `fault` run each time that the named place is passed."""
    _armed[name] = fault


def disarm() -> None:
    """Forget every armed fault."""
    _armed.clear()


def digest_of(value: Any) -> str:
    """sha256 of the value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def put_if_absent(path: Path, content: bytes) -> bool:
    """Write a file whole or not at all, unless there is one. Returns whether this call wrote it."""
    temporary = _write_beside(path, content)
    fault_point("file:before_link")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    fault_point("file:after_link")
    sync_folder(path.parent)
    return True


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in place of what is there."""
    os.replace(_write_beside(path, content), path)
    sync_folder(path.parent)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name on its disk, in place of what is there."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link-", dir=target.parent) as beside:
        os.link(source, Path(beside) / "file")
        os.replace(Path(beside) / "file", target)


def _write_beside(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o666 & ~_umask())  # mkstemp's 0600 would keep a report from whoever shares the folder
            stream.write(content)
            stream.flush()
            fault_point("file:before_fsync")
            os.fsync(stream.fileno())
    except BaseException:  # such as of a full disk
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


@cache
def _umask() -> int:
    """The mask that this process began with; asking for it sets it for a moment, so that it is asked once."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is atomic, but only this makes it last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


LOCKS = "locks"
USED = "used.lock"  # held together by all that have signed in, and by one that must be alone

_HELD: dict[Path, tuple[TextIOWrapper, TextIOWrapper]] = {}  # of this process in a store: its own lock, its share in USED


def sign_in(root: Path) -> str:
    """The name of this process in the store at `root`, whose lock it holds from now on until it ends, or signs out."""
    name = _process_name(os.getpid())
    path = root / LOCKS / name
    if path not in _HELD:
        path.parent.mkdir(parents=True, exist_ok=True)
        own, used = _HELD[path] = path.open("w"), (root / USED).open("a")
        try:
            fcntl.flock(own, fcntl.LOCK_EX)
            fcntl.flock(used, fcntl.LOCK_SH)  # waits for who is alone in the store
        except OSError:  # a file system without locks: then only what nobody touches for long is taken for left behind
            path.unlink(missing_ok=True)
    return name


@atexit.register
def sign_out() -> None:
    """Let go of every store that this process has signed in to; the next write to one signs in anew."""
    while _HELD:
        path, (own, used) = _HELD.popitem()
        if path.name == _process_name(os.getpid()):  # else of the process that this one was forked from
            path.unlink(missing_ok=True)
        own.close()
        used.close()


@contextlib.contextmanager
def alone_in(root: Path) -> Iterator[bool]:
    """Keep every other process from signing in while inside; False where one is signed in already."""
    with contextlib.ExitStack() as stack:
        if not root.is_dir():
            yield True
            return
        _, own = _HELD.get(root / LOCKS / _process_name(os.getpid()), (None, None))
        stream = own or stack.enter_context((root / USED).open("a"))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except BlockingIOError:
            is_alone = False
        except OSError:  # a file system without locks
            is_alone = True
        try:
            yield is_alone
        finally:
            if own is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(own, fcntl.LOCK_SH)


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
    try:
        with path.open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # its process has just ended
        return False
    return False


@cache
def _process_name(pid: int) -> str:
    """Host, process id and a few random digits: ids are given again."""
    return f"{socket.gethostname()}.{pid}.{os.urandom(4).hex()}"
