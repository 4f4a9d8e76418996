"""Failure reports of trainer processes: their own, torchrun's, and advice where memory ran out.

Of several ranks the one that failed first is to blame: the others then fail in the next collective, and say so. A rank reports
before it lets go of its sockets, so that the first report in the pipe is the cause's. A rank that is killed reports nothing.
Imports the standard library alone: the report of a failed import must not fail itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EVENT_MARK = "@@"
FINAL = ("UserError", "CorruptArtifact", "TrainingFailed")  # would be the same the next time; the message says it all
ATOMIC_BYTES = 3_500  # what processes write into one pipe at a time is not mixed up to 4,096 bytes
MEMORY_WORDS = (
    "out of memory",
    "cannot allocate memory",
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)
CRASHES = frozenset(
    {signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)
KERNEL_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
_RANK = re.compile(r"^\s*rank\s*:\s*(\d+)")
_EXIT = re.compile(r"^\s*exitcode\s*:\s*-(\d+) \(pid: (\d+)\)")
_FORCED = re.compile(r"Unable to shutdown process (\d+)")


def report(error: BaseException) -> None:
    """Tell the launcher why this process ends, in one line; before it the traceback, where the message is not enough."""
    kind = type(error).__name__
    if kind not in FINAL:
        # torch.distributed's hook has put a buffer in the place of sys.stderr, which an end at once would lose
        stream = sys.__stderr__ or sys.stderr
        stream.write("".join(traceback.format_exception(error)))
        stream.flush()
    text = str(error) if kind in FINAL else f"{_qualified(error)}: {' '.join(str(error).split())}".rstrip(": ")
    fields = {"kind": kind, "rank": int(os.environ.get("RANK", "0")), "at": " ".join(getattr(error, "__notes__", ()))}
    event = {"event": "failed", **fields, "memory": is_out_of_memory(error), "message": _cut(text)}
    with contextlib.suppress(OSError):  # the launcher is gone
        sys.stdout.write(EVENT_MARK + json.dumps(event) + "\n")
        sys.stdout.flush()


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error, or what it came of, says that memory ran out: of a GPU, of the machine or of a limit."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if speaks_of_memory(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def speaks_of_memory(text: str) -> bool:
    """True if a message is one of those by which allocators say that they found none."""
    return any(words in text.lower() for words in MEMORY_WORDS)


@dataclass(frozen=True)
class Death:
    """Cause of the end of an attempt.

    Attributes:
        text: one line: which rank, when, and of what.
        out_of_memory: the error says so; the same again would end the same.
        killed: by SIGKILL, which is the kernel's where memory runs out.
    """

    text: str
    out_of_memory: bool = False
    killed: bool = False


@dataclass
class Witness:
    """Evidence of one attempt's end: torchrun's table of exit codes, and the first report of a rank."""

    size: int = 1
    report: dict[str, Any] = field(default_factory=dict)
    signals: dict[int, int] = field(default_factory=dict)  # by rank
    _forced: set[str] = field(default_factory=set)
    _memory: bool = False  # somebody said so: C++ that finds none aborts
    _rank: int = 0

    def hear(self, line: str) -> None:
        """A line that is no event."""
        self._memory |= speaks_of_memory(line)
        if found := _FORCED.search(line):
            self._forced.add(found[1])  # torchrun's own kill, of a rank that would not end after another's death
        elif found := _RANK.match(line):
            self._rank = int(found[1])
        elif (found := _EXIT.match(line)) and found[2] not in self._forced:
            self.signals[self._rank] = int(found[1])

    def death(self, code: int | None, step: int, kernel_kills: int) -> Death | None:
        """The cause; None where nothing tells.

        Args:
            code: torchrun's own exit code.
            step: the last one that was heard done.
            kernel_kills: processes of this machine that the kernel killed for memory meanwhile.
        """
        silent = {rank: number for rank, number in self.signals.items() if rank != self.report.get("rank")}
        crashes = {rank: number for rank, number in silent.items() if number in CRASHES}
        if self.report:  # an abort may be the answer to another rank's end
            crashes = {rank: number for rank, number in crashes.items() if number != signal.SIGABRT}
        if crashes and not self.report.get("memory"):
            rank, number = min(crashes.items())
            return self._signalled(self._who(rank), number, step, kernel_kills)
        if self.report:
            place = ", ".join(filter(None, [self._who(self.report.get("rank", 0)), self.report.get("at")]))
            memory = bool(self.report.get("memory"))
            return Death(f"{'out of memory: ' if memory else ''}{place}: {self.report['message']}", out_of_memory=memory)
        if code is not None and code < 0:
            return self._signalled("torchrun", -code, step, kernel_kills)
        return None

    def _signalled(self, who: str, number: int, step: int, kernel_kills: int) -> Death:
        name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
        text = f"{who} was ended by signal {number} ({name}) after step {step}"
        if number != signal.SIGKILL:
            return Death(f"{'out of memory: ' if self._memory else ''}{text}", out_of_memory=self._memory)
        counted = f"the kernel killed {kernel_kills} for lack of memory meanwhile"
        why = counted if kernel_kills else "most often the kernel, for lack of memory"
        return Death(f"{text}: {why}", killed=True)

    def _who(self, rank: int) -> str:
        return f"rank {rank} of {self.size}" if self.size > 1 else "the trainer process"


def kernel_kills() -> int:
    """Processes that the kernel has killed for memory so far, of this machine or container; 0 where it does not tell."""
    return max((int(value) for path in KERNEL_COUNTERS for name, value in _counters(path) if name == "oom_kill"), default=0)


def _counters(path: Path) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if value.strip().isdigit():
                yield name, value


def memory_advice(config: Any) -> str:
    """Fields of the configuration to lower where memory runs out, each with its present value."""
    fields = ("micro_batch_tokens", "kept_bytes", "batch_size", "batch_tokens", "sequence_tokens")
    named = {"kept_bytes": "activation_bytes"}
    values = {named.get(name, name): getattr(config, name) for name in fields if hasattr(config, name)}
    lower = [name if value is None else f"{name} ({value:,})" for name, value in values.items()]
    more = [] if config.checkpoint_activations else ["take checkpoint_activations=true"]
    more += [] if config.parallel == "fsdp" else ["cut the weights over more processes (parallel=fsdp)"]
    return "; ".join([f"lower {', '.join(lower[:-1])} or {lower[-1]}", *more])


def _qualified(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    """The text, its middle left out where its JSON would not be written at once."""
    keep = len(text)
    shown = text
    while len(json.dumps(shown)) > ATOMIC_BYTES - 500:
        keep = keep * 3 // 4
        shown = f"{text[: keep - keep // 4]} ... {text[len(text) - keep // 4 :]}"
    return shown
