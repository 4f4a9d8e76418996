"""A flow from a terminal: its parameters from the options, its server, its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any

import typer

from pipeline_lib.errors import UserError
from pipeline_lib.home import artifact_home, writable_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    from pipeline_lib.presets import preset

    if (artifacts := options.get("artifacts", "")) and "://" not in artifacts:
        options["artifacts"] = os.path.abspath(artifacts)  # noqa: PTH100 - as below
    preset(options["preset"])  # an unknown one is answered with those that there are
    for place in ("source", "dump", "contamination", "suite_data", "init"):
        if options.get(place) and (place != "init" or os.path.isdir(options[place])):  # noqa: PTH112 - else a hub id
            options[place] = os.path.abspath(options[place])  # noqa: PTH100 - a string for JSON, links kept
    # what is wrong is told before anything starts
    if options.get("source"):
        from pipeline_lib.sources.source_tree import readable_folder

        readable_folder(options["source"])
    for option in ("contamination", "suite_data"):
        check_folder(option, options.get(option, ""))
    if options.get("init") and not options.get("download"):
        from pipeline_lib.model.starting_points import find_start

        find_start(options["init"])
    if options.get("dump"):
        from pipeline_lib.sources.dump_spec import read_spec

        read_spec(options["dump"])
    try:
        params = RunParams(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{str(first['loc'][-1]).replace('_', '-')} {first['input']!r}: {first['msg']}") from error
    params.resolve()
    check_suites(params.select_suites)
    check_places(params.artifacts, params.scheduler)
    return params


def check_places(artifacts: str, scheduler: str = "") -> None:
    """Ask whatever a run is to use whether it is there, before the server starts.

    Raises:
        UserError: nothing can be written there, or nobody answers.
    """
    writable_home()
    if scheduler:
        from pipeline_lib.scheduler import check_scheduler  # Dask: half a second

        check_scheduler(scheduler)
    if artifacts:
        from flows.workspace import open_store

        open_store(artifacts).check_writable()


def check_folder(option: str, folder: str) -> None:
    """Whether there is the folder that an option names, if it names one.

    Raises:
        UserError: there is none.
    """
    if folder and not os.path.isdir(folder):  # noqa: PTH112 - a string for JSON
        raise UserError(f"--{option.replace('_', '-')} {folder}: no such folder on this machine")


def check_suites(names: Sequence[str]) -> None:
    """Whether there are such suites.

    Raises:
        UserError: there is no suite or group of that name.
    """
    if names:
        from pipeline_lib.evaluation.suites.registry import suite_names

        suite_names(names)
