"""`cpt serve`: search and embeddings of the published index over HTTP, until Ctrl-C.

Every field of ServeConfig is an option, a variable of the environment (--max-k is CPT_SERVE_MAX_K) and a line of a YAML file;
the terminal wins over the environment, and that over the file.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.cli.options import parameter
from flows.options import Option
from pipeline_lib.config.overrides import apply, read_config
from pipeline_lib.serve.config import TOKEN, ServeConfig

PREFIX = "CPT_SERVE_"
File = Annotated[str | None, typer.Option("--config", metavar="FILE", help="YAML file of these options, as max_k: 50.")]


def _takes_config(function: Callable[[dict[str, Any], str | None], None]) -> Callable[..., None]:
    """Give a command the fields of ServeConfig as options."""

    def command(**given: Any) -> None:
        file = given.pop("config")
        function({name: value for name, value in given.items() if value not in (None, [])}, file)

    made = [
        parameter(Option(name, (name,), field), f"{PREFIX}{name.upper()}") for name, field in ServeConfig.model_fields.items()
    ]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=File)
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature([*made, config])  # type: ignore[attr-defined]
    return command


@_takes_config
def serve(given: dict[str, Any], file: str | None) -> None:
    """Serve the published index over HTTP: a search page, searches and embeddings, on loopback; Ctrl-C stops it."""
    config = settings(given, file)
    from flows.cli.search import load_weights
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.serve.server import Service

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    service = Service(config, config.artifacts or artifact_home(), load_weights)
    typer.echo(welcome(service))
    service.serve()
    typer.echo("stopped: every request that was under way is answered")


def settings(given: dict[str, Any], file: str | None) -> ServeConfig:
    """The configuration that a file makes, and over it what the terminal and the environment give.

    Raises:
        UserError: an option is unknown, or has a value that it does not take.
    """
    return apply(ServeConfig(), *([read_config(file, ServeConfig)] if file else []), given)


def welcome(service: Any) -> str:
    """What the terminal says at the start."""
    pair = service.engine.served()
    lines = [
        f"Search:      {service.url}/    (GET and POST {service.url}/search; {service.url}/openapi.json)",
        f"The model:   {service.url}/map    {service.url}/neighbours    {service.url}/compare",
        f"Embeddings:  {service.url}/v1    (OpenAI's clients: base_url, model default)",
        f"Upkeep:      {service.url}/healthz    {service.url}/metrics",
        f"{pair['name']}: {pair['texts']:,} functions and passages, model {pair['model_digest'][:12]}.",
    ]
    if not service.is_on_loopback:
        lines.append(f"Others than this machine reach it: without TLS, {TOKEN} and queries can be read on the way.")
    return "\n".join([*lines, "Ctrl-C stops it."])
