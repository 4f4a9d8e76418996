"""A flow from a terminal: against a server of its own, its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any

import typer

from flows.home import artifact_home

if TYPE_CHECKING:
    from collections.abc import Callable


def with_server(flow: Callable[[], Any]) -> Any:
    """Run a flow against a server of this artifact root, its log kept out of the terminal."""
    from flows.server import prefect_environment, prefect_server  # imports Prefect: seconds

    home = artifact_home()
    os.environ.update(prefect_environment(home))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's: a thread that waits must not spin
    threading.Thread(target=_import_libraries, daemon=True).start()
    with prefect_server(home) as url:
        typer.echo(f"  Prefect's UI of this run: {url.removesuffix('/api')}", err=True)
        try:
            return flow()
        finally:
            from prefect.logging.handlers import APILogWorker

            APILogWorker.drain_all()


def _import_libraries() -> None:
    """What takes seconds to import and does not ask where Prefect's server is, while that starts."""
    for name in ("pipeline_lib.evaluation.compare", "pipeline_lib.model.export"):
        importlib.import_module(name)
