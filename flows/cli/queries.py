"""Queries for a dump's texts, written by a language model, `cpt queries`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from flows.cli.options import takes
from flows.cli.starts import Told
from flows.cli.terminal import params_of
from flows.params import DatasetParams
from flows.runs import open_store
from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.errors import UserError


@takes(DatasetParams)
def queries(
    given: dict[str, Any],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, up to /v1.")],
    model: Annotated[str, typer.Option(help="Model, by the endpoint's name for it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON Lines file to append to; an interrupted command resumes.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Setting of the requests, limit=1000: docs/how-to/queries.md."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin without asking about the estimate.")] = False,
) -> None:
    """Have a language model behind an endpoint write queries for a dump's texts; train on them by --set queries.file=FILE."""
    from pipeline_lib.pairs.extract import extract
    from pipeline_lib.pairs.query_writer import BAD_SUFFIX, estimate, write_queries

    params = params_of(DatasetParams, given)
    config, told = params.resolve(), Told()
    writer = _options(endpoint, model, option or [])
    extracted = extract(open_store(params.machine.artifacts), config.source, config.extract, told)
    expected = estimate(extracted, writer, out)
    typer.echo(expected.sentence(), err=True)
    if expected.texts and not yes:
        if not sys.stdin.isatty():
            raise UserError("nothing was asked yet: give --yes to begin without a question")
        typer.confirm("begin?", abort=True, err=True)
    written = write_queries(extracted, writer, out, told)
    typer.echo(f"{out}: {written.queries:,} queries for {written.texts:,} texts")
    if written.bad:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(written.bad.items()))
        typer.echo(f"{out}{BAD_SUFFIX}: {written.bad.total():,} answers set aside: {reasons}", err=True)
    if written.unanswered:
        typer.echo(f"{written.unanswered:,} texts stayed unanswered: the same command asks for them again", err=True)
    typer.echo(f"train on them with --set queries.file={out} and a share of `queries` in train.mixture", err=True)


def _options(endpoint: str, model: str, given: list[str]) -> QueryWriterConfig:
    parted = [word.partition("=") for word in given]
    if wrong := [name for name, equals, _ in parted if not equals]:
        raise UserError(f"--option {wrong[0]}: expected NAME=VALUE")
    fields: dict[str, Any] = {name: value for name, _, value in parted}
    try:
        return QueryWriterConfig(endpoint=endpoint, model=model, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(name for name in QueryWriterConfig.model_fields if name not in ("endpoint", "model"))
        raise UserError(f"--option {'.'.join(map(str, first['loc']))}: {first['msg']}; there are {known}") from error
