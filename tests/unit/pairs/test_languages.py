"""Awkward source of every language as a file, and the pairs that must come of it, in a file beside it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.errors import UserError
from pipeline_lib.languages import language_names, rules_of
from pipeline_lib.pairs.code_pairs import code_pairs
from pipeline_lib.pairs.definitions import find_definitions
from pipeline_lib.sources.safe_open import SourceText, read_source

CASES = Path(__file__).with_name("cases")
SOURCES = sorted(path for path in CASES.rglob("*") if path.is_file() and path.suffix != ".yaml")
LANGUAGES = language_names()


def pairs_of_file(source: Path, **choices: object) -> dict[str, Any]:
    """What comes of a file, as the YAML beside it writes it."""
    language = source.parent.name
    text = read_source(str(source), 10**6, python=language == "python")
    assert isinstance(text, SourceText)
    rules = rules_of(language)
    config = CodePairsConfig.model_validate({"min_body_lines": 1, "min_doc_words": 2, **choices})
    dropped: Counter[str] = Counter()
    found = list(code_pairs(find_definitions(text.data, rules, "m"), text.data, config, rules, dropped))
    pairs = [{"name": pair.name, "line": pair.line, "x": pair.x, "y": pair.y} for pair in found]
    return {"pairs": pairs, "dropped": dict(sorted(dropped.items()))}


def expected_of(source: Path) -> Path:
    return source.with_name(source.name + ".yaml")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_awkward_source(source: Path) -> None:
    expected = yaml.safe_load(expected_of(source).read_text(encoding="utf-8"))
    got = pairs_of_file(source)
    assert [pair["name"] for pair in got["pairs"]] == [pair["name"] for pair in expected["pairs"]]
    assert got == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_twenty_awkward_cases_of_every_language(language: str) -> None:
    cases = 0
    for source in (CASES / language).glob("*.yaml"):
        expected = yaml.safe_load(source.read_text(encoding="utf-8"))
        cases += len(expected["pairs"]) + sum(expected["dropped"].values())
    assert cases >= 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_missing_grammar_is_named_with_what_brings_it(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = rules_of(language).grammar.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module}.*pip install 'cpt-factory\[dumps\]'"):
        _ = replace(rules_of(language)).language  # a fresh copy: one that has read a text keeps its grammar


def test_a_language_that_nobody_wrote_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match="no language 'pyhton'; there are python, javascript, java, go, php, ruby"):
        CodePairsConfig(languages=("pyhton",))
    assert CodePairsConfig().languages == ("python", "javascript", "java", "go", "php", "ruby")  # the order names artifacts
