"""A flow from a terminal: its parameters from the options, its server, its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any

import typer

from pipeline_lib.errors import UserError
from pipeline_lib.home import artifact_home

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.parameters import RunParams


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


def run_params(options: dict[str, Any]) -> RunParams:
    """The parameters that a command's options stand for; what is wrong with them is told before anything starts.

    Raises:
        UserError: an option is out of its range, or names what is not there.
    """
    from pydantic import ValidationError

    from flows.parameters import RunParams
    from pipeline_lib.model.starting_points import find_start
    from pipeline_lib.presets import RANDOM, preset

    if (artifacts := options.get("artifacts", "")) and "://" not in artifacts:
        options["artifacts"] = os.path.abspath(artifacts)  # noqa: PTH100 - as below
    preset(options["preset"])  # an unknown one is answered with those that there are
    for place in ("source", "dump", "contamination", "suite_data", "init"):
        is_folder = place != "init" or (options.get(place) != RANDOM and os.path.isdir(options.get(place, "")))  # noqa: PTH112
        if options.get(place) and is_folder:  # else a hub id
            options[place] = os.path.abspath(options[place])  # noqa: PTH100 - a string for JSON, links kept
    # what is wrong is told before anything starts
    if options.get("source"):
        from pipeline_lib.sources.source_tree import readable_folder

        readable_folder(options["source"])
    if options.get("dump"):
        from pipeline_lib.sources.dump_spec import read_spec

        read_spec(options["dump"])
    try:
        params = RunParams(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{str(first['loc'][-1]).replace('_', '-')} {first['input']!r}: {first['msg']}") from error
    find_start(params.resolve().model.init, params.download)  # a start that is not there, too
    return params
