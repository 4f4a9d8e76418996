"""(docstring, function) pairs of a source file (paper, section 2.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline_lib.config.data import CodePairsConfig, View
from pipeline_lib.languages.rules import DefinitionKind, LanguageRules
from pipeline_lib.pairs.candidates import Candidate
from pipeline_lib.pairs.definitions import Definition
from pipeline_lib.pairs.filters import code_drop, note_drop

VIEWED: dict[View, DefinitionKind] = {"docstring": "function", "name": "function", "class": "class"}


@dataclass(frozen=True, slots=True)
class CodePair:
    """What describes a function or class, and its source without that."""

    view: View
    x: str
    y: str
    line: int  # of the first line of y
    name: str


def code_pairs(
    definitions: list[Definition], data: bytes, config: CodePairsConfig, rules: LanguageRules, dropped: Counter[str]
) -> Iterator[CodePair]:
    """The pairs of one file; every function and class that gives none is counted in `dropped`, once a view."""
    for index, definition in enumerate(definitions):
        for view in config.views:
            if definition.kind != VIEWED[view]:
                continue
            members = list(_members(definitions, index)) if definition.kind == "class" else []
            candidate = Candidate(definition, view, data, rules, members)
            reason = code_drop(candidate, config)
            if reason is None:
                yield CodePair(view, candidate.x, candidate.y, definition.line, definition.qualified_name)
            else:
                note_drop(dropped, reason, lambda: (candidate.x, candidate.y))  # noqa: B023 - called at once


def _members(definitions: list[Definition], index: int) -> Iterator[Definition]:
    """The functions directly in a class: they follow it in the order of the source."""
    owner = definitions[index]
    for definition in islice(definitions, index + 1, None):
        if definition.start >= owner.end:
            return
        if definition.parent is owner and definition.kind == "function":
            yield definition
