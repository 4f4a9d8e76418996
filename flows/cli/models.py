"""The way back to an earlier model, and the texts of evaluation suites for decontamination."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
