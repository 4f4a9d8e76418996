"""Each symptom of the runbook has a drill, and each drill is a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES = TESTS.parent / "docs"
DRILL = re.compile(r"`((?:unit|integration|reliability|security|architecture)/[\w/]+\.py(?:::\w+)?)`")


def rows(text: str) -> list[str]:
    """The rows of the tables of symptoms."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if "---" not in line and not line.startswith("| symptom")]


def missing(text: str) -> list[str]:
    """Rows without a drill, and drills that are no test."""
    found = [row for row in rows(text) if not DRILL.search(row.rpartition("| ")[2])]
    for drill in DRILL.findall(text):
        file, _, name = drill.partition("::")
        path = TESTS / file
        if not path.is_file() or (name and f"def {name}(" not in path.read_text()):
            found.append(drill)
    return found


def test_each_symptom_has_a_drill_that_is_a_test() -> None:
    text = (PAGES / "how-to" / "runbook.md").read_text()
    assert len(rows(text)) > 20
    assert missing(text) == []


@pytest.mark.parametrize(
    "row", ["| a | b | see above |", "| a | b | `unit/none.py` |", "| a | b | `unit/store/test_store.py::test_none` |"]
)
def test_what_is_missing_is_found(row: str) -> None:
    assert missing(row)


def test_the_tests_that_the_page_of_faults_names_are_there() -> None:
    text = (PAGES / "design" / "reliability.md").read_text()
    named = set(re.findall(r"`((?:unit|integration|reliability|security)/[\w/]+\.py)(?:::\w+\*?)?`", text))
    assert len(named) > 20 and [name for name in sorted(named) if not (TESTS / name).is_file()] == []
