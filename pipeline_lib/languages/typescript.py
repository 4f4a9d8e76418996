"""TypeScript: functions, methods, and functions given to a name, with the TSDoc before them or before their overloads."""

from __future__ import annotations

import re
from dataclasses import replace

from tree_sitter import Node

from pipeline_lib.languages import javascript
from pipeline_lib.languages.doc_comments import last_doc_block

_SIGNATURES = frozenset({"function_signature", "method_signature", "abstract_method_signature"})
_PREFIX = (
    rb"(?:(?:export|default|declare|public|private|protected|static|abstract|override|async|function|get|set)\b\s*|\*\s*)*+"
)
_APART = re.compile(rb";?\s*+" + _PREFIX)
_NEXT_NAME = re.compile(rb"[;\s]*+" + _PREFIX + rb"([#\w$\x80-\xff]+)")


def doc_block_or_overloads(data: bytes, comments: list[Node]) -> list[Node]:
    """The last `/** */`; an implementation whose own is missing has that of its last documented overload."""
    following = _NEXT_NAME.match(data, comments[-1].end_byte)
    name = following.group(1) if following else b""
    end = len(comments)
    while end:
        signature = next((at for at in range(end - 1, -1, -1) if comments[at].type in _SIGNATURES), -1)
        if found := last_doc_block(data, comments[signature + 1 : end]):
            return found
        if signature < 0 or not _is_called(comments[signature], name, data):
            return []  # another function's, which has no body
        if signature + 1 < end and not _APART.fullmatch(data, comments[signature].end_byte, comments[signature + 1].start_byte):
            return []
        if signature and _APART.fullmatch(data, comments[signature - 1].end_byte, comments[signature].start_byte) is None:
            return []
        end = signature
    return []


def _is_called(signature: Node, name: bytes, data: bytes) -> bool:
    of = signature.child_by_field_name("name")
    return of is not None and data[of.start_byte : of.end_byte] == name


RULES = replace(
    javascript.RULES,
    suffixes=(".ts", ".mts", ".cts"),
    grammar="tree_sitter_typescript:language_typescript",
    definitions={
        "function_declaration": "function", "generator_function_declaration": "function", "method_definition": "function",
        "variable_declarator": "function", "assignment_expression": "function", "pair": "function",
        "public_field_definition": "function", "class_declaration": "class", "abstract_class_declaration": "class",
        "interface_declaration": "class", "internal_module": "module", "module": "module",
    },
    # decorators stand between documentation and definition; overloads hold the documentation of the implementation
    comments=("comment", "decorator", *sorted(_SIGNATURES)),
    signs=tuple(map(re.compile, (rb"function\b", rb"=>", rb"class\b", rb"interface\b", rb"\)\s*[{:]", rb"\*/\s*[{:]"))),
    entered=("class_body", "interface_body", "ambient_declaration"),
    opened_by=None,
    unsigned=None,
    between=re.compile(
        rb"[;\s]*(?:export\s+(?:default\s+)?)?(?:(?:declare|const|let|var|static|async|abstract|public|private|protected|readonly"
        rb"|override)\s+)*+(?:[\w$.]+\s*=\s*)*+"
    ),
    doc_above=doc_block_or_overloads,
    module_suffix=re.compile(r"(?:\.d)?\.[cm]?tsx?$"),
)  # fmt: skip
