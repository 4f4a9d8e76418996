"""How a piece of work came about: what may differ between two runs that make the same bytes."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RunRecord:
    """Seconds, CPU seconds, memory, host and commit of one stage's making."""

    started_at: float
    cpu_at_start: float = field(repr=False, default=0.0)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    host: str = ""
    python: str = ""
    commit: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls) -> RunRecord:
        """Begin to count."""
        return cls(
            started_at=time.time(),
            cpu_at_start=_cpu_seconds(),
            host=platform.node(),
            python=platform.python_version(),
            commit=git_commit(),
        )

    def finish(self) -> RunRecord:
        """The record with what has been used since `start`; of children, those that were waited for."""
        self.seconds = time.time() - self.started_at
        self.cpu_seconds = _cpu_seconds() - self.cpu_at_start
        self.peak_memory_bytes = 1024 * max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return self

    def to_json(self) -> bytes:
        record = asdict(self)
        record.pop("cpu_at_start")
        return json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"


def git_commit() -> str:
    """The commit of the checkout that this code runs from; empty outside a checkout or without git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)
