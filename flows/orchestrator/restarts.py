"""Runs that a restart of the platform cut off, started again where that is asked for: as they were, once a loss, so many times.

The platform notes a run before it ends or closes it, and decides at its next start: a note outlives a power cut in between, and
the new run's idempotency key sees to it that one loss is made good once. A label says who started the lost one: a night that is
started again goes through the gate, as it would have. Import this after the server's environment is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.approval import BY, starter_of
from pipeline_lib.store.files import replace_file

TAG = "restart-lost"  # on a deployment or a run: it is started again, whatever the platform was started with
TAGGED_TIMES = 3
COUNT, ORIGIN = "cpt.restarts", "cpt.restart-of"  # labels of a run that was started again
ONCE = ":rollback"  # a flow that, where it was cut off after its deed, would go further back
CUT = (StateType.CRASHED, StateType.FAILED)
AT_WORK = (StateType.PENDING, StateType.RUNNING)  # a run that was being cancelled is not missed


class Restarts:
    """The runs that were cut off since the last start.

    Args:
        times: that a run is started again at most, where it or its deployment has no tag; 0: it is not.
    """

    def __init__(self, client: SyncPrefectClient, home: Path, times: int) -> None:
        self.client, self.times = client, times
        self._file = home / "prefect" / "cut_off.json"

    def note(self, runs: Iterable[FlowRun]) -> None:
        """Remember the runs among these that are at work; call it before they are ended."""
        cut = [str(run.id) for run in runs if run.state_type in AT_WORK and run.deployment_id]
        if cut:
            replace_file(self._file, json.dumps([*dict.fromkeys([*self._noted(), *cut])]).encode())

    def note_ids(self, ids: Iterable[UUID]) -> None:
        """The same of the runs of these ids; those that are gone are passed over."""
        self.note(run for id_ in ids if (run := self._run(id_)) is not None)

    def start(self) -> list[str]:
        """Start them again, each as often as is asked for, and forget them; the names of those that were started."""
        started = [run.name for id_ in self._noted() if (run := self._run(UUID(id_))) is not None and self._start(run)]
        self._file.unlink(missing_ok=True)
        return started

    def _start(self, run: FlowRun) -> bool:
        deployment = self._deployment(run)
        if deployment is None or run.state_type not in CUT or (deployment.entrypoint or "").endswith(ONCE):
            return False
        asked = TAG in {*run.tags, *deployment.tags}
        most, before = self.times or (TAGGED_TIMES if asked else 0), int(str(run.labels.get(COUNT, 0)))
        if before >= most:
            if most:
                typer.echo(f"{run.name} was cut off, and is not started again: it was, {before} of {most} times")
            return False
        self.client.create_flow_run_from_deployment(
            deployment.id,
            parameters=run.parameters,
            name=run.name,
            tags=run.tags,
            idempotency_key=f"restart-{run.id}",
            job_variables=run.job_variables,
            labels={COUNT: before + 1, ORIGIN: str(run.id), BY: starter_of(run)},
        )
        return True

    def _noted(self) -> list[str]:
        try:
            return list(json.loads(self._file.read_bytes()))
        except (OSError, ValueError):
            return []

    def _run(self, id_: UUID) -> FlowRun | None:
        try:
            return self.client.read_flow_run(id_)
        except ObjectNotFound:
            return None

    def _deployment(self, run: FlowRun) -> DeploymentResponse | None:
        try:
            return self.client.read_deployment(run.deployment_id) if run.deployment_id else None
        except ObjectNotFound:
            return None
