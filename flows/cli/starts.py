"""Named starting points at a terminal, `cpt get-start`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pipeline_lib.errors import UserError

EVERY_SECONDS = 5.0


def get_start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the list; empty: list them.")] = "",
) -> None:
    """Fetch a language model to start from, pinned by revision and hash; without a name: list what there is."""
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
