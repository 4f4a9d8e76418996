"""What this machine keeps: fetched starting points and packages, texts of evaluation suites, earlier models, artifacts.

`cpt get-start`, `cpt fetch`, `cpt suite-texts`, `cpt rollback` and `cpt prune`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib.errors import UserError

EVERY_SECONDS = 5.0  # between two lines of progress


def get_start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a listed model; empty: list them.")] = "",
) -> None:
    """Download a model to start from, pinned by revision and hash; without a name: list the models."""
    from pipeline_lib.model.starts import STARTS, fetch, is_here

    if not name:
        for start in STARTS.values():
            here = "here" if is_here(start) else f"{start.download_bytes / 1e6:.0f} MB to fetch"
            typer.echo(f"{start.name:26} {here:16} {start.kept_bytes / 1e6:5.0f} MB kept  {start.licence}  {start.about}")
        return
    if name not in STARTS:
        raise UserError(f"no start is called {name!r}; there are {', '.join(STARTS)}")
    start = STARTS[name]
    was_here = is_here(start)
    folder = fetch(start, Told())
    typer.echo(f"{folder}" + (" was here already" if was_here else ""))
    typer.echo(f"start from it with --init {name}")


def fetch(spec: Annotated[str, typer.Argument(metavar="SPEC", help="A dump spec (.yaml) that names packages.")]) -> None:
    """Download the packages that a dump spec names, with pip and apt-get, pinned by version and hash."""
    from pipeline_lib.sources import packages
    from pipeline_lib.sources.dump_spec import read_spec

    asked = list(dict.fromkeys(found for source in read_spec(spec) if (found := packages.package_of(source.url))))
    if not asked:
        raise UserError(f"{spec}: none of its sources is a package; a package's url is {packages.FORMS}")
    came = packages.fetch(asked, Told())
    size = sum(file.stat().st_size for package in asked if (file := package.file()))
    here = f"{len(asked) - came} of them were here already"
    typer.echo(f"{packages.packages_folder()}: {len(asked)} packages, {size / 1e6:.0f} MB; {here}")
    typer.echo(f"look with `cpt inspect {spec}`, train with --source {spec}")


def rollback(
    name: Annotated[str, typer.Option(help="Name of the model; empty: the one that searches use without a name.")] = "",
    to: Annotated[
        int | None, typer.Option(help="Number of the event to go back to; unset: the one before the last promotion.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason to record in the history.")] = "",
    show: Annotated[bool, typer.Option("--list", help="Only show the history of the name.")] = False,
    artifacts: Annotated[str, typer.Option(metavar="URL", help="Bucket with the registry; empty: this machine's.")] = "",
) -> None:
    """Bring back the model and index that a name had before its last promotion."""
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search import registry

    home = artifacts or artifact_home()
    name = name or registry.default_name(home)
    if show:
        used, events = registry.pair_of(home, name), registry.history(home, name)
        if not events and registry.in_use(home, name):  # raises where there is nothing of that name
            typer.echo(f"{name}: no history yet, its pair is of an earlier version")
        for event in events:
            made = event.get("pair") or {}
            of = f"{made.get('trained', '')[:8]}/{made.get('checkpoint', '')}" if made else str(event.get("candidate", ""))
            mark = "*" if used and event["number"] == used.event else " "
            typer.echo(
                f"{mark} {event['number']:>4}  {event['at']}  {event['event']:<12} {of}  {event.get('why', '')}".rstrip()
            )
        return
    before = registry.pair_of(home, name)
    told = home if isinstance(home, Path) and (home / "notify.yaml").is_file() else None
    if told:
        from flows.notices import mark_registry, tell_registry  # Prefect: two seconds

        mark_registry(told)
    now = registry.rollback(home, name, to, reason)
    was = f", in place of {before.trained[:8]}/{before.checkpoint}" if before else ""
    typer.echo(f"{name}: searches use {now.trained[:8]}/{now.checkpoint} again{was} (event {now.event})")
    if told:
        tell_registry(told)


def suite_texts(
    suite: Annotated[list[str], typer.Option(metavar="NAME", help="A suite or group, e.g. beir/scifact; may be repeated.")],
    suite_data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the suites' downloads.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the texts to, for --contamination.")],
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Skip splits whose files are missing.")] = False,
) -> None:
    """Write the judged texts of evaluation suites, for `cpt run --contamination DIR`."""
    from pipeline_lib.config.evaluation import SuiteConfig
    from pipeline_lib.evaluation.suites.registry import open_suite, suite_names, write_judged_texts

    for name in suite_names(suite):
        written = write_judged_texts(open_suite(name, suite_data, SuiteConfig()), out, skip_missing)
        typer.echo(f"{name}: {written:,} texts" if written else f"passed over {name}: none of its files is there")


def prune(
    artifacts: Annotated[str, typer.Option(metavar="URL", help="The artifact store: s3://bucket/prefix, or a folder.")] = "",
    keep_runs: Annotated[
        int, typer.Option(help="How many of the newest indexes and exports to keep, with all that they depend on; 0: all.")
    ] = 0,
    idle_hours: Annotated[
        float, typer.Option(help="Hours for which a file without a living owner must be unchanged.", min=0)
    ] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it nothing is removed.")] = False,
) -> None:
    """List what killed workers left in the artifact store and, with --keep-runs, old runs; --yes removes it."""
    from flows.runs import open_store
    from pipeline_lib.store.prune import find_leftovers, find_unneeded, remove

    store = open_store(artifacts)
    found = find_leftovers(store, idle_hours)
    if keep_runs > 0:
        found += find_unneeded(store, keep_runs, _published(), idle_hours)
    for leftover in found:
        typer.echo(f"{leftover.bytes:>15,}  {leftover.path.relative_to(store.root)}  ({leftover.why})")
    total = sum(leftover.bytes for leftover in found)
    if yes:
        typer.echo(f"{remove(store, found):,} bytes removed from {store.root}, {len(found)} files and folders")
    else:
        typer.echo(f"{total:,} bytes in {len(found)} files and folders of {store.root}; --yes removes them")


def _published() -> list[str]:
    """The digests of the indexes and exports that searches read, by any name, and of those that a rollback brings back."""
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search.registry import kept_pairs

    return [digest for pair in kept_pairs(artifact_home()) for digest in (pair.index_digest, pair.model_digest)]


class Told:
    """Progress as lines: each new step, and one every five seconds."""

    def __init__(self) -> None:
        self.step, self.at = "", 0.0

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Say where it is."""
        step, now = note.partition(":")[0], time.monotonic()
        if step != self.step or now - self.at >= EVERY_SECONDS or (total and done >= total):
            typer.echo(note, err=True)
            self.step, self.at = step, now
