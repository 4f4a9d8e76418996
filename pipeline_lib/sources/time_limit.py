"""Time limit of a text: the process that reads it too long ends, and the next one passes that text over as `timeout`.

Nothing gentler stops a parser in C that holds Python's lock: no signal handler and no other Python thread gets a turn. A
thread of `faulthandler`, which is written in C, ends the process. The process keeps a timeout log of the step that it is at,
in the shared store; a log that ends in a traceback names a step that hung. Dask starts another worker and repeats the task.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pipeline_lib.sources.safe_open import Refusal

_STEP_BYTES = 64  # the log's head: the step, padded; a traceback follows it
_ARM_SHARE = 0.1  # starting the clock anew costs 50 us, so it is done when a tenth of the time has passed

_Result = TypeVar("_Result")


class TimeLimit:
    """Watches one task of this process, which runs one task at a time.

    Args:
        folder: for the timeout logs of this task, the same one at each try.
        seconds: what one step may take, no less than nine tenths of it.
        most: steps of one file that hang; then all of it is given up, so that a file of nothing but such texts ends.
    """

    def __init__(self, folder: Path, seconds: float, most: int = 10) -> None:
        self.folder = folder
        self.seconds = seconds
        self.most = most
        self.file = 0
        self.counts: Counter[str] = Counter()  # steps of the current file so far, by kind
        self.given_up = hung_steps(folder)

    def __enter__(self) -> Self:
        global _current  # noqa: PLW0603 - faulthandler has one clock a process
        self.log, self.path = self._new_log()
        self.log.write(b" " * _STEP_BYTES)  # moves to where a traceback goes
        self.arm()
        _current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _current  # noqa: PLW0603
        _current = None
        faulthandler.cancel_dump_traceback_later()
        self.log.close()
        self.path.unlink(missing_ok=True)

    def _new_log(self) -> tuple[io.FileIO, Path]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another run, done with the same task, has just removed the folder
                handle, name = tempfile.mkstemp(dir=self.folder)
                return io.FileIO(handle, "w"), Path(name)

    def begin(self, file: int) -> Refusal | None:
        """Come to a file of the task, by its number; or why it is given up as a whole."""
        self.file = file
        self.counts.clear()
        self.note(str(file))
        hung = sum(step.split(" ")[0] == str(file) for step in self.given_up)
        return self.timeout() if str(file) in self.given_up or hung >= self.most else None

    def run(self, kind: str, function: Callable[[], _Result]) -> _Result | Refusal:
        """A step of the current file, unless it is one that hung."""
        self.counts[kind] += 1
        step = f"{self.file} {kind} {self.counts[kind]}"
        if step in self.given_up:
            return self.timeout()
        self.note(step)
        try:
            return function()
        finally:
            self.note(str(self.file))

    def note(self, step: str) -> None:
        """Write where the task is, and give it its time."""
        os.pwrite(self.log.fileno(), step.encode().ljust(_STEP_BYTES), 0)
        self.extend()

    def extend(self) -> None:
        """Start the clock anew, unless it was only just started."""
        if time.monotonic() - self.armed > self.seconds * _ARM_SHARE:
            self.arm()

    def arm(self) -> None:
        """Start the clock anew."""
        self.armed = time.monotonic()
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.log)

    def timeout(self) -> Refusal:
        """The refusal of what took too long."""
        return Refusal("timeout", f"took more than {self.seconds:g} s; the process that read it was ended")


_current: TimeLimit | None = None


def within_time(kind: str, function: Callable[[], _Result]) -> _Result | Refusal:
    """The result of a step that may hang, such as a parser's; a refusal where an earlier process hung at it.

    Args:
        kind: of step; steps are counted by kind, so that those of one kind come in the same order at every try.
    """
    return function() if _current is None else _current.run(kind, function)


def sign_of_life() -> None:
    """Say that work goes on: for what reads long streams piece by piece."""
    if _current is not None:
        _current.extend()


@contextmanager
def unlimited() -> Iterator[None]:
    """Stop the clock: for what waits on a network, which has limits of its own."""
    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        if _current is not None:
            _current.arm()


def hung_steps(folder: Path) -> frozenset[str]:
    """The steps at which processes were ended, as their timeout logs say."""
    logs = [path.read_bytes() for path in folder.glob("*")] if folder.is_dir() else []
    return frozenset(log[:_STEP_BYTES].decode().strip() for log in logs if len(log) > _STEP_BYTES)


def forget(folder: Path) -> None:
    """Remove the timeout logs of a task that is done."""
    shutil.rmtree(folder, ignore_errors=True)
