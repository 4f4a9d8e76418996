"""`cpt index --plan N`: which kind of index would be built for so many vectors, and what each kind would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

USUAL_WIDTH = 256


def index(
    plan: Annotated[int, typer.Option("--plan", metavar="N", help="Vectors: functions and passages to be searched.", min=1)],
    dim: Annotated[
        int | None, typer.Option(help="Dimensions; unset: those of the index in use, else 256.", min=1, max=65_536)
    ] = None,
    budget: Annotated[str, typer.Option(metavar="SIZE", help="Memory for the index, as 2GB; empty: no bound.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Bytes, build time and expected recall of every kind of index, by this machine's own rates, and which is chosen."""
    from dataclasses import asdict

    from flows.cli.starts import Told
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search.index_plan import calibrated, describe, plan_rows
    from pipeline_lib.search.recipes import parse_bytes

    home = artifact_home()
    width = dim or _width_in_use(home) or USUAL_WIDTH
    budget_bytes = parse_bytes(budget) if budget else None
    rows = plan_rows(plan, width, budget_bytes, calibrated(home, width, Told()))
    if as_json:
        typer.echo(
            json.dumps({"vectors": plan, "dim": width, "budget_bytes": budget_bytes, "kinds": [asdict(row) for row in rows]})
        )
    else:
        typer.echo(describe(rows, plan, width))


def _width_in_use(home: Path) -> int | None:
    """Dimensions of the index that searches use without a name; None: there is none."""
    from pipeline_lib.errors import CorruptArtifact, UserError
    from pipeline_lib.search.registry import in_use
    from pipeline_lib.search.verified import read_json

    try:
        return int(read_json(in_use(home).index / "index.json")["dim"])
    except (UserError, CorruptArtifact, KeyError):
        return None
