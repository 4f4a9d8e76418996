"""What a language's file states, in the words of its tree-sitter grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tree_sitter import Language, Node, Parser, Query

DefinitionKind = Literal["module", "class", "function"]


@dataclass(frozen=True, slots=True)
class Doc:
    """A documentation string or comment: what it says, and the bytes of the statement or the comments that hold it."""

    value: str
    start: int
    end: int
    line: int  # of its first line, from 1
    above: bool = False  # a comment before the definition, no part of it


@dataclass(frozen=True, kw_only=True)
class LanguageRules:
    """One language, and how its definitions are told from each other."""

    name: str
    grammar: Callable[[], object]
    code_line: re.Pattern[bytes]  # once in each line, after its newline, that holds code: no comment, no closing bracket
    comment_line: re.Pattern[str]  # after its newline, a line that is a comment alone; its group is what it says
    blank_name: str = "_"  # stands for a function's own name in the view `name`
    module_suffix: re.Pattern[str]  # what of a path is no part of the module's name
    test_function: re.Pattern[str]  # the name of a function that is a test
    test_class: re.Pattern[str]
    constructors: frozenset[str] = frozenset()
    constructor_is_class: bool = False  # a constructor has the name of its class
    standard_methods: frozenset[str] = frozenset()  # every class may have them: CodeSearchNet's list

    @cached_property
    def language(self) -> Language:
        return Language(self.grammar())

    @cached_property
    def parser(self) -> Parser:
        return Parser(self.language)

    def module_name(self, path: str) -> str:
        """The dotted name of the module in a file."""
        return self.module_suffix.sub("", path).replace("/", ".")


@dataclass(frozen=True, kw_only=True)
class WalkedRules(LanguageRules):
    """A language whose definitions open with a keyword and hold their documentation: found by a walk that skips the rest."""

    definitions: dict[str, DefinitionKind]  # node types that open a scope with a name
    containers: tuple[str, ...]  # node types that definitions may lie in; all others are not entered
    keywords: tuple[re.Pattern[bytes], ...]  # one of them is in every definition: text without any is not walked
    find_doc: Callable[[Node, bytes], Doc | None]  # given the body of a definition, or the root

    @cached_property
    def definition_ids(self) -> dict[int, DefinitionKind]:
        return {self._id(kind): sort for kind, sort in self.definitions.items()}

    @cached_property
    def container_ids(self) -> frozenset[int]:
        kinds = (*self.containers, *self.definitions)
        return frozenset(self._id(kind) for kind in kinds)

    def _id(self, kind: str) -> int:
        number = self.language.id_for_node_kind(kind, True)
        assert number is not None, f"{self.name}: its grammar has no node type {kind!r}"
        return number


@dataclass(frozen=True, slots=True)
class Comment:
    """The place of a comment: bytes, and its first row from 0."""

    start: int
    end: int
    row: int


@dataclass(frozen=True, kw_only=True)
class QueriedRules(LanguageRules):
    """A language whose documentation is a comment above: definitions and comments are found by one query.

    The query names nodes `@function`, `@class` and `@comment`.
    """

    query: str
    name_of: Callable[[Node, bytes], tuple[str, Node] | None]  # of a definition: its name, and where that stands
    left_out: frozenset[str] = frozenset()  # types of leading children that are no part of y: annotations
    between: re.Pattern[bytes]  # all that may stand between the documentation and its definition
    doc_above: Callable[[bytes, list[Comment], int], list[Comment]]  # which comments, up to that of the index, are one's doc
    clean: Callable[[list[str]], str]  # what those comments say: no marks, no tags, no markup

    @cached_property
    def compiled(self) -> Query:
        return Query(self.language, self.query)


def named(node: Node, data: bytes) -> tuple[str, Node] | None:
    """The name in the field `name`."""
    name = node.child_by_field_name("name")
    if name is None or name.start_byte == name.end_byte:
        return None  # the stump of a syntax error
    return data[name.start_byte : name.end_byte].decode(), name


# The same words in most languages: testParse, TestParse, test_parse; ParserTest, TestParser, ParserSpec.
TEST_FUNCTION = re.compile(r"[Tt]est(?![a-z])")
TEST_CLASS = re.compile(r"Tests?(?![a-z])|\w*(?:[a-z\d]Tests?|TestCase|[a-z\d]Spec|_[Tt]est)$")

# A line of a language with braces: neither comment nor brackets alone.
BRACES_CODE_LINE = re.compile(rb"\n[ \t;{}()\[\],]*(?!//|/\*|\*)[^\s;{}()\[\],]")
SLASHES_COMMENT_LINE = re.compile(r"\n[ \t]*//+[ \t!/]*([^\n]*)")
