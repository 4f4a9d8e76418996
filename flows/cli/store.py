"""Garbage collection of the artifact store, `cpt prune`: what nobody needs is listed and, with --yes, removed."""

from __future__ import annotations

from typing import Annotated

import typer


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
    from flows.workspace import open_store
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
