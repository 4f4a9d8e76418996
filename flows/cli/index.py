"""`cpt index`: update of the index in use (--update), and which kind would be built for so many vectors (--plan N).

`cpt export-vectors`: the vectors of a published index for other stores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    from flows.params import RunParams

USUAL_WIDTH = 256
MOST_DIGITS = 9  # of a number of dimensions, spaces around it included
FORMATS, PRECISIONS = ("parquet",), ("float32", "float16")  # of exported vectors


def index(
    plan: Annotated[
        int | None, typer.Option("--plan", metavar="N", help="Number of vectors (functions and passages) to plan for.", min=1)
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Dimensions; unset: those of the index in use, else 256.", min=1, max=65_536)
    ] = None,
    dims: Annotated[
        str, typer.Option(metavar="D,D,...", help="Compare these dimensions: bytes, and the quality that the report measured.")
    ] = "",
    budget: Annotated[str, typer.Option(metavar="SIZE", help="Memory for the index, as 2GB; empty: no bound.")] = "",
    update: Annotated[
        bool, typer.Option("--update", help="Let the index in use take in what was added, changed and removed since.")
    ] = False,
    name: Annotated[str, typer.Option(help="Published name that is updated; empty: the one that searches use.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --update: say what is new, and do nothing.")] = False,
    artifacts: Annotated[str, typer.Option(metavar="URL", help="With --update: s3://bucket/prefix, or a folder.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Update the index in use without training (--update); or bytes, build time and recall of every kind of index (--plan)."""
    if update == (plan is not None):
        raise UserError("give --update, to bring the index in use up to date, or --plan N, to compare kinds of index")
    if update:
        _update(name, dry_run, artifacts, as_json)
    elif plan is not None:
        _plan(plan, dim, budget, as_json, dims)


def _update(name: str, dry_run: bool, artifacts: str, as_json: bool) -> None:
    """Start the flow of nights under the policy `index`, as the champion's run was asked for."""
    from flows.cli.summary import print_night
    from flows.cli.terminal import check_params, run_flow

    params = update_params(name, artifacts).model_copy(update={"dry_run": dry_run})
    check_params(params)
    done = run_flow("flows.retrain:retrain", params)["night"]
    if as_json:
        typer.echo(json.dumps(done))
    else:
        print_night(done)


def update_params(name: str = "", artifacts: str = "") -> RunParams:
    """Parameters that update the index of a published name: those of its champion's run, and no training.

    Raises:
        UserError: nothing is published under it, or its run left no parameters.
    """
    from flows.params import RunParams
    from flows.runs import champion_run, open_store
    from flows.workspace import recorded_params
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search.registry import default_name

    store = open_store(artifacts or None)
    home = store.remote or artifact_home()
    name = name or default_name(home)
    champion = champion_run(store, home, name)
    if champion is None:
        raise UserError(f"{name}: nothing of this name is published, or what its model was made from is gone; see `cpt status`")
    recorded = recorded_params(champion.lineage)
    if recorded is None:
        raise UserError(f"{name}: its run left no parameters; give them: cpt run ... --set nightly.policy=index")
    given = recorded.model_dump(mode="json", exclude_defaults=True)
    words = [*given.get("set", ()), "nightly.policy=index"]
    machine = {"machine": {"artifacts": artifacts}} if artifacts else {}
    return RunParams.model_validate({**given, **machine, "name": name, "set": words})


def _plan(plan: int, dim: int | None, budget: str, as_json: bool, dims: str) -> None:
    """Print what every kind of index would take, by this machine's own rates, and which is chosen."""
    from dataclasses import asdict

    from flows.cli.store import Told
    from pipeline_lib.index.plan import calibrated, chosen_kind, describe, plan_rows
    from pipeline_lib.index.recipes import parse_bytes
    from pipeline_lib.runtime.machine import artifact_home

    home = artifact_home()
    if dims:
        by_dims(plan, dims, parse_bytes(budget) if budget else None, _measured(home), as_json)
        return
    width = dim or _width_in_use(home) or USUAL_WIDTH
    budget_bytes = parse_bytes(budget) if budget else None
    chosen_kind(plan, width, budget_bytes)  # before half a minute of measuring, which no plan may come of
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
    from pipeline_lib.index.plan import chosen_kind, said_bytes
    from pipeline_lib.index.recipes import weight

    if not all(dim.strip().isdecimal() and len(dim) <= MOST_DIGITS for dim in dims.split(",")):
        raise UserError(f"--dims {dims!r}: expected numbers of dimensions with commas between, as 64,128,256")
    asked = [int(dim) for dim in dims.split(",")]
    check_dims(asked, max(measured, default=None), "--dims")
    rows = []
    for dim in sorted(asked):
        kind = chosen_kind(n, dim, budget_bytes)
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
    from pipeline_lib.errors import CorruptArtifact
    from pipeline_lib.search.registry import in_use

    try:
        report = json.loads((home / "reports" / in_use(home).name / "report.json").read_text(encoding="utf-8"))
        return {int(row["dim"]): row["kinds"] for row in report.get("dimensions", ())}
    except (UserError, CorruptArtifact, OSError, ValueError, KeyError, TypeError):
        return {}


def _width_in_use(home: Path) -> int | None:
    """Dimensions of the index that searches use without a name; None: there is none."""
    from pipeline_lib.errors import CorruptArtifact
    from pipeline_lib.index.verified import read_json
    from pipeline_lib.search.registry import in_use

    try:
        return int(read_json(in_use(home).index / "index.json")["dim"])
    except (UserError, CorruptArtifact, KeyError):
        return None


def export_vectors(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write vectors.parquet to.")],
    name: Annotated[str, typer.Option(help="Name of the model; empty: the one that searches use without a name.")] = "",
    kind: Annotated[str, typer.Option(help="code or text; empty: both.")] = "",
    form: Annotated[str, typer.Option("--format", help="Format of the file; only parquet.")] = "parquet",
    precision: Annotated[str, typer.Option(help="Precision of the vectors: float32, or float16 at half the size.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="Bucket whose models are used: s3://bucket/prefix; empty: this machine's.")
    ] = "",
) -> None:
    """Write ids, texts, places and vectors of the published index to a Parquet file, for Qdrant, pgvector and others."""
    from flows.cli.store import Told
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search import vectors
    from pipeline_lib.search.query import KINDS
    from pipeline_lib.search.registry import in_use

    for option, value, known in (("kind", kind, ("", *KINDS)), ("format", form, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"--{option} {value!r}: choose one of {', '.join(filter(None, known))}")
    options = vectors.VectorExport(kind or None, cast(vectors.VectorPrecision, precision), overwrite)
    written = vectors.export_vectors(in_use(artifacts or artifact_home(), name), out, options, Told())
    typer.echo(f"{written.path}: {written.rows:,} rows of {written.dim} dimensions, {precision}, {written.bytes:,} bytes")
    if written.reconstructed:
        typer.echo(f"{written.reconstructed:,} vectors came from the index: the store's cache has lost them", err=True)
