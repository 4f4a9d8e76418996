"""A server with deployments of one slot, for all tests here that ask one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from served import Served

from flows.orchestrator import server
from flows.orchestrator.server import free_port, prefect_environment

LIMIT_1 = {"collision_strategy": "CANCEL_NEW"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in prefect_environment(home).items():
            patch.setenv(name, value)
        owned = server._start(home, free_port(), "run")
        from prefect.client.orchestration import SyncPrefectClient

        with SyncPrefectClient(api=owned.url) as client:
            yield Served(client, home)
        owned.stop()


@pytest.fixture
def lost_runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    from flows.orchestrator import lost_runs

    monkeypatch.setattr(lost_runs, "SUBMISSION_SECONDS", 0.0)
    return lost_runs


@pytest.fixture
def deployment(served: Served) -> UUID:
    """A deployment of one slot, whose next run is cancelled while another holds it."""
    flow = served.client.create_flow_from_name(f"flow-{uuid4()}")
    words = {"concurrency_limit": 1, "concurrency_options": LIMIT_1, "enforce_parameter_schema": False}
    return served.client.create_deployment(flow_id=flow, name="one", entrypoint="x.py:x", **words)
