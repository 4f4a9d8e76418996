"""JavaScript: functions, methods, and functions given to a name, with the JSDoc before them."""

from __future__ import annotations

import re

import tree_sitter_javascript
from tree_sitter import Node

from pipeline_lib.pairs.languages.comments import last_doc_block, tagged_prose
from pipeline_lib.pairs.languages.rules import (
    BRACES_CODE_LINE,
    SLASHES_COMMENT_LINE,
    TEST_CLASS,
    TEST_FUNCTION,
    QueriedRules,
)

_HOLDER = re.compile(r"^(?:(?:module\.)?exports|this|self|window|globalThis)\.|(?<=\.)prototype\.")
_PLAIN = re.compile(r"#?[^\W\d][\w$]*(?:\.[\w$]+)*|\$[\w$]*(?:\.[\w$]+)*")


def given_name(node: Node, data: bytes) -> tuple[str, Node] | None:
    """The name that a function has or is given to: Foo.prototype.bar -> Foo.bar; a computed one is none."""
    for field in ("name", "left", "key", "property"):
        name = node.child_by_field_name(field)
        if name is not None:
            text = data[name.start_byte : name.end_byte].decode().strip("\"'")
            text = _HOLDER.sub("", text)
            return (text.lstrip("#"), name) if _PLAIN.fullmatch(text) else None
    return None


_FUNCTIONS = "[(arrow_function) (function_expression) (generator_function)]"

JAVASCRIPT = QueriedRules(
    name="javascript",
    grammar=tree_sitter_javascript.language,
    query=f"""
        (comment) @comment
        [(function_declaration) (generator_function_declaration) (method_definition)] @function
        (variable_declarator name: (identifier) value: {_FUNCTIONS}) @function
        (assignment_expression left: [(identifier) (member_expression)] right: {_FUNCTIONS}) @function
        (pair key: [(property_identifier) (string)] value: {_FUNCTIONS}) @function
        (field_definition property: [(property_identifier) (private_property_identifier)] value: {_FUNCTIONS}) @function
        (class_declaration) @class
        (variable_declarator name: (identifier) value: (class)) @class
        (assignment_expression left: [(identifier) (member_expression)] right: (class)) @class
    """,
    name_of=given_name,
    left_out=frozenset({"decorator", "comment"}),
    # jsdoc: blank lines may stand between; `export const` and further names, as in `var f = module.exports = function`
    between=re.compile(
        rb"\s*(?:@[\w.]+(?:\([^()\n]*\))?\s+)*+(?:export\s+(?:default\s+)?)?(?:(?:const|let|var|static|async)\s+)*+"
        rb"(?:[\w$.]+\s*=\s*)*+"
    ),
    doc_above=last_doc_block,
    clean=tagged_prose,
    code_line=BRACES_CODE_LINE,
    comment_line=SLASHES_COMMENT_LINE,
    module_suffix=re.compile(r"\.[cm]?jsx?$"),
    test_function=TEST_FUNCTION,
    test_class=TEST_CLASS,
    constructors=frozenset({"constructor"}),
    standard_methods=frozenset({"toString", "toLocaleString", "valueOf"}),
)
