"""The modules, classes and functions of a source file, through tree-sitter: parsed only, never run."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node, QueryCursor

from pipeline_lib.pairs.languages.rules import Comment, DefinitionKind, Doc, LanguageRules, QueriedRules, WalkedRules


@dataclass(slots=True)
class Definition:
    """A module, class or function. Bytes count in the file's UTF-8, lines from 1."""

    kind: DefinitionKind
    name: str
    parent: Definition | None
    start: int
    end: int
    line: int
    name_start: int
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
    """The module, and every class and function in it however deep, in the order of the source."""
    root = rules.parser.parse(data).root_node
    doc = rules.find_doc(root, data) if isinstance(rules, WalkedRules) else None
    top = Definition("module", module, None, 0, len(data), 1, 0, 0, 0, doc, False, False)
    if isinstance(rules, QueriedRules):
        return [top, *_query(root, data, rules, top)]
    assert isinstance(rules, WalkedRules)
    return [top, *_walk(root, data, rules, top)]


def _walk(root: Node, data: bytes, rules: WalkedRules, top: Definition) -> Iterator[Definition]:
    """By a cursor, without recursion, into those nodes only that can hold a definition and whose text names one.

    A query over all nodes costs 1/4 of the parsing, this 1/50.
    """
    scope = top
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
                definition = _walked(node, kinds[kind_id], scope, data, rules)
                if definition is not None:
                    yield definition
                    scope = definition
            # a definition's own keyword lies before its body
            start = scope.body_start if scope.start == node.start_byte else node.start_byte
            if _mentions(keywords, data, start, node.end_byte) and cursor.goto_first_child():
                continue
        while not next_sibling():
            if not cursor.goto_parent():
                return


def _walked(node: Node, kind: DefinitionKind, parent: Definition, data: bytes, rules: WalkedRules) -> Definition | None:
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
        name_start=name_node.start_byte,
        name_end=name_node.end_byte,
        body_start=body.start_byte,
        doc=rules.find_doc(body, data),
        in_test=parent.in_test or _is_test_name(name, kind, rules),
        broken=node.has_error and _has_broken_head(node, body),
    )


def _query(root: Node, data: bytes, rules: QueriedRules, top: Definition) -> Iterator[Definition]:
    """By one query for definitions and comments: where no keyword tells which nodes hold a definition."""
    captures = QueryCursor(rules.compiled).captures(root)
    comments = sorted(
        (Comment(node.start_byte, node.end_byte, node.start_point[0]) for node in captures.get("comment", ())),
        key=lambda comment: comment.start,
    )
    ends = [comment.end for comment in comments]
    kinds: tuple[DefinitionKind, ...] = ("class", "function")
    nodes = [(node.start_byte, -node.end_byte, kind, node) for kind in kinds for node in captures.get(kind, ())]
    scope = top
    for start, _, kind, node in sorted(nodes, key=lambda found: found[:3]):
        while scope.parent is not None and scope.end <= start:
            scope = scope.parent
        above = bisect_right(ends, start) - 1
        doc = _doc_above(data, comments, above, start, rules) if above >= 0 else None
        definition = _queried(node, kind, scope, data, rules, doc)
        if definition is not None:
            yield definition
            scope = definition


def _queried(
    node: Node, kind: DefinitionKind, parent: Definition, data: bytes, rules: QueriedRules, doc: Doc | None
) -> Definition | None:
    found = rules.name_of(node, data)
    if found is None:
        return None
    name, name_node = found
    holder = node.child_by_field_name("value") or node.child_by_field_name("right") or node  # `name = function`
    body = holder.child_by_field_name("body")
    first = _without_leading(node, rules.left_out) or node
    return Definition(
        kind=kind,
        name=name,
        parent=parent,
        start=first.start_byte,
        end=node.end_byte,
        line=first.start_point[0] + 1,
        name_start=name_node.start_byte,
        name_end=name_node.end_byte,
        body_start=body.start_byte if body is not None else node.end_byte,  # abstract, or empty
        doc=doc,
        in_test=parent.in_test or _is_test_name(name, kind, rules),
        broken=node.has_error and (body is None or _has_broken_head(holder, body)),
    )


def _doc_above(data: bytes, comments: list[Comment], above: int, start: int, rules: QueriedRules) -> Doc | None:
    if rules.between.fullmatch(data, comments[above].end, start) is None:
        return None
    chosen = rules.doc_above(data, comments, above)
    if not chosen:
        return None
    value = rules.clean([data[comment.start : comment.end].decode() for comment in chosen])
    return Doc(value, chosen[0].start, chosen[-1].end, chosen[0].row + 1, above=True)


def _without_leading(node: Node, left_out: frozenset[str]) -> Node | None:
    """The first node that is none of those: it begins what annotations stand before. Java's lie among its modifiers."""
    for child in node.children if left_out else ():
        if child.type == "modifiers":
            inner = _without_leading(child, left_out)
            if inner is not None:
                return inner
        elif child.type not in left_out:
            return child
    return None


def _mentions(keywords: tuple[re.Pattern[bytes], ...], data: bytes, start: int, end: int) -> bool:
    return any(keyword.search(data, start, end) is not None for keyword in keywords)


def _has_broken_head(node: Node, body: Node) -> bool:
    return any(child.has_error for child in node.children if child.start_byte < body.start_byte)


def _is_test_name(name: str, kind: DefinitionKind, rules: LanguageRules) -> bool:
    return (rules.test_class if kind == "class" else rules.test_function).match(name) is not None
