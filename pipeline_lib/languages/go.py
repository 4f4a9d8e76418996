"""Go: functions, methods as Receiver.Name, and the comment that ends on the line above them."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import first_that_is_not, headings_apart, run_of_lines, without_stars
from pipeline_lib.languages.rules import CommentedRules, named

_RECEIVER = re.compile(rb"\(\s*(?:[^\W\d]\w*\s+)?\**\(?\**\s*((?:[^\W\d]|[\x80-\xff])(?:\w|[\x80-\xff])*)")
_DIRECTIVE = re.compile(r"[a-z0-9]+:[a-z0-9]|nolint|\+build|line |export |extern ")  # a remark to a tool: //go:noinline
_DOC_LINK = re.compile(r"(?<!\w)\[\*?([\w.]+)\](?![(:\w])")
_TARGET = re.compile(r"\n\[([^\]\n]+)\]:[ \t]+\S+[ \t]*(?=\n|\Z)")  # [RFC 7159]: https://...
_HEADING = re.compile(r"\n#[ \t]+([^\n]+)")


def receiver_and_name(node: Node, data: bytes) -> tuple[str, Node] | None:
    """(t *T[K]) Name -> T.Name; a type is one where it has a body."""
    found = named(node, data)
    kind = node.child_by_field_name("type")
    if kind is not None and kind.type not in ("struct_type", "interface_type"):  # type Celsius float64
        return None
    receiver = node.child_by_field_name("receiver")
    if found is None or receiver is None:
        return found
    match = _RECEIVER.match(data, receiver.start_byte, receiver.end_byte)
    return (f"{match.group(1).decode()}.{found[0]}", found[1]) if match else found


def go_prose(comments: list[str]) -> str:
    """What a Go documentation comment says: no directives, no brackets around links, no note that it is deprecated first."""
    lines = []
    for comment in comments:
        if comment.startswith("/*"):
            lines.append(without_stars(comment))
        elif not _DIRECTIVE.match(comment, 2):
            lines.append(comment[2:].removeprefix(" "))
    text = "\n".join(lines)
    if "[" in text:
        text = _DOC_LINK.sub(r"\1", _without_targets("\n" + text))
    if "#" in text:
        text = headings_apart("\n" + text, _HEADING)
    return first_that_is_not(text, _is_deprecation) if "Deprecated:" in text else text.strip()


def _without_targets(text: str) -> str:
    """Text without the lines that say where links lead, and without the brackets of those links."""
    names = [match.group(1) for match in _TARGET.finditer(text)]
    if names:
        text = _TARGET.sub("", text)
        for name in names:
            text = text.replace(f"[{name}]", name)
    return text


def _is_deprecation(paragraph: str) -> bool:
    return paragraph.startswith("Deprecated:")


RULES = CommentedRules(
    suffixes=(".go",),
    grammar="tree_sitter_go:language",
    definitions={"function_declaration": "function", "method_declaration": "function", "type_spec": "class"},
    comments=("comment",),
    signs=(re.compile(rb"type\b"),),  # functions lie at the top, closures have no name
    name_of=receiver_and_name,
    between=re.compile(rb"[ \t]*\n[ \t]*(?:type[ \t]+)?"),  # go/doc: on the line above, no blank one between
    doc_above=run_of_lines,
    clean=go_prose,
    code_line=re.compile(rb"\n[ \t;{}()\[\],]*(?!//|/\*)[^\s;{}()\[\],]"),  # *p = 1 is code
    module_suffix=re.compile(r"(?:(?<=.)/[^/]*|)\.go$"),  # the package is the folder
    test_function=re.compile(r"(?:Test|Benchmark|Example|Fuzz)(?![a-z])"),
    test_class=re.compile(r"(?!)"),
)
