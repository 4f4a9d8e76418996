"""Search for coding agents: the published models as an MCP server over stdio, or over HTTP on loopback, `cpt mcp`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline_lib.errors import UserError

LOOPBACK = "127.0.0.1"


def mcp(
    name: Annotated[str, typer.Option(help="Model to use if an agent names none; empty: the one that `cpt search` uses.")] = "",
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="Bucket whose models are searched: s3://bucket/prefix; empty: this machine's.")
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(help="Port of streamable HTTP on loopback, at /mcp; unset: stdio, as agents start it.", min=1, max=65535),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Embed queries by the model's 8-bit weights.")] = False,
) -> None:
    """Offer the published search to coding agents (MCP), as the tools search, similar, read and status."""
    from flows.cli.search import load_weights
    from pipeline_lib.runtime.machine import artifact_home

    try:
        import mcp.server  # noqa: F401
    except ImportError as error:
        raise UserError("an MCP server needs the SDK, which is not here: pip install 'cpt-factory[mcp]'") from error
    from pipeline_lib.search.mcp_server import HTTP_PATH, Searches, following, make_server

    home = artifacts or artifact_home()
    server = make_server(Searches(home, name, following(home, load_weights, int8)))
    if port is None:
        server.run("stdio")
    else:
        typer.echo(f"http://{LOOPBACK}:{port}{HTTP_PATH}", err=True)
        server.run("streamable-http", host=LOOPBACK, port=port, streamable_http_path=HTTP_PATH)
