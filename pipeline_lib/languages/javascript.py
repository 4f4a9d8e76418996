"""JavaScript: functions, methods, and functions given to a name, with the JSDoc before them."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import last_doc_block, tagged_prose
from pipeline_lib.languages.rules import STARRED_TAG, TEXT_TAG, CommentedRules

_HOLDER = re.compile(r"^(?:(?:module\.)?exports|this|self|window|globalThis)\.|(?<=\.)prototype\.")
_PLAIN = re.compile(r"#?[^\W\d][\w$]*(?:\.[\w$]+)*|\$[\w$]*(?:\.[\w$]+)*")


_GIVEN = {"function_expression", "arrow_function", "generator_function", "class"}


def given_name(node: Node, data: bytes) -> tuple[str, Node] | None:
    """The name that a function has or is given to: Foo.prototype.bar -> Foo.bar; a computed one is none."""
    given = node.child_by_field_name("value") or node.child_by_field_name("right")
    if (given.type not in _GIVEN) if given is not None else (node.child_by_field_name("body") is None):
        return None
    for field in ("name", "left", "key", "property"):
        name = node.child_by_field_name(field)
        if name is not None:
            text = _HOLDER.sub("", data[name.start_byte : name.end_byte].decode().strip("\"'"))
            return (text.lstrip("#"), name) if _PLAIN.fullmatch(text) else None
    return None


_NAMED_BY_PARENT = _GIVEN | {"comment"}  # a comment between a method's parameters and its body


def opened_definition(node: Node) -> Node | None:
    """The definition whose keyword, arrow or parameters this node is or holds."""
    kind = node.type
    if kind == "formal_parameters":
        method = node.parent
        return method if method is not None and method.type == "method_definition" else None
    return node.parent if kind in _NAMED_BY_PARENT else node


RULES = CommentedRules(
    suffixes=(".js", ".mjs", ".cjs", ".jsx"),
    grammar="tree_sitter_javascript:language",
    definitions={
        "function_declaration": "function", "generator_function_declaration": "function", "method_definition": "function",
        "variable_declarator": "function", "assignment_expression": "function", "pair": "function",
        "field_definition": "function", "class_declaration": "class",
    },
    comments=("comment",),
    # the last one opens a method's body, and that of `if`
    signs=tuple(map(re.compile, (rb"function\b", rb"=>", rb"class\b", rb"\)\s*\{", rb"\*/\s*\{"))),
    entered=("class_body",),
    opened_by=opened_definition,
    unsigned=re.compile(rb"//[^\n]*\n\s*\{"),
    name_of=given_name,
    given_by=("right", "value"),
    left_out=frozenset({"decorator", "comment"}),
    left_out_signs=b"@/",
    # jsdoc: blank lines may stand between; `export const` and further names, as in `var f = module.exports = function`
    between=re.compile(
        rb"\s*(?:@[\w.]+(?:\([^()\n]*\))?\s+)*+(?:export\s+(?:default\s+)?)?(?:(?:const|let|var|static|async)\s+)*+"
        rb"(?:[\w$.]+\s*=\s*)*+"
    ),
    doc_above=last_doc_block,
    clean=tagged_prose,
    tag=STARRED_TAG,
    text_tag=TEXT_TAG,
    module_suffix=re.compile(r"\.[cm]?jsx?$"),
    constructors=frozenset({"constructor"}),
    standard_methods=frozenset({"toString", "toLocaleString", "valueOf"}),
)  # fmt: skip
