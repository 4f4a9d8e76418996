"""Upkeep of a platform that runs for months: what nobody told of yet, logs and results that would grow for ever.

Import this after the server's environment is set.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from flows.orchestrator.lost_runs import MISSED
from pipeline_lib.runtime.event_log import RotatedOutput
from pipeline_lib.runtime.outcomes import read_outcomes

HOOK_SECONDS = 30.0  # a run's own hooks know more of its end, and come first
ENDS_LOOKED_AT = 50
LOGS_KEPT = 20  # of servers that have ended
RESULT_DAYS = 30.0  # that Prefect's results of failed runs are kept
CLEAN_SECONDS = 3600.0


class UntoldEnds:
    """What nobody told of: runs that were killed, cancelled before they began, of a flow that cannot be imported, or closed as
    lost; and models that a person brought back at a terminal.

    Args:
        home: the artifact root, whose records say which ends are told.
    """

    def __init__(self, home: Path, hook_seconds: float = HOOK_SECONDS) -> None:
        self.home, self.hook_seconds = home, hook_seconds
        self._since = datetime.now(UTC) - timedelta(seconds=hook_seconds)
        self._seen: set[UUID] = set()
        self._flows: dict[UUID, str] = {}
        self._registry_at = 0.0

    def look(self, client: SyncPrefectClient, at_once: bool = False) -> list[str]:
        """Record and tell of the ends since the last look; the messages' subjects.

        Args:
            at_once: also of those that have just ended.
        """
        until = datetime.now(UTC) - timedelta(seconds=0.0 if at_once else self.hook_seconds)
        found = [run for run in self._ended(client, until) if run.id not in self._seen]
        told = []
        for run in found:
            with contextlib.suppress(ObjectNotFound):  # somebody removed it meanwhile
                told.append(self._tell(client, run))
            self._seen.add(run.id)
        return [*filter(None, told), *self._tell_registry()]

    def _ended(self, client: SyncPrefectClient, until: datetime) -> list[FlowRun]:
        failed = filters.FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED, StateType.CANCELLED])
        ended = filters.FlowRunFilterEndTime(after_=self._since, before_=until)
        wanted = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=failed), end_time=ended)
        return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.END_TIME_DESC, limit=ENDS_LOOKED_AT)

    def _tell(self, client: SyncPrefectClient, run: FlowRun) -> str:
        from flows.approval import is_turned_away
        from flows.hooks import Ended, is_told, record_end  # 60 MB, which most days need not
        from flows.notices import subject_of

        if run.state is None or not is_told(run) or (run.state.message or "").startswith(MISSED) or is_turned_away(run):
            return ""
        if run.flow_id not in self._flows:
            self._flows[run.flow_id] = client.read_flow(run.flow_id).name
        message = record_end(self.home, subject_of(self._flows[run.flow_id], run.parameters), Ended.of(run, run.state, client))
        return message.subject if message else ""

    def _tell_registry(self) -> list[str]:
        """Tell of models whose history grew while no run of their name was at work."""
        histories = [path for path in (self.home / "registry").glob("*/history") if path.is_dir()]
        changed = max((path.stat().st_mtime for path in histories), default=0.0)
        if changed == self._registry_at:
            return []
        from flows.notices import mark_registry, tell_registry

        if not self._registry_at:
            mark_registry(self.home)
        at_work = {outcome.name for outcome in read_outcomes(self.home) if outcome.state == "running" and not outcome.is_dead}
        told = tell_registry(self.home, besides=at_work)
        self._registry_at = changed if not at_work else -1.0  # else it is looked at again
        return told


class Upkeep:
    """Logs and results of a Prefect home within bounds.

    Args:
        home: the artifact root.
        outputs: files that the server and the worker write to.
    """

    def __init__(self, home: Path, outputs: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self.home, self.outputs, self._clock = home, outputs, clock
        self._cleaned = -CLEAN_SECONDS

    def look(self) -> None:
        """Rotate what has become too large; every hour, remove what is too old."""
        for path in self.outputs:
            RotatedOutput(path).rotate()
        if self._clock() - self._cleaned >= CLEAN_SECONDS:
            self._cleaned = self._clock()
            remove_old_results(self.home)
            remove_old_server_logs(self.home, self.outputs)


def remove_old_results(home: Path) -> int:
    """Remove what Prefect keeps of each failed run's exception, which nothing reads and nobody else removes; how many."""
    return _remove([path for path in (home / "prefect" / "storage").glob("*") if _age_seconds(path) > RESULT_DAYS * 86_400])


def remove_old_server_logs(home: Path, kept: list[Path] | None = None) -> int:
    """Remove all but the last logs of servers, each run at a terminal leaves one; how many."""
    paths = sorted((home / "prefect" / "servers").glob("*.log*"), key=_age_seconds)
    return _remove([path for path in paths[LOGS_KEPT:] if path not in (kept or [])])


def _remove(paths: list[Path]) -> int:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(paths)


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
