"""A flow from a terminal: its parameters from the options, its server, its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flows.options import fields_of
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import artifact_home, writable_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flows.options import Option
    from flows.parameters import RunParams

    Params = TypeVar("Params", bound=RunParams)


def with_server(flow: Callable[[], Any]) -> Any:
    """Run a flow against a server of this artifact root, its log kept out of the terminal."""
    from flows.cli.server import prefect_environment, prefect_server  # imports Prefect: seconds

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
    for name in ("pipeline_lib.evaluation.compare", "pipeline_lib.export.export"):
        importlib.import_module(name)


def params_of(model: type[Params], options: Sequence[Option], given: Mapping[str, Any], **fixed: Any) -> Params:
    """The parameters that a command's options stand for; what is wrong with them is told before anything starts.

    Raises:
        UserError: an option is out of its range, or names what is not there.
    """
    from pydantic import ValidationError

    from flows.parameters import PLACES, split_checkpoint
    from pipeline_lib.config.presets import RANDOM, preset
    from pipeline_lib.model.checkpoint import find_start

    fields = fields_of(options, given) | fixed
    if "preset" in fields:
        preset(fields["preset"])  # an unknown one is answered with those that there are
    for place in PLACES:
        is_folder = place != "init" or (fields.get(place) != RANDOM and os.path.isdir(fields.get(place, "")))  # noqa: PTH112
        if fields.get(place) and is_folder:  # else a hub id
            fields[place] = os.path.abspath(fields[place])  # noqa: PTH100 - a string for JSON, links kept
    if (artifacts := fields.get("artifacts")) and "://" not in artifacts:
        fields["artifacts"] = os.path.abspath(artifacts)  # noqa: PTH100 - as above
    if fields.get("source"):
        from pipeline_lib.sources.folder import readable_folder

        readable_folder(fields["source"])
    for option in ("contamination", "suite_data", "data"):
        check_folder(option, fields.get(option, ""))
    if fields.get("dump"):
        from pipeline_lib.sources.dump_spec import read_spec

        read_spec(fields["dump"])
    try:
        params = model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise UserError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0])
        flag = next((option.flag for option in options if option.path == (name,)), name)
        raise UserError(f"{flag} {first['input']!r}: {first['msg']}") from error
    if not getattr(params, "key", ""):  # a run that is named by its key brings its own
        find_start(params.resolve().model.init, params.download)
    if fields.get("checkpoint"):
        split_checkpoint(fields["checkpoint"])
    check_suites((*params.select_suites, *fields.get("suites", ())))
    check_places(params.artifacts, params.scheduler)
    return params


def check_places(artifacts: str, scheduler: str = "") -> None:
    """Ask whatever a run is to use whether it is there, before the server starts.

    Raises:
        UserError: nothing can be written there, or nobody answers.
    """
    writable_home()
    if scheduler:
        from pipeline_lib.runtime.shared_cluster import check_scheduler  # Dask: half a second

        check_scheduler(scheduler)
    if artifacts:
        from flows.workspace import open_store

        open_store(artifacts).check_writable()


def check_folder(option: str, folder: str) -> None:
    """Look for the folder that an option names, if it names one.

    Raises:
        UserError: there is none.
    """
    if folder and not os.path.isdir(folder):  # noqa: PTH112 - a string for JSON
        raise UserError(f"--{option.replace('_', '-')} {folder}: no such folder on this machine")


def check_suites(names: Sequence[str]) -> None:
    """Look each name up among the suites and groups.

    Raises:
        UserError: there is no suite or group of that name.
    """
    if names:
        from pipeline_lib.evaluation.suites.registry import suite_names

        suite_names(names)
