"""Outcomes: what became of the last run of each flow and name, one small file each, which people and `cpt status` read.

    outcomes/FLOW--NAME.json     the run now or last at work, the last success, the last failure and why, the last ends

A process that was killed leaves its record at `running`: whoever looks next finds that nobody works at it any more.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pipeline_lib.runtime.processes import is_stamped, stamp_of
from pipeline_lib.store.files import exclusive, replace_file

FOLDER = "outcomes"
ENDS_KEPT = 20
MOST_FILES = 500  # the oldest are forgotten


@dataclass(frozen=True)
class Outcome:
    """Runs of one flow under one name.

    Attributes:
        state: of the last run: running, suspended, completed, failed, cancelled or interrupted.
        since: when that began (seconds since 1970).
        process: id, stamp of its start and host of the process that works at it; empty without one.
        success_at: when a run last completed; 0: never.
        failure: the last one, with run, at, stage, reason and next; empty: none.
        failing: True from a failure to the next success.
        ends: runs that have ended, as "ID STATE", the last last.
    """

    flow: str
    name: str
    run: str = ""
    run_id: str = ""
    state: str = ""
    since: float = 0.0
    process: dict[str, Any] = field(default_factory=dict)
    success_at: float = 0.0
    failure: dict[str, Any] = field(default_factory=dict)
    failing: bool = False
    ends: tuple[str, ...] = ()

    def begun(self, run: str, run_id: str) -> Self:
        """The record once a run is at work, in this process."""
        process = {"pid": os.getpid(), "created": stamp_of(os.getpid()), "host": socket.gethostname()}
        ends = tuple(end for end in self.ends if not end.startswith(f"{run_id} "))  # the same run, started again
        return replace(self, run=run, run_id=run_id, state="running", since=time.time(), process=process, ends=ends)

    def suspended(self) -> Self:
        """The record once the run waits for somebody to resume it, without a process."""
        return replace(self, state="suspended", since=time.time(), process={})

    def ended(self, run: str, run_id: str, state: str, failure: dict[str, Any] | None = None) -> Self:
        """The record once a run has ended."""
        ends = (*self.ends, f"{run_id} {state}")[-ENDS_KEPT:]
        now, completed = time.time(), state == "completed"
        told: dict[str, Any] = {"failure": failure, "failing": True} if failure else {"failing": self.failing and not completed}
        last: dict[str, Any] = {"run": run, "run_id": run_id, "state": state, "since": now, "process": {}}
        success: dict[str, Any] = {"success_at": now} if completed else {}
        if self.state == "running" and self.run_id not in ("", run_id) and not self.is_dead:
            last = {}  # another run of the name is at work
        return replace(self, ends=ends, **told, **last, **success)

    def has_ended(self, run_id: str) -> bool:
        """True if the end of a run is recorded."""
        return any(end.startswith(f"{run_id} ") for end in self.ends)

    @property
    def is_dead(self) -> bool:
        """True if it is said to run, and its process, which was of this host, is gone."""
        if self.state != "running" or self.process.get("host") != socket.gethostname():
            return False
        try:
            return not is_stamped(int(self.process["pid"]), self.process["created"])
        except (KeyError, TypeError, ValueError):
            return True


def read_outcomes(home: Path) -> list[Outcome]:
    """All records, those of the last ended or begun runs first; what cannot be read is passed over."""
    found = [outcome for path in (home / FOLDER).glob("*.json") if (outcome := _read(path))]
    return sorted(found, key=lambda outcome: outcome.since, reverse=True)


@contextmanager
def outcome_of(home: Path, flow: str, name: str) -> Iterator[list[Outcome]]:
    """The record of a flow and name, alone while the block lasts; what the list holds at its end is written."""
    path = home / FOLDER / f"{_slug(flow)}--{_slug(name)}.json"
    with exclusive(path.with_suffix(".lock")):
        before = _read(path) or Outcome(flow, name)
        held = [before]
        yield held
        if held[0] != before:
            replace_file(path, json.dumps(asdict(held[0]), indent=1).encode() + b"\n")
            _forget_oldest(path.parent)


def _read(path: Path) -> Outcome | None:
    try:
        fields = json.loads(path.read_bytes())
        return Outcome(**{**fields, "ends": tuple(fields.get("ends", ()))})
    except (OSError, ValueError, TypeError):  # of another version, or cut short: the next end writes it anew
        return None


def _forget_oldest(folder: Path) -> None:
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in paths[: max(0, len(paths) - MOST_FILES)]:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text)[:120].lstrip(".") or "_"
