"""The paper's tables: the page is the generated one, small figures are read from other pages, and presets keep table 1."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pipeline_lib.config.built_in import SIZES
from pipeline_lib.config.paper import DOCS, PAGE, Item, Recorded, page, read_paper, recorded_cells
from pipeline_lib.errors import UserError
from pipeline_lib.sources.dump_spec import DumpSource
from pipeline_lib.sources.readers import options_of

NAMES = [*(f"table-{number}" for number in range(1, 10)), "figure-1", "figure-4"]


def test_the_page_is_the_generated_one() -> None:
    assert (DOCS / PAGE).read_text(encoding="utf-8") == page(), "python -m pipeline_lib.config.paper > docs/results/paper.md"


def test_every_table_is_there() -> None:
    assert [item.name for item in read_paper().items] == NAMES
    with pytest.raises(UserError, match=r"table-10.*there are table-1, table-2"):
        read_paper().item("table-10")


def test_presets_have_the_sizes_of_table_1() -> None:
    reported = {row[0].lower(): [int(cell.replace(",", "")) for cell in row[2:]] for row in read_paper().item("table-1").rows}
    assert reported == {name: [size.width, size.batch_size] for name, size in SIZES.items()}


def given(line: str) -> dict[str, str]:
    """Flags of a command with their values."""
    words = shlex.split(line)
    return {flag: value for flag, value in pairwise(words) if flag.startswith("--")}


def test_each_size_is_trained_once() -> None:
    """A run with other options is another training, of days: all tables train a preset by one command, but for its name."""
    lines = {line for item in read_paper().items for line in item.full if line.startswith("cpt run")}
    options: dict[str, set[str]] = {preset: set() for preset in sorted(given(line)["--preset"] for line in lines)}
    for line in lines:
        if "--set" not in line:  # the smaller batch of table 9 is another training
            options[given(line)["--preset"]].add(re.sub(r" --name \S+", "", line))
    assert {preset: found for preset, found in options.items() if len(found) != 1} == {}


def test_what_is_trained_is_measured() -> None:
    """Each run of a table is measured before the next; a measurement that describes its run says the same of it."""
    for item in read_paper().items:
        for line, then in pairwise([*item.full, "cpt run"]):
            if line.startswith("cpt run"):
                assert "--suite " in then, f"{item.name}: {line}"
            if line.startswith("cpt evaluate --preset"):
                (run,) = [given(other) for other in item.full if other.startswith("cpt run")]
                assert {flag: given(line).get(flag) for flag in run} == run, f"{item.name}: {line}"


def test_specs_of_the_page_are_dump_specs() -> None:
    block = (DOCS / PAGE).read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    sources = [DumpSource.model_validate(entry) for entry in yaml.safe_load(block)]
    assert [options_of(source.reader, source.options)["layout"] for source in sources] == ["auto", "the_stack"]


TABLES = """# A page

| task | model | other |
|---|---|---|
| **search**, MRR | **0.5** [0.4, 0.6] | 0.3 |
| similarity | 0.7 | |

| task | model |
|---|---|
| third | 1 |
"""


def recorded(docs: Path, rows: tuple[str, ...], *columns: str, by: str = "") -> list[list[str]]:
    (docs / "a.md").write_text(TABLES)
    header, cells = recorded_cells(docs, Recorded(page="a.md", rows=rows, columns=columns, by=by))
    return [list(header), *map(list, cells)]


def test_cells_are_read_where_they_stand(tmp_path: Path) -> None:
    assert recorded(tmp_path, ("search, MRR",), "model") == [["measured", "model"], ["search, MRR", "**0.5** [0.4, 0.6]"]]
    assert recorded(tmp_path, ("0.7",), "task", by="model") == [["model", "task"], ["0.7", "similarity"]]


@pytest.mark.parametrize(("row", "column"), [("search", "model"), ("search, MRR", "third"), ("third", "other")])
def test_a_cell_that_is_not_there_is_an_error(tmp_path: Path, row: str, column: str) -> None:
    with pytest.raises(UserError, match="0 tables"):
        recorded(tmp_path, (row,), column)


def test_a_row_of_another_length_is_refused() -> None:
    item = read_paper().item("table-9").model_dump()
    with pytest.raises(ValueError, match="not as many cells"):
        Item.model_validate({**item, "rows": [["1", "2", "3"]]})
