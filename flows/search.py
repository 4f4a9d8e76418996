"""`cpt search`: ranked functions and passages of what was published last."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline_lib.errors import UserError

KINDS = ("code", "text")


def search(
    query: Annotated[str, typer.Argument(help="What you look for, in words.")],
    kind: Annotated[str, typer.Option(help="code, text, or empty for both.")] = "",
    k: Annotated[int, typer.Option("-k", help="Hits.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: {query, hits}.")] = False,
) -> None:
    """Ranked functions and passages of the published index."""
    from pipeline_lib.home import artifact_home
    from pipeline_lib.search.query import render_json, render_text
    from pipeline_lib.search.query import search as search_index

    if kind not in ("", *KINDS):
        raise UserError(f"--kind {kind!r}: choose one of {', '.join(KINDS)}")
    hits = search_index(artifact_home(), query, kind or None, k, load_weights)
    typer.echo(render_json(query, hits) if as_json else render_text(hits, kind))


def load_weights(folder: Path) -> Any:
    """An export without model.onnx, for `cpt search`."""
    from pipeline_lib.model.exported import TorchQueries  # torch: only where there is no model.onnx

    return TorchQueries(folder)
