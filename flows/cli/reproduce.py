"""`cpt reproduce`: what the paper's tables and figures report, and the commands that ask the same, in full and in small."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    from pipeline_lib.config.paper import Item

PAGE = "docs/results/paper.md"


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="table-1 to table-9, figure-1, figure-4; empty: list them.")] = "",
    run: Annotated[bool, typer.Option("--run", help="Run the small-scale commands, if their data is on this machine.")] = False,
    suite_data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the suites' downloads.")] = Path("eval"),
    preset: Annotated[str, typer.Option(help="Preset of the small-scale commands.")] = "demo",
    source: Annotated[str, typer.Option(metavar="DIR|SPEC", help="Folder or dump spec of the small-scale commands.")] = "",
) -> None:
    """Show a table or figure of the paper and the commands for it, at full and at small scale; --run runs the small ones."""
    from pipeline_lib.config.paper import ON_PAGE, read_paper

    paper = read_paper()
    if not name:
        typer.echo("\n".join(f"{item.name:9} {item.title}" for item in paper.items))
        return
    item = paper.item(name)
    small = [command.format_map(_filled(preset, source, suite_data)) for command in item.small]
    if not run:
        full = [command.format_map(ON_PAGE) for command in item.full]
        places = [f"  {file}: {place}" for file, place in paper.data_of(item.full)]
        typer.echo("\n".join([*_reported(item), "", "in full:", *_indented(full), *places, "", "in small:"]))
        for command in small:
            typer.echo("\n".join([*_indented([command]), *(f"    {line}" for line in lacking(command))]))
        typer.echo(f"\n{item.shows}\nSources, and what it gave here: {PAGE}")
        return
    if missing := [line for command in small for line in lacking(command)]:  # steps build on one another: none is begun
        raise UserError("\n  ".join([f"{name}: nothing was run, for its data is not there", *missing]))
    for command in small:
        _run(command)


def _filled(preset: str, source: str, suite_data: Path) -> dict[str, str]:
    """What stands for the words in braces of a step in small."""
    from pipeline_lib.config.presets import preset as named

    last = f"step-{named(preset).train.steps:06}"
    given = f" --source {shlex.quote(source)}" if source else ""
    return {"preset": preset, "last": last, "source": given, "data": shlex.quote(str(suite_data))}


def _reported(item: Item) -> list[str]:
    rows = [f"  {' | '.join(cell or '-' for cell in row)}" for row in (item.header, *item.rows)]
    return [f"{item.name}: {item.title}", *rows, f"  {item.unknown}"]


def _indented(commands: list[str]) -> list[str]:
    return [f"  {command}" for command in commands]


def lacking(command: str) -> list[str]:
    """Files of a command that are not there, each with where to get it; none where it has some of its suites."""
    from pipeline_lib.config.paper import read_paper

    words = shlex.split(command)
    given = {flag: [words[at + 1] for at, word in enumerate(words[:-1]) if word == flag] for flag in words}
    found = []
    for file in (entry.rpartition("=")[2] for entry in given.get("--training-data", [])):
        if not Path(file).exists():
            places = [place for name, place in read_paper().places.items() if Path(name).name in Path(file).parts]
            found.append(f"{file} is not there; get it: {' '.join(places)}")
    if suites := given.get("--suite", []):
        found += _missing_suites(suites, Path(given["--suite-data"][0]), *given.get("--split", ["test"]))
    return found


def _missing_suites(names: list[str], data: Path, split: str) -> list[str]:
    """What is missing of suites; nothing where one of them is there, for the others are passed over and listed."""
    from pipeline_lib.config.evaluation import SuiteConfig
    from pipeline_lib.evaluation.suites.official_files import MissingData
    from pipeline_lib.evaluation.suites.registry import open_suite, suite_names

    missing = []
    for name in suite_names(names):
        try:
            open_suite(name, data, SuiteConfig()).paths(split)
        except MissingData as error:
            missing.append(f"{name}: {error}")
        else:
            return []
    return missing


def _run(command: str) -> None:
    """Run one step.

    Raises:
        UserError: it failed; what it said stands above.
    """
    typer.echo(f"$ {command}", err=True)
    sys.stdout.flush()
    child = subprocess.Popen([sys.executable, "-m", "flows.cli", *shlex.split(command)[1:]], env=os.environ)
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if code:
        raise UserError(f"`{command}` ended with {code}; mend what it says and run the same again: what is done is found done")
