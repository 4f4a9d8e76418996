"""The paper, table by table: one description (paper.yaml), from which `cpt reproduce`, its page and their tests come.

Figures of this project are never typed here: a table of the documentation is named, and read where it stands.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline_lib.errors import UserError

DESCRIPTION = Path(__file__).with_suffix(".yaml")
DOCS = Path(__file__).parents[2] / "docs"  # of a checkout: a wheel has the description alone
PAGE = "results/paper.md"
ON_PAGE = {"preset": "demo", "last": "step-000240", "source": "", "data": "eval"}
INTRODUCTION = """# The paper, table by table

*Text and Code Embeddings by Contrastive Pre-Training* ([arXiv 2201.10005](https://arxiv.org/abs/2201.10005)): what it reports,
the commands that ask the same at its sizes, and what the same gives in small here. Only figures with a source that can be named
are repeated; what is known of the others is said in words.

`cpt reproduce` lists the tables. `cpt reproduce table-9` prints the steps of one, and with `--run` it runs those in small. This
page is made from one description by `python -m pipeline_lib.config.paper`; the figures in small are read from the pages that
are linked.

Commands in full need a GPU or a cluster: begin with [`cpt plan`](../how-to/starting-points.md#cpt-plan). `published`, and
`cpt evaluate` without `--model`, mean the model that was published last.

## Data

The suites' files lie in `eval`: [what lies where, and where it comes from](../how-to/evaluation.md#the-suites). The other data:
"""
SPECS = """
The first two as [dump specs](../reference/dump-spec.md):

```yaml
# text.yaml
- {reader: json_lines, url: c4/en/c4-train.*.json.gz, licence: ODC-BY}
# code.yaml
- {reader: parquet, url: the-stack-dedup/data/python/*.parquet, options: {layout: the_stack}}
```
"""


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Recorded(_Described):
    """Cells of a table of the documentation: some of its rows, named by one column, and some of its columns."""

    page: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    by: str = ""  # column that names the rows; empty: the first


class Item(_Described):
    """A table or figure of the paper.

    Attributes:
        header: of what it reports; `rows` below it.
        also: further sources of its figures.
        unknown: what is not reported, or of which no source can be named.
        full: commands at the paper's sizes.
        small: commands for this machine.
    """

    name: str
    title: str
    source: str
    also: tuple[str, ...] = ()
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unknown: str
    full: tuple[str, ...]
    small: tuple[str, ...]
    recorded: tuple[Recorded, ...] = ()
    recorded_title: str = ""
    shows: str

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.name}: row {row} has not as many cells as {self.header}")
        return self


class Paper(_Described):
    """All of them, what their figures are taken from, and where data is to be had."""

    sources: dict[str, str]
    places: dict[str, str]
    items: tuple[Item, ...]

    def item(self, name: str) -> Item:
        """The table or figure of that name.

        Raises:
            UserError: there is none.
        """
        for item in self.items:
            if item.name == name:
                return item
        raise UserError(f"no table or figure {name!r}; there are {', '.join(item.name for item in self.items)}")

    def data_of(self, commands: tuple[str, ...]) -> list[tuple[str, str]]:
        """Files other than suites' that commands name, with where to get them."""
        return [(name, place) for name, place in self.places.items() if any(name.rstrip("/") in line for line in commands)]


@cache
def read_paper() -> Paper:
    """The description."""
    return Paper.model_validate(yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8")))


def suites_of(command: str) -> list[str]:
    """Suites and groups that a command names."""
    words = shlex.split(command)
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--suite"]


def page(docs: Path = DOCS) -> str:
    """The whole page.

    Raises:
        UserError: a table of the documentation lacks a row or a column that is named.
    """
    paper = read_paper()
    places = [f"| `{name}` | {place} |" for name, place in paper.places.items()]
    data = "\n".join(["| file | where to get it |", "|---|---|", *places])
    return "\n".join([INTRODUCTION, data, SPECS, *(line for item in paper.items for line in _section(paper, item, docs))])


def _section(paper: Paper, item: Item, docs: Path) -> Iterator[str]:
    heading = item.name.replace("-", " ").capitalize()
    yield f"## {heading}: {item.title}\n"
    yield _table(item.header, item.rows) + "\n"
    sources = "; ".join(paper.sources[name] for name in (item.source, *item.also))
    yield f"From {sources}. {item.unknown}\n"
    yield f"**In full** (a GPU or a cluster):\n\n```sh\n{_script(item.full)}\n```\n"
    data = [name for name, _ in paper.data_of(item.full)]
    data += dict.fromkeys(suite for line in (*item.full, *item.small) for suite in suites_of(line))
    if data:
        yield f"[Data](#data): {', '.join(f'`{name}`' for name in data)}.\n"
    yield f"**In small** (`cpt reproduce {item.name} --run`):\n\n```sh\n{_script(item.small)}\n```\n"
    yield from _recorded(item, docs)
    yield f"**What shows.** {item.shows}\n"


def _recorded(item: Item, docs: Path) -> Iterator[str]:
    if not item.recorded:
        yield "Nothing was run in small yet.\n"
    if item.recorded_title:
        yield f"{item.recorded_title}:\n"
    for recorded in item.recorded:
        header, rows = recorded_cells(docs, recorded)
        yield f"{_table(header, rows)}\n\nFrom [{recorded.page}]({_relative(recorded.page)}).\n"


def _script(commands: tuple[str, ...]) -> str:
    """Commands as one pastes them, the long ones on several lines."""
    return "\n".join(_wrapped(command.format_map(ON_PAGE)) for command in commands)


def _wrapped(command: str, width: int = 110) -> str:
    lines = [""]
    for word in command.split():
        if len(lines[-1]) + len(word) > width and word.startswith("--"):
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _relative(page_name: str) -> str:
    """The link from the page to another one."""
    return page_name.removeprefix("results/") if page_name.startswith("results/") else f"../{page_name}"


def _table(header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def recorded_cells(docs: Path, recorded: Recorded) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and rows of what a page records.

    Raises:
        UserError: no one table of the page has these rows and columns.
    """
    tables = list(_tables((docs / recorded.page).read_text(encoding="utf-8")))
    found = [table for header, *rows in tables if (table := _chosen(header, rows, recorded))]
    if len(found) != 1:
        raise UserError(f"docs/{recorded.page}: {len(found)} tables have rows {recorded.rows} and columns {recorded.columns}")
    return (recorded.by or "measured", *recorded.columns), found[0]


def _chosen(header: list[str], rows: list[list[str]], recorded: Recorded) -> tuple[tuple[str, ...], ...]:
    """The cells asked for; none where the table is another one."""
    if not {recorded.by or header[0], *recorded.columns} <= set(header):
        return ()
    by = header.index(recorded.by) if recorded.by else 0
    named = {row[by].replace("*", ""): row for row in rows}
    if not set(recorded.rows) <= set(named):
        return ()
    return tuple((name, *(named[name][header.index(column)] for column in recorded.columns)) for name in recorded.rows)


def _tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a page, the header of each first."""
    table: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif table:
            yield [table[0], *table[2:]]
            table = []


if __name__ == "__main__":
    sys.stdout.write(page())
