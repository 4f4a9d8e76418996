"""`cpt deploy`: nights of a user's file as deployments `retrain/NAME` on the server of this artifact root.

What was deployed is kept beside Prefect's database, in nights.json: each start of the platform brings it to the server again,
as it does prefect.yaml, and what a person changed in the UI stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def deploy(
    config: Annotated[
        list[Path] | None, typer.Option("--config", metavar="FILE", help="YAML file of scheduled runs; repeatable.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List what was deployed this way.")] = False,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="NAME", help="Remove retrain/NAME; repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the files without deploying.")] = False,
) -> None:
    """Deploy scheduled runs from a YAML file: source, preset, schedule, policy, promotion. Run again to update."""
    from pipeline_lib.runtime.machine import writable_home

    if sum(map(bool, (config, listed, remove))) != 1:
        raise UserError("give --config FILE, --list or --remove NAME")
    home = writable_home()
    if listed:
        from flows.orchestrator.declared import saved_nights

        typer.echo("\n".join(_lines(saved_nights(home))) or "nothing is deployed by `cpt deploy`; give --config FILE")
    elif remove:
        _on_server(home, lambda client: _removed(client, home, remove))
    else:
        entries = entries_of(config or ())
        if check:
            typer.echo("\n".join(_lines(entries)))
        else:
            _on_server(home, lambda client: _deployed(client, home, entries))


def entries_of(files: list[Path] | tuple[Path, ...]) -> list[dict[str, Any]]:
    """The deployments of these files, in the words of prefect.yaml, each checked.

    Raises:
        UserError: a file or an entry is wrong; the message names file, entry and key.
    """
    from flows.cli.nightly_file import read_nights
    from flows.orchestrator.declared import declaration

    declared = declaration()["deployments"]
    taken = {str(entry["name"]): entry for entry in declared if entry["entrypoint"].endswith(":retrain")}
    entries: dict[str, dict[str, Any]] = {}
    for path in files:
        for night in read_nights(path):
            where = f"{path}: entry {night.name}: "
            if night.name in entries:
                raise UserError(f"{where}another file has an entry of that name")
            if night.name in taken and night.name != "nightly":
                raise UserError(f"{where}prefect.yaml has a deployment of that name; give another one")
            try:
                entries[night.name] = night.entry(taken["nightly"], path.expanduser().absolute().parent)
            except UserError as error:
                raise UserError(f"{where}{error}") from error
    return list(entries.values())


def _deployed(client: SyncPrefectClient, home: Path, entries: list[dict[str, Any]]) -> None:
    from flows.orchestrator.deployments import deploy_nights

    for name, kept in deploy_nights(client, home, entries).items():
        typer.echo(f"retrain/{name}: {_about(next(entry for entry in entries if entry['name'] == name))}")
        if kept:
            typer.echo(f"  as a person set it in the UI, and not as the file says: {', '.join(kept)}")


def _removed(client: SyncPrefectClient, home: Path, names: list[str]) -> None:
    from flows.orchestrator.deployments import remove_nights

    remove_nights(client, home, names)
    typer.echo("\n".join(f"retrain/{name} is removed; its model, index and history stay" for name in names))


def _on_server(home: Path, act: Any) -> None:
    """Do something on the platform that runs or, where none does, on a server of the same database for as long as it takes."""
    from flows.orchestrator.declared import PROJECT
    from flows.orchestrator.server import prefect_environment, prefect_server

    os.environ.update(prefect_environment(home))  # before prefect is imported
    os.environ.update({"CPT_HOME": str(home), "PIPELINE_HOME": str(PROJECT)})
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with prefect_server(home) as url:
        from prefect.client.orchestration import SyncPrefectClient

        from flows.orchestrator.deployments import ensure_work_pool

        # of this very URL: Prefect, which checked the schedules of the files, read its settings before there was one, and would
        # start a second server on the same database
        with SyncPrefectClient(api=url) as client:
            ensure_work_pool(client)
            act(client)


def _lines(entries: list[dict[str, Any]]) -> list[str]:
    return [f"retrain/{entry['name']}: {_about(entry)}" for entry in entries]


def _about(entry: dict[str, Any]) -> str:
    """Schedule and description of a deployment in a line."""
    when = []
    for schedule in entry["schedules"]:
        told = "cron {cron} {timezone}" if "cron" in schedule else "every {interval:g} s"
        when.append(told.format(**schedule) + ("" if schedule["active"] else " (paused)"))
    return f"{', '.join(when) or 'by hand'}; {entry['description']}"
