"""(docstring, function) pairs of a source file (paper, section 2.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline_lib.config import CodePairsConfig, View
from pipeline_lib.pairs.candidates import Candidate
from pipeline_lib.pairs.definitions import Definition
from pipeline_lib.pairs.filters import code_drop
from pipeline_lib.pairs.languages import LanguageRules


@dataclass(frozen=True, slots=True)
class CodePair:
    """A docstring's first paragraph (or a name's words) and the function without it."""

    view: View
    x: str
    y: str
    line: int  # of the function's first line
    name: str


def code_pairs(
    definitions: list[Definition], data: bytes, config: CodePairsConfig, rules: LanguageRules, dropped: Counter[str]
) -> Iterator[CodePair]:
    """The pairs of one file's functions; every function that gives none is counted in `dropped`, once a view."""
    for definition in definitions:
        if definition.kind != "function":
            continue
        for view in config.views:
            candidate = Candidate(definition, view, data, rules)
            reason = code_drop(candidate, config)
            if reason is None:
                yield CodePair(view, candidate.x, candidate.y, definition.line, definition.qualified_name)
            else:
                dropped[reason] += 1
