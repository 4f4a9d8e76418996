"""The modules, classes and functions of a source file, through tree-sitter: parsed only, never run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tree_sitter import Node

from pipeline_lib.pairs.languages import DefinitionKind, Doc, LanguageRules


@dataclass(slots=True)
class Definition:
    """A module, class or function. Bytes count in the file's UTF-8, lines from 1."""

    kind: DefinitionKind
    name: str
    parent: Definition | None
    start: int
    end: int
    line: int
    name_end: int
    body_start: int
    doc: Doc | None
    in_test: bool
    broken: bool  # a syntax error between its first byte and its body: the body may be another's

    @property
    def qualified_name(self) -> str:
        """module.Class.function."""
        names = []
        scope: Definition | None = self
        while scope is not None:
            names.append(scope.name)
            scope = scope.parent
        return ".".join(reversed(names))


def find_definitions(data: bytes, rules: LanguageRules, module: str) -> list[Definition]:
    """The module, and every class and function in it however deep, in the order of the source.

    The walk is by a cursor, without recursion, and enters only nodes that can hold a definition and whose text names one: a
    tree-sitter query over all nodes costs 1/4 of the parsing, this 1/50.
    """
    tree = rules.parser.parse(data)
    root = tree.root_node
    top = Definition("module", module, None, 0, len(data), 1, 0, 0, rules.find_doc(root, data), False, False)
    found, scope = [top], top
    cursor = root.walk()
    kinds, containers, keywords = rules.definition_ids, rules.container_ids, rules.keywords
    next_sibling = cursor.goto_next_sibling
    entered = cursor.goto_first_child()
    while entered:
        node = cursor.node
        assert node is not None
        kind_id = node.kind_id
        if kind_id in containers:
            if kind_id in kinds:
                while scope.parent is not None and scope.end <= node.start_byte:
                    scope = scope.parent
                definition = _definition(node, kinds[kind_id], scope, data, rules)
                if definition is not None:
                    found.append(definition)
                    scope = definition
            # a definition's own keyword lies before its body
            start = scope.body_start if scope.start == node.start_byte else node.start_byte
            if _mentions(keywords, data, start, node.end_byte) and cursor.goto_first_child():
                continue
        while not next_sibling():
            if not cursor.goto_parent():
                return found
    return found


def _definition(node: Node, kind: DefinitionKind, parent: Definition, data: bytes, rules: LanguageRules) -> Definition | None:
    name_node, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    if name_node is None or body is None or name_node.start_byte == name_node.end_byte:
        return None  # the stump of a syntax error
    name = data[name_node.start_byte : name_node.end_byte].decode()
    return Definition(
        kind=kind,
        name=name,
        parent=parent,
        start=node.start_byte,
        end=node.end_byte,
        line=node.start_point[0] + 1,
        name_end=name_node.end_byte,
        body_start=body.start_byte,
        doc=rules.find_doc(body, data),
        in_test=parent.in_test or _is_test_name(name, kind),
        broken=node.has_error and _has_broken_head(node, body),
    )


def _mentions(keywords: tuple[re.Pattern[bytes], ...], data: bytes, start: int, end: int) -> bool:
    return any(keyword.search(data, start, end) is not None for keyword in keywords)


def _has_broken_head(node: Node, body: Node) -> bool:
    return any(child.has_error for child in node.children if child.start_byte < body.start_byte)


def _is_test_name(name: str, kind: DefinitionKind) -> bool:
    return name.startswith("Test") if kind == "class" else name.startswith("test_")
