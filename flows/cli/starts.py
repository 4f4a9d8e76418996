"""What is fetched when a person asks: named starting points, `cpt get-start`, and the packages of a dump spec, `cpt fetch`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pipeline_lib.errors import UserError

EVERY_SECONDS = 5.0


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
