"""`cpt`: every flow from a terminal, and search over what they published.

Prefect, torch and the stages are imported inside the commands that need them: `cpt search` answers in about a second.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flows.cli.config import config_app, plan_app
from flows.cli.deploy import deploy
from flows.cli.index import export_vectors, index
from flows.cli.push import push
from flows.cli.reproduce import reproduce
from flows.cli.runs import runs, status
from flows.cli.search import mcp, search
from flows.cli.store import fetch, get_start, prune, rollback, suite_texts

DEFAULT_PORT = 4200


class Commands(TyperGroup):
    """The commands below, and after them those that start a flow.

    Their options are made from the flows' parameters: to import those would be a tenth of a search's second.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None where there is none."""
        return super().get_command(ctx, cmd_name) or _flow_commands().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them, as --help lists them."""
        return [*_flow_commands().list_commands(ctx), *super().list_commands(ctx)]


def _flow_commands() -> TyperGroup:
    from flows.cli.run_commands import runs

    return typer.main.get_group(runs)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw text and code in; an embedding model and a search index out. `cpt COMMAND -h` explains a command. A first"
    " run: cpt run --preset demo; then: cpt search QUERY.",
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"cpt-factory {version('cpt-factory')}")
        raise typer.Exit


@app.callback()
def cpt(
    version: Annotated[
        bool, typer.Option("--version", help="Say which release this is.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before the command."""


Artifacts = Annotated[str, typer.Option(metavar="URL", help="Where artifacts lie: s3://bucket/prefix, or a folder.")]

app.add_typer(plan_app)
app.add_typer(config_app, name="config")
app.command()(deploy)
app.command("export-vectors")(export_vectors)
app.command("get-start")(get_start)
app.command()(fetch)
app.command()(index)
app.command()(mcp)
app.command()(prune)
app.command()(push)
app.command()(reproduce)
app.command()(runs)
app.command()(rollback)
app.command()(search)
app.command()(status)
app.command("suite-texts")(suite_texts)


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(metavar="URL|SPEC", help="A path, a glob, a URL, or a dump spec (.yaml).")],
    reader: Annotated[
        str, typer.Option(help="Reader for a path, glob or URL. Empty: chosen by its first bytes, else by its name.")
    ] = "",
    records: Annotated[int, typer.Option(help="Maximal number of texts read from each source.", min=1)] = 1000,
    samples: Annotated[int, typer.Option(help="Documents and pairs shown for each source.", min=0)] = 10,
    filters: Annotated[bool, typer.Option("--filters", help="Show instead what each filter would drop, with samples.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Show what a dump holds: reader, bytes, texts, what would be left out and why, ten documents and pairs."""
    from flows.cli.inspect import inspect_dump, print_json

    if not as_json:
        inspect_dump(target, reader, records, samples, filters)
        return
    from pipeline_lib.errors import UserError, redacted

    try:
        why = print_json(target, reader, records, samples)
    except UserError as error:
        why = str(error)
    if why:
        typer.echo(redacted(f"cpt: {target}: {why}"), err=True)
        raise typer.Exit(1)


@app.command()
def trace(
    pair_id: Annotated[str, typer.Argument(metavar="PAIR_ID", help="The id of a row of pairs.parquet, or its first digits.")],
    artifacts: Artifacts = "",
) -> None:
    """Show where a pair came from: source, file or URL, record, line, and the hash of the dump's file."""
    from flows.cli.inspect import print_trace

    print_trace(pair_id, artifacts)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of Prefect's UI and API, on loopback.", min=1, max=65535)] = DEFAULT_PORT,
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Switch every schedule on; otherwise none is changed.")
    ] = False,
    restart_lost: Annotated[
        int,
        typer.Option(
            metavar="TIMES",
            help="How often a run that a restart cut off is restarted; 0: only if its deployment is tagged restart-lost.",
            min=0,
        ),
    ] = 0,
) -> None:
    """Start Prefect's server and UI, all deployments of prefect.yaml, and a worker; Ctrl-C stops all."""
    from flows.orchestrator.up import serve_platform

    serve_platform(_home(), port, schedules, restart_lost)


def _home() -> Any:
    from pipeline_lib.runtime.machine import artifact_home

    return artifact_home()
