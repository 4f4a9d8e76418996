"""`cpt index --plan N`: which kind of index would be built for so many vectors, and what each kind would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

USUAL_WIDTH = 256


def index(
    plan: Annotated[int, typer.Option("--plan", metavar="N", help="Vectors: functions and passages to be searched.", min=1)],
    dim: Annotated[
        int | None, typer.Option(help="Dimensions; unset: those of the index in use, else 256.", min=1, max=65_536)
    ] = None,
    dims: Annotated[
        str, typer.Option(metavar="D,D,...", help="Compare these dimensions: bytes, and the quality that the report measured.")
    ] = "",
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
    if dims:
        by_dims(plan, dims, parse_bytes(budget) if budget else None, _measured(home), as_json)
        return
    width = dim or _width_in_use(home) or USUAL_WIDTH
    budget_bytes = parse_bytes(budget) if budget else None
    rows = plan_rows(plan, width, budget_bytes, calibrated(home, width, Told()))
    if as_json:
        typer.echo(
            json.dumps({"vectors": plan, "dim": width, "budget_bytes": budget_bytes, "kinds": [asdict(row) for row in rows]})
        )
    else:
        typer.echo(describe(rows, plan, width))


def by_dims(n: int, dims: str, budget_bytes: int | None, measured: dict[int, dict[str, Any]], as_json: bool) -> None:
    """Print what an index takes at each number of dimensions, and the quality there.

    Args:
        measured: dimensions to figures by kind, of the model in use.

    Raises:
        UserError: a dimension cannot be, or no kind of index fits the budget.
    """
    from pipeline_lib.config.model import check_dims
    from pipeline_lib.errors import UserError
    from pipeline_lib.search.index_plan import said_bytes
    from pipeline_lib.search.recipes import choose, weight

    if not all(dim.strip().isdecimal() for dim in dims.split(",")):
        raise UserError(f"--dims {dims!r}: expected numbers of dimensions with commas between, as 64,128,256")
    asked = [int(dim) for dim in dims.split(",")]
    check_dims(asked, max(measured, default=None), "--dims")
    rows = []
    for dim in sorted(asked):
        kind = choose(n, dim, budget_bytes)
        quality = {name: figure["value"] for name, figure in measured.get(dim, {}).items()}
        rows.append({"dim": dim, "kind": kind, **vars(weight(kind, n, dim)), "quality": quality})
    if as_json:
        typer.echo(json.dumps({"vectors": n, "budget_bytes": budget_bytes, "dims": rows}))
        return
    names = list(dict.fromkeys(name for row in rows for name in row["quality"]))
    typer.echo("".join(f"{head:>16}" for head in ("dimensions", "kind", "on disk", "in memory", *names)))
    for row in rows:
        cells = [str(row["dim"]), row["kind"], said_bytes(row["disk_bytes"]), said_bytes(row["memory_bytes"])]
        cells += [f"{row['quality'][name]:.3f}" if name in row["quality"] else "-" for name in names]
        typer.echo("".join(f"{cell:>16}" for cell in cells))
    if not names:
        typer.echo("no report of the model in use tells of quality by dimensions: a run with evaluate.dims measures it")


def _measured(home: Path) -> dict[int, dict[str, Any]]:
    """Figures by dimension in the report of the model that searches use without a name; none where there are none."""
    from pipeline_lib.errors import CorruptArtifact, UserError
    from pipeline_lib.search.registry import in_use

    try:
        report = json.loads((home / "reports" / in_use(home).name / "report.json").read_text(encoding="utf-8"))
        return {int(row["dim"]): row["kinds"] for row in report.get("dimensions", ())}
    except (UserError, CorruptArtifact, OSError, ValueError, KeyError, TypeError):
        return {}


def _width_in_use(home: Path) -> int | None:
    """Dimensions of the index that searches use without a name; None: there is none."""
    from pipeline_lib.errors import CorruptArtifact, UserError
    from pipeline_lib.search.registry import in_use
    from pipeline_lib.search.verified import read_json

    try:
        return int(read_json(in_use(home).index / "index.json")["dim"])
    except (UserError, CorruptArtifact, KeyError):
        return None
