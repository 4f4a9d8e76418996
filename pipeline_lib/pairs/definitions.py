"""Definitions of a source file (modules, classes, functions), through tree-sitter: parsed only, never run."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from tree_sitter import Node

from pipeline_lib.languages.rules import CommentedRules, DefinitionKind, Doc, LanguageRules, WalkedRules


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
    gaps: list[tuple[int, int]] | None = None  # of a module whose parse is broken: from where to where the grammar gave up

    @property
    def qualified_name(self) -> str:
        """module.Class.function."""
        names = []
        scope: Definition | None = self
        while scope is not None:
            names.append(scope.name)
            scope = scope.parent
        return ".".join(reversed(names))


def find_definitions(
    data: bytes, rules: LanguageRules, module: str, seconds: float = 10.0, steps_per_kb: float = 30
) -> list[Definition]:
    """The module, and every class and function in it however deep, in the order of the source.

    Args:
        seconds: a text that takes longer to parse is given up, before its process has to end; Python's is not watched.
        steps_per_kb: steps of the parser, beside 1,000, after which one is given up too.

    Raises:
        ParseLimit: the text takes more steps than any real source, or longer.
    """
    top = Definition("module", module, None, 0, len(data), 1, 0, 0, 0, None, False, False)
    if isinstance(rules, CommentedRules):
        root = rules.parse(data, seconds, steps_per_kb)
        is_misread = rules.misread is not None and rules.misread.search(data) is not None
        if (root.has_error or is_misread) and (mended := rules.mend(data)) != data:
            parses = (root, rules.parse(mended, seconds, steps_per_kb))
            root = min(reversed(parses) if is_misread else parses, key=_lost_bytes)  # of equals the first
        by_signs = rules.opened_by is not None and not root.has_error and not (rules.unsigned and rules.unsigned.search(data))
        found = list((_by_signs if by_signs else _walk_with_comments)(data, root, rules, top))
    else:
        assert isinstance(rules, WalkedRules)
        root = rules.parser.parse(data).root_node
        top.doc = rules.find_doc(root, data)
        found = list(_walk(root, data, rules, top))
    if root.has_error:
        top.gaps = _gaps(root, found)
    return [top, *found]


def _lost_bytes(root: Node) -> int:
    return sum(stop - start for start, stop in _errors(root)) if root.has_error else -1


def _gaps(root: Node, found: list[Definition]) -> list[tuple[int, int]]:
    """From where to where a broken parse has no construct: its errors, without the definitions that were found in them."""
    gaps = []
    taken = iter([(definition.start, definition.end) for definition in found if not definition.broken])
    start, end = next(taken, _NONE_LEFT)
    for first, stop in _errors(root):
        at = first
        while at < stop:
            while start < at:  # around the error, or in a definition that is taken
                start, end = next(taken, _NONE_LEFT)
            if at < start:
                gaps.append((at, min(start, stop)))
            at = end if start < stop else stop
    return gaps


_NONE_LEFT = (sys.maxsize, sys.maxsize)


def _errors(root: Node) -> Iterator[tuple[int, int]]:
    """The outermost errors in the order of the source, and heredocs that reach to its end."""
    cursor = root.walk()
    while True:
        node = cursor.node
        assert node is not None
        if node.is_error or (node.type == "heredoc_body" and node.end_byte == root.end_byte):
            yield node.start_byte, node.end_byte
        elif (node.has_error or node.end_byte == root.end_byte) and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return


def _walk(root: Node, data: bytes, rules: WalkedRules, top: Definition) -> Iterator[Definition]:
    """By a cursor, without recursion, into those nodes only that can hold a definition and whose text names one.

    A query over all nodes costs 1/4 of the parsing, this 1/50.
    """
    scope = top
    cursor = root.walk()
    kinds, containers = rules.definition_ids, rules.container_ids
    signs = [*_places(rules.keywords, data), len(data)]
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
            if signs[bisect_left(signs, start)] < node.end_byte and cursor.goto_first_child():
                continue
        while not next_sibling():
            if not cursor.goto_parent():
                return


def _walked(node: Node, kind: DefinitionKind, parent: Definition, data: bytes, rules: WalkedRules) -> Definition | None:
    name_node, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    if name_node is None or body is None or name_node.start_byte == name_node.end_byte:
        return None  # the stump of a syntax error
    name = data[name_node.start_byte : name_node.end_byte].decode()
    return Definition(  # by position: by name it takes twice as long
        kind,
        name,
        parent,
        node.start_byte,
        node.end_byte,
        node.start_point[0] + 1,
        name_node.start_byte,
        name_node.end_byte,
        body.start_byte,
        rules.find_doc(body, data),
        parent.in_test or (rules.test_class if kind == "class" else rules.test_function).match(name) is not None,
        node.has_error and _has_broken_head(node, body),
    )


def _walk_with_comments(data: bytes, root: Node, rules: CommentedRules, top: Definition) -> Iterator[Definition]:
    """By a cursor too, gathering the comments on its way: those above a definition lie beside it, so they are met before.

    No query: one costs 1/2 of the parsing, and the square of the length of a text of brackets alone.
    """
    scope = top
    comments: list[Node] = []
    kinds, comment_ids, entered_ids = rules.definition_ids, rules.comment_ids, rules.entered_ids
    signs, opened = _signs(data, rules)
    at = 0  # the first sign that does not lie before the node
    cursor = root.walk()
    next_sibling = cursor.goto_next_sibling
    entered = cursor.goto_first_child()
    while entered:
        node = cursor.node
        assert node is not None
        kind_id = node.kind_id
        if kind_id in comment_ids:
            comments.append(node)
        else:
            start = node.start_byte
            while signs[at] < start:
                at += 1
            sign = at
            if kind_id in kinds:
                while scope.parent is not None and scope.end <= start:
                    scope = scope.parent
                definition = _commented(node, kinds[kind_id], scope, data, rules)
                if definition is not None:
                    definition.doc = _doc_of_definition(data, comments, node, definition, rules)
                    yield definition
                    scope = definition
                    if definition.kind == "function":  # its own keyword is no sign of another one in it
                        sign = bisect_left(signs, definition.name_end, at)
            if (opened[sign] < node.end_byte or kind_id in entered_ids) and cursor.goto_first_child():
                continue
            if rules.trailing:
                comments.extend(_trailing(node)[0])
        while not next_sibling():
            if not cursor.goto_parent():
                return


def _places(signs: tuple[re.Pattern[bytes], ...], text: bytes) -> list[int]:
    # pattern by pattern: a search for one literal is 5 times as fast as for one of several, and as fast as `bytes.find`
    return sorted([match.start() for sign in signs for match in sign.finditer(text)])


def _signs(data: bytes, rules: CommentedRules) -> tuple[list[int], list[int]]:
    """Places of the signs of definitions, and up to where a node must reach to hold one of those or a later one."""
    text = data.lower() if rules.ignore_case else data
    signs = [*_places(rules.signs, text), len(data)]
    if not rules.opening:
        return signs, signs
    opened, last = [], -1
    for sign in signs:
        if last < sign:
            last = data.find(rules.opening, sign) if last < len(data) else last
            last = len(data) if last < 0 else last
        opened.append(last)
    return signs, opened


def _by_signs(data: bytes, root: Node, rules: CommentedRules, top: Definition) -> Iterator[Definition]:
    """By looking up the node at each sign, where each definition has one: half of the time of a walk through expressions."""
    assert rules.opened_by is not None
    kinds, opened_by, at_bytes = rules.definition_ids, rules.opened_by, root.named_descendant_for_byte_range
    found: dict[tuple[int, int], tuple[Node, DefinitionKind]] = {}
    for place in _places(rules.signs, data):
        node = at_bytes(place, place + 1)
        opened = opened_by(node) if node is not None else None
        if opened is not None and (kind := kinds.get(opened.kind_id)) is not None:
            found[opened.start_byte, -opened.end_byte] = opened, kind
    blocks = _places((_BLOCK,), data) if found else []
    scope = top
    for (start, _), (node, kind) in sorted(found.items(), key=itemgetter(0)):
        while scope.parent is not None and scope.end <= start:
            scope = scope.parent
        definition = _commented(node, kind, scope, data, rules)
        if definition is not None:
            definition.doc = _block_above(data, root, blocks, start, rules)
            yield definition
            scope = definition


_BLOCK = re.compile(rb"/\*\*(?!/)")


def _block_above(data: bytes, root: Node, blocks: list[int], start: int, rules: CommentedRules) -> Doc | None:
    """The last block of documentation before a definition, if nothing but what may stand there lies between."""
    for index in range(bisect_left(blocks, start) - 1, -1, -1):
        first = blocks[index]
        last = data.find(b"*/", first + 3) + 2
        if rules.between_block.fullmatch(data, last, start) is None:
            return None
        comment = root.named_descendant_for_byte_range(first, first + 1)
        if comment is not None and comment.start_byte == first and comment.kind_id in rules.comment_ids:
            return _doc_of([comment], data, rules)
    return None


def _commented(node: Node, kind: DefinitionKind, parent: Definition, data: bytes, rules: CommentedRules) -> Definition | None:
    found = rules.name_of(node, data)
    if found is None:
        return None
    name, name_node = found
    holder = node
    for field in rules.given_by:  # `name = function`
        holder = node.child_by_field_name(field) or holder
    body = holder.child_by_field_name("body")
    if body is None and rules.body_of is not None:
        body = rules.body_of(holder)
    start = node.start_byte
    # the first byte tells that nothing is left out, four times as fast as the first children do
    first = _without_leading(node, rules.left_out) if data[start] in rules.left_out_signs else node
    if rules.wrapped_by:
        first = _with_wrappers(node, first, rules.wrapped_by)
    if holder is not node and holder.type == "class":  # `name = class`
        kind = "class"
    end = _trailing(node)[1] if rules.trailing else node.end_byte
    if name_node.end_byte > end and node.parent is not None:  # `typedef struct { } name;`
        end = node.parent.end_byte
    return Definition(
        kind,
        name,
        parent,
        first.start_byte,
        end,
        first.start_point[0] + 1,
        name_node.start_byte,
        name_node.end_byte,
        body.start_byte if body is not None else node.end_byte,  # abstract, or empty
        None,  # it stands above
        parent.in_test
        or (rules.test_class if kind == "class" else rules.test_function).match(name) is not None
        or (rules.marked_test is not None and rules.marked_test(node, data)),
        node.has_error and (body is None or _has_broken_head(holder, body)),
    )


def _trailing(node: Node) -> tuple[list[Node], int]:
    """The comments at the end of a node, in however many others, and where what stands before them ends."""
    found: list[Node] = []
    last = node
    while last.named_child_count and last.end_byte == node.end_byte:
        children = last.children
        count = len(children)
        while count and children[count - 1].type.endswith("comment"):
            count -= 1
        found[:0] = children[count:]
        if not count:
            break
        last = children[count - 1]
        if children[count:]:
            break
    return found, last.end_byte if found else node.end_byte


def _with_wrappers(node: Node, first: Node, wrappers: frozenset[str]) -> Node:
    """The node that a definition begins with: the outermost of those that say its parameters, else its own first one."""
    parent = node.parent
    while parent is not None and parent.type in wrappers:
        first, parent = parent, parent.parent
    return first


def _doc_of_definition(
    data: bytes, comments: list[Node], node: Node, definition: Definition, rules: CommentedRules
) -> Doc | None:
    found = _doc_above(data, comments, min(node.start_byte, definition.start), rules)
    if rules.doc_inside and definition.start > node.start_byte:
        return _doc_inside(data, node, definition.start, rules) or found
    return found


def _doc_above(data: bytes, comments: list[Node], start: int, rules: CommentedRules) -> Doc | None:
    if not comments:
        return None
    apart = rules.between.fullmatch(data, comments[-1].end_byte, start) is None
    chosen = [] if apart else rules.doc_above(data, comments)
    if not rules.given_by:  # only `var f = module.exports = function` are two definitions that share their comments
        comments.clear()
    return _doc_of(chosen, data, rules) if chosen else None


def _doc_inside(data: bytes, node: Node, end: int, rules: CommentedRules) -> Doc | None:
    """The documentation among what is left out at the beginning of a definition."""
    leading = [child for child in node.children if child.end_byte <= end and child.kind_id in rules.comment_ids]
    chosen = rules.doc_above(data, leading)
    return _doc_of(chosen, data, rules) if chosen else None


def _doc_of(chosen: list[Node], data: bytes, rules: CommentedRules) -> Doc:
    spans = [(comment.start_byte, comment.end_byte) for comment in chosen]
    first, last = spans[0][0], spans[-1][1]
    value = partial(_cleaned, data, spans, rules)
    return Doc(value, first, last, chosen[0].start_point[0] + 1, True, (data, rules.before_tags))


def _cleaned(data: bytes, spans: list[tuple[int, int]], rules: CommentedRules) -> str:
    return rules.clean([data[start:end].decode() for start, end in spans])


def _without_leading(node: Node, left_out: frozenset[str]) -> Node:
    """The first node that is none of those: it begins what annotations stand before. Java's lie among its modifiers."""
    first = node.child(0)
    if first is None or (first.type != "modifiers" and first.type not in left_out):
        return node
    for child in node.children:
        if child.type == "modifiers":
            kept = [inner for inner in child.children if inner.type not in left_out]
            if kept:
                return kept[0]
        elif child.type not in left_out:
            return child
    return node


def _has_broken_head(node: Node, body: Node) -> bool:
    return any(child.has_error for child in node.children if child.start_byte < body.start_byte)
