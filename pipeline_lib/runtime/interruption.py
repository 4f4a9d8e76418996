"""Ctrl-C and SIGTERM for a command at a terminal: work unwinds as from an exception, once, and the process ends in time.

A KeyboardInterrupt alone does not do. It is lost where another library swallows it; it leaves half-started children behind; it
is not raised while the main thread waits inside a library; and after the last line of `main` it is a traceback. Therefore the
signal is also remembered (`check`), held back where work must not be cut (`postponed`), and watched by a thread that ends the
process. A flow that a Prefect worker runs never listens: there the engine's own handling of signals holds.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_PRESS_SECONDS = 0.5  # a terminal and a program around this one may both hand on one Ctrl-C
TOLD_AFTER_SECONDS = 1.0
STUCK_SECONDS = 5.0  # for the main thread to come out of a library, which a signal does not interrupt
END_SECONDS = 120.0  # the platform's runs have 45 s to stop (a trainer's state is saved in 20), its worker 30, its server 10


@dataclass
class _State:
    number: int = 0  # of the first signal; 0: none yet
    raised: bool = False
    swallowed: bool = False  # where an exception cannot get out: the watcher sends the signal again
    postponed: int = 0  # depth
    ended: bool = False  # the command is over: a signal ends the process where it is
    last_words: str = ""


_state = _State()
_ending = threading.Lock()
_saying = threading.Lock()  # nothing is said after the last words


def listening(command: Callable[[], int], last_words: str) -> NoReturn:
    """Answer a command and exit with what it returns; with 128 + its number and these last words where a signal came meanwhile.

    A second signal ends the process, and all that it started, at once: what is on disk is whole at every moment.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _state.last_words = last_words
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = _on_unraisable
    threading.Thread(target=_watch, args=(reading,), daemon=True, name="signals").start()
    try:
        try:
            for number in SIGNALS:
                signal.signal(number, _on_signal)
            code = command()
        finally:
            _state.ended = True
    finally:
        if _state.number:
            _leave()
            _end()
    _leave()
    os._exit(code)


def check() -> None:
    """Raise KeyboardInterrupt where a signal came and was swallowed: nothing begins after it."""
    if _state.number:
        raise KeyboardInterrupt


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Hold a signal back until the block is done: what is half started, or half stopped, cannot be stopped."""
    _state.postponed += 1
    try:
        yield
    finally:
        _state.postponed -= 1
    if _state.number and not _state.raised and not _state.postponed:
        _state.raised = True
        raise KeyboardInterrupt


def _on_signal(number: int, _frame: FrameType | None) -> None:
    if _state.number and not _state.swallowed:
        return  # the second one is the watcher's
    _state.number, _state.swallowed = _state.number or number, False
    if _state.ended:
        _end()
    if not _state.postponed:
        _state.raised = True
        raise KeyboardInterrupt


def _on_unraisable(found: sys.UnraisableHookArgs) -> None:
    """Note a signal that came inside a destructor or a weak reference's callback, from which no exception gets out."""
    if isinstance(found.exc_value, KeyboardInterrupt) and _state.number:
        _state.swallowed = True
    else:
        sys.__unraisablehook__(found)


def _watch(pipe: int) -> None:
    """Read signals as they arrive, also while the main thread is inside a library; end what does not end by itself."""
    while (first := os.read(pipe, 1)[0]) not in SIGNALS:
        continue
    began, told, sent = time.monotonic(), False, False
    waiting = select.poll()  # a program may have more files open than `select` can count
    waiting.register(pipe, select.POLLIN)
    while True:
        again = bool(waiting.poll(100)) and os.read(pipe, 1)[0] in SIGNALS
        again, sent = again and not sent, sent and not again
        if _state.swallowed and not sent:
            sent = True
            signal.pthread_kill(threading.main_thread().ident or 0, first)
        waited = time.monotonic() - began
        answered = _state.number or signal.getsignal(first) is not _on_signal  # Prefect has its own of SIGTERM inside a flow
        if (again and waited > SAME_PRESS_SECONDS) or waited > (END_SECONDS if answered else STUCK_SECONDS):
            _state.number = _state.number or first
            _end()
        if waited > TOLD_AFTER_SECONDS and not told:
            told = True
            with _saying:
                if not _ending.locked():
                    _write("cpt: stopping; once more ends it at once\n")


def _leave() -> None:
    """Do what the interpreter does at its end, but for waiting for threads and taking modules apart.

    That takes seconds, in which a signal would find nobody to answer it, and may crash on a thread inside a library.
    """
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _end() -> NoReturn:
    """Say the last words and end this process and all that it started."""
    if not _ending.acquire(blocking=False):
        threading.Event().wait()
    _kill_descendants()
    with _saying:
        _write(f"cpt: {_state.last_words}\n")
        os._exit(128 + _state.number)


def _kill_descendants() -> None:
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _write(line: str) -> None:
    start = "\r\x1b[2K" if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{line}".encode())
