"""`cpt reproduce`: what the paper's tables and figures report, and the commands that ask the same, in full and in small."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    from pipeline_lib.config.paper import Item

PAGE, SUITES_PAGE = "docs/results/paper.md", "docs/how-to/evaluation.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


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
        places = [f"  {file}: {_plain(place)}" for file, place in paper.data_of(item.full)]
        if any("--suite-data" in command for command in full):
            places.append(f"  eval: the suites' files, as {SUITES_PAGE} lists them")
        typer.echo("\n".join([*_reported(item), "", "in full:", *_indented(full), *places, "", "in small:"]))
        for command in small:
            typer.echo("\n".join([*_indented([command]), *(f"    {line}" for line in lacking(command))]))
        typer.echo("\n".join([*_measured(item), "", _plain(item.shows), f"Sources: {PAGE}"]))
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
    return [f"{item.name}: {item.title}", *_rows(item.header, item.rows), f"  {item.unknown}"]


def _measured(item: Item) -> Iterator[str]:
    """What the small commands gave here, where the documentation is: a wheel comes without it."""
    from pipeline_lib.config.paper import DOCS, recorded_cells

    if item.recorded and DOCS.is_dir():
        yield "\nmeasured here:"
        for recorded in item.recorded:
            yield from [f"  {recorded.title}:"] if recorded.title else []
            yield from _rows(*recorded_cells(DOCS, recorded))


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {' | '.join(_plain(cell) or '-' for cell in row)}" for row in (header, *rows)]


def _plain(text: str) -> str:
    """Markdown for a terminal: the words of a link with its address, nothing in bold."""
    return LINK.sub(lambda link: f"{link[1]} ({link[2]})" if "://" in link[2] else link[1], text).replace("**", "")


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
            found.append(f"{file} is not there; get it: {_plain(' '.join(places))}")
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
