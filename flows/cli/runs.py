"""Training runs, `cpt runs`: sources, checkpoints, figures, and the champion that search uses; what goes on, `cpt status`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store

THIS_PYTHON = "this machine's Python"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        key: of its `train` artifact.
        name: of its report; before it has one, what it was asked for as.
        made: when its training began, as ISO 8601 in UTC.
        source: the folder, dump spec or training sets that it learned from.
        checkpoints: labels, earliest first.
        chosen: the published checkpoint, by the run's newest report; empty without one.
        champion: the checkpoint that searches use now, by whatever name, if it is of this run.
        published: name in the registry to the checkpoint that searches for it use, if it is of this run.
        figures: kind of task to its headline figure on the test split, by that report.
        keys: stage to the key of an artifact that it was made from.
        report: the folder of that report; empty without one.
    """

    key: str
    name: str
    made: str
    source: str
    checkpoints: tuple[str, ...]
    chosen: str = ""
    champion: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    report: str = ""
    published: dict[str, str] = field(default_factory=dict)


def runs(
    artifacts: Annotated[str, typer.Option(metavar="URL", help="The artifact store: s3://bucket/prefix, or a folder.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array of runs, newest first.")] = False,
) -> None:
    """List finished training runs, newest first: key, name, source, checkpoints, figures; * marks the one in use."""
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.store.store import Store

    home = artifact_home()
    store = Store.at(artifacts or str(home / "store"))
    found = find_runs(home, store)
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in found], indent=1, ensure_ascii=False))
    elif not found:
        typer.echo(f"no finished run under {store.place}: start one with `cpt run --preset demo`")
    else:
        _print(found)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object.")] = False,
    artifacts: Annotated[str, typer.Option(metavar="URL", help="The artifact store: s3://bucket/prefix, or a folder.")] = "",
) -> None:
    """Show what runs now, published models with figures, next scheduled runs, the last failure and its remedy, and disk use."""
    from flows.orchestrator.status import read_status
    from pipeline_lib.runtime.machine import artifact_home

    found = read_status(artifact_home(), artifacts)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    from flows.cli.status_page import print_status

    print_status(found)


def find_runs(home: Path, store: Store) -> list[Run]:
    """The runs of a store, newest first.

    Args:
        home: the artifact root with its reports and its registry.
    """
    reports = _reports(home)
    champions = _champions(home, store)
    found = [_run(trained, reports.get(trained.manifest.key), champions) for trained in store.artifacts("train")]
    return sorted(found, key=lambda run: (run.made, run.key), reverse=True)


def _run(trained: Artifact, report: tuple[Path, dict[str, Any]] | None, champions: Mapping[str, dict[str, str]]) -> Run:
    from flows.orchestrator.status import headline_figures
    from pipeline_lib.model.checkpoint import labels_of_run

    origin = json.loads(trained.note("origin.json") or b"{}")
    params, tuning = origin.get("params") or {}, origin.get("tuning") or {}
    told: dict[str, Any] = report[1] if report else {}
    published = champions.get(trained.digest, {})
    return Run(
        key=trained.manifest.key,
        name=told.get("name") or params.get("name") or params.get("preset") or ("tuned" if tuning else ""),
        made=datetime.fromtimestamp(trained.started_at, UTC).isoformat(timespec="seconds"),
        source=_source(params, tuning),
        checkpoints=tuple(labels_of_run(trained)),
        chosen=str(told.get("selection", {}).get("chosen", "")),
        champion=next(iter(published.values()), ""),
        published=published,
        figures=headline_figures(told.get("test", {}).values()),
        keys=origin.get("keys") or {},
        report=str(report[0].parent) if report else "",
    )


def _source(params: Mapping[str, Any], tuning: Mapping[str, Any]) -> str:
    if tuning:
        return " ".join([str(tuning.get("checkpoint", "")), *map(str, tuning.get("data", ()))])
    return str(params.get("source") or params.get("dump") or (THIS_PYTHON if params else ""))


def _reports(home: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Key of a training run to its newest report; an earlier version kept the newest run's alone."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    own = sorted((home / "reports").glob("*/*/report.json"), key=lambda path: path.stat().st_mtime)
    for path in (*(home / "reports").glob("*/report.json"), *own):
        report = json.loads(path.read_bytes())
        found[report.get("lineage", {}).get("train", {}).get("key", "")] = path, report
    return found


def _champions(home: Path, store: Store) -> dict[str, dict[str, str]]:
    """Content digest of each run to the names that searches use its checkpoints by, that of searches without a name first."""
    from pipeline_lib.search.registry import names, pair_of

    first = _default(home)
    digests: dict[str, list[str]] = {}
    for name in sorted(names(home), key=lambda name: (name != first, name)):
        if pair := pair_of(home, name):
            digests.setdefault(pair.model_digest, []).append(name)
    found: dict[str, dict[str, str]] = {}
    for made in store.artifacts("export") if digests else ():
        for name in digests.get(made.digest, ()):
            found.setdefault(made.manifest.inputs["trained"], {})[name] = str(made.manifest.config["label"])
    return {trained: dict(sorted(by.items(), key=lambda one: (one[0] != first, one[0]))) for trained, by in found.items()}


def _default(home: Path) -> str:
    """The name that is searched where none is given; empty where there is none."""
    from pipeline_lib.errors import UserError
    from pipeline_lib.search.registry import default_name

    try:
        return default_name(home)
    except UserError:
        return ""


def _print(found: list[Run]) -> None:
    from rich.console import Console

    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.store.store import SHOWN_DIGITS

    console = Console()
    console.print(_table(found))
    first = _default(artifact_home())
    used = [(name != first, name, run) for run in found for name in run.published]
    for _, name, run in sorted(used, key=lambda one: one[:2]):
        checkpoint = f"{run.key[:SHOWN_DIGITS]}/{run.published[name]}"
        by = "" if name == first else f" --name {name}"
        console.print(f"* {checkpoint} is what `cpt search{by}` uses.", markup=False, highlight=False)
        if name == first and run.report:
            console.print(f"  Its report: {run.report}/report.html", markup=False, highlight=False, soft_wrap=True)
    hint = "Commands take a checkpoint as it stands here: cpt evaluate --checkpoint KEY/step-..., cpt publish --checkpoint ..."
    console.print(hint, markup=False, highlight=False)


def _table(found: list[Run]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from flows.orchestrator.status import HEADLINES, HEADS
    from pipeline_lib.store.store import SHOWN_DIGITS

    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for column in ("", "checkpoint"):
        table.add_column(column, no_wrap=True)
    table.add_column("of", justify="right")
    for column, width in {"name": 6, "made": 10, "source": 8}.items():  # 80 columns in all
        table.add_column(column, overflow="fold", min_width=width)
    for kind in HEADLINES:
        table.add_column(HEADS[kind], justify="right", no_wrap=True)
    for run in found:
        label = run.champion or run.chosen or (run.checkpoints[-1] if run.checkpoints else "-")
        figures = [f"{run.figures[kind]:.3f}" if kind in run.figures else "-" for kind in HEADLINES]
        made = run.made[:16].replace("T", " ")
        mark = "*" if run.champion else ""
        cells = (f"{run.key[:SHOWN_DIGITS]}/{label}", str(len(run.checkpoints)), run.name, made, run.source)
        table.add_row(mark, *(Text(cell) for cell in cells), *figures, style="bold" if run.champion else None)
    return table
