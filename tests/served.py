"""A Prefect server of our own, for the tests that ask one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID


class Served(NamedTuple):
    """A client of a server of our own, and the server's home."""

    client: Any
    home: Path


def runs_of(served: Served, deployment: UUID) -> list[dict[str, Any]]:
    """The runs of a deployment, the earliest first."""
    wanted = {"flow_runs": {"deployment_id": {"any_": [str(deployment)]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(served.client.request("POST", "/flow_runs/filter", json=wanted).json())
