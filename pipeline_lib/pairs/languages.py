"""What the extraction must know of a programming language: one table and one function each."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import tree_sitter_python
from tree_sitter import Language, Node, Parser

DefinitionKind = Literal["module", "class", "function"]


@dataclass(frozen=True, slots=True)
class Doc:
    """A documentation string: its value as the language defines it, and the bytes of the statement that holds it."""

    value: str
    start: int
    end: int
    line: int  # of its first line, from 1


@dataclass(frozen=True)
class LanguageRules:
    """One language. Node types are those of its tree-sitter grammar."""

    name: str
    grammar: Callable[[], object]
    definitions: dict[str, DefinitionKind]  # node types that open a scope with a name
    containers: tuple[str, ...]  # node types that definitions may lie in; all others are not entered
    find_doc: Callable[[Node, bytes], Doc | None]  # given the body of a definition, or the root
    code_line: re.Pattern[bytes]  # once in each line, after its newline, that is neither empty nor a comment alone
    comment_line: re.Pattern[str]  # after its newline, a line that is a comment alone; its group is what it says
    keywords: tuple[re.Pattern[bytes], ...]  # one of them is in every definition: text without any is not walked
    blank_name: str  # stands for a function's own name in the view `name`
    module_suffix: re.Pattern[str]  # what of a path is no part of the module's name

    @cached_property
    def language(self) -> Language:
        return Language(self.grammar())

    @cached_property
    def parser(self) -> Parser:
        return Parser(self.language)

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

    def module_name(self, path: str) -> str:
        """The dotted name of the module in a file."""
        return self.module_suffix.sub("", path).replace("/", ".")


_DOC_START = re.compile(rb"[\s(]*(?:#|[rRuU]?[\"'])")


def python_doc(body: Node, data: bytes) -> Doc | None:
    """The docstring, by the rule of `ast.get_docstring`: a first statement that is one plain string constant.

    Comments may stand before it. Bytes, f-strings and template strings are none. Only literals are decoded; no code is run.
    """
    if _DOC_START.match(data, body.start_byte) is None:
        return None  # most functions have none: this is ten times as cheap as asking for the nodes
    statement = None
    for index in range(body.named_child_count):
        statement = body.named_child(index)
        if statement is not None and statement.type != "comment":
            break
    if statement is None or statement.type != "expression_statement":
        return None
    node = statement.named_child(0)
    if node is None or statement.named_child_count != 1 or statement.child_count != 1:  # a tuple of strings is none
        return None
    while node.type == "parenthesized_expression":
        inner = [child for child in node.named_children if child.type != "comment"]
        if len(inner) != 1:
            return None
        node = inner[0]
    value = _string_value(node, data)
    if value is None:
        return None
    return Doc(value, statement.start_byte, statement.end_byte, statement.start_point[0] + 1)


def _string_value(node: Node, data: bytes) -> str | None:
    if node.type == "string":
        return decode_literal(data[node.start_byte : node.end_byte].decode())
    if node.type == "concatenated_string":
        parts = [_string_value(child, data) for child in node.named_children if child.type != "comment"]
        return None if any(part is None for part in parts) else "".join(part for part in parts if part is not None)
    return None


_OPENING = re.compile(r"([A-Za-z]*)(\"\"\"|'''|\"|')")


def decode_literal(token: str) -> str | None:
    """The value of one Python string literal; None for bytes, f-strings and broken ones."""
    match = _OPENING.match(token)
    if match is None:
        return None
    prefix, quote = match.group(1).lower(), match.group(2)
    if prefix not in ("", "r", "u") or not token.endswith(quote) or len(token) < match.end() + len(quote):
        return None
    content = token[match.end() : -len(quote)]
    if "\\" not in content or prefix == "r":
        return content
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a docstring is the author's matter
        try:
            value = ast.literal_eval(f"({token})")
        except (SyntaxError, ValueError):
            return None
    return value if isinstance(value, str) else None


@lru_cache
def rules_of(language: str) -> LanguageRules:
    """The rules of a language by its name."""
    return {"python": PYTHON}[language]


PYTHON = LanguageRules(
    name="python",
    grammar=tree_sitter_python.language,
    definitions={"function_definition": "function", "class_definition": "class"},
    containers=(
        "module", "block", "decorated_definition", "ERROR",
        "if_statement", "elif_clause", "else_clause", "for_statement", "while_statement", "with_statement",
        "try_statement", "except_clause", "finally_clause", "match_statement", "case_clause",
    ),
    find_doc=python_doc,
    code_line=re.compile(rb"\n[ \t;]*[^\s;#]"),
    comment_line=re.compile(r"\n[ \t]*#+[ \t!:]*([^\n]*)"),
    keywords=(re.compile(rb"def[ \t\f\\]"), re.compile(rb"class[ \t\f\\]")),
    blank_name="_",
    module_suffix=re.compile(r"(?:(?:^|/)__init__)?\.py$"),
)  # fmt: skip
