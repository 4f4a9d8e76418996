"""A flow from a terminal: its parameters from the options, its server, its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flows.options import fields_of
from pipeline_lib.errors import UserError
from pipeline_lib.home import artifact_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flows.options import Option
    from flows.parameters import RunParams

    Params = TypeVar("Params", bound=RunParams)


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


def params_of(model: type[Params], options: Sequence[Option], given: Mapping[str, Any], **fixed: Any) -> Params:
    """The parameters that a command's options stand for; what is wrong with them is told before anything starts.

    Raises:
        UserError: an option is out of its range, or names what is not there.
    """
    from pydantic import ValidationError

    from flows.parameters import PLACES, RunParams
    from pipeline_lib.model.starting_points import find_start
    from pipeline_lib.presets import RANDOM, preset

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
        from pipeline_lib.sources.source_tree import readable_folder

        readable_folder(fields["source"])
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
    if isinstance(params, RunParams) and "preset" in fields and not fields.get("checkpoint"):
        find_start(params.resolve().model.init, params.download)  # a start that is not there, too
    return params
