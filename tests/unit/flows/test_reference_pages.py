"""Pages that are made from the code: those in docs/ are the ones that it makes, and nothing is missing in them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import typer

from flows.cli import reference
from flows.cli.commands import app
from pipeline_lib.pairs.code_pairs import CODE_RULES
from pipeline_lib.sources.readers import reader_names

DOCS = Path(__file__).parents[3] / "docs"
PAGES = reference.pages()


@pytest.mark.parametrize("place", PAGES)
def test_the_page_is_the_generated_one(place: str) -> None:
    assert (DOCS / place).read_text(encoding="utf-8") == PAGES[place](), "python -m flows.cli.reference"


def test_every_reader_and_every_command_is_there() -> None:
    spec = (DOCS / "reference" / "dump-spec.md").read_text(encoding="utf-8")
    assert [name for name in reader_names() if f"### `{name}`" not in spec] == []
    assert "| `revision` | `HEAD` | A branch, a tag or a commit. |" in spec
    listed = (DOCS / "reference" / "options.md").read_text(encoding="utf-8")
    names = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined, arg-type]
    assert [name for name in names if f"## `cpt {name}" not in listed] == []


def test_every_reason_of_the_rules_is_described() -> None:
    assert list(reference.CODE_REASONS) == [name for name, _ in CODE_RULES]
    said = {word: details for word, details, _ in reference._refusals()}
    assert len(said) > 50
    assert [word for word, details in said.items() if not details] == []
    assert "more than ...; see source.limits.max_members" in said["`too_many_members`"]


def test_reasons_that_are_typed_stand_in_the_code() -> None:
    literals = [
        node.value
        for _, tree in reference._trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    typed = [*reference.OTHER_REASONS, *reference.REFUSED]
    assert [word for word in typed if not any(word in literal for literal in literals)] == []


def test_every_field_of_an_artifact_is_described() -> None:
    page = (DOCS / "reference" / "artifacts.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
    assert "| `dropped` | dict[str, int] | rows that a rule left out, by reason |" in page
