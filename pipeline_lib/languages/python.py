"""Python: functions and classes, and the docstring that `ast.get_docstring` finds in them."""

from __future__ import annotations

import ast
import re
import warnings

from tree_sitter import Node

from pipeline_lib.languages.rules import Doc, WalkedRules

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
    if "{" in value:
        value = without_epytext(value)
    return Doc(value, statement.start_byte, statement.end_byte, statement.start_point[0] + 1)


# Epydoc's inline markup, the innermost first; what it says may hold one pair of plain braces. It stands where a word may: in
# <S{n}>, 'C{n}' and B{n}(z) a letter and braces mean something else.
_EPYTEXT = re.compile(r"(?<![^\s(\[{\ue000])([BCGILMSUX])\{((?:[^{}]|(?<![BCGILMSUX])\{[^{}]*\})*)\}(?![\w(*])")
_EPYTEXT_TARGET = re.compile(r"(?s)(.*\S)\s*<[^<>]*>\s*")
_TAGS = ("L{", "C{", "B{", "I{", "U{", "X{", "E{")
_EPYTEXT_SIGN = re.compile(r"(?<!\w)(?:[BCILUX]\{[^\d}]|E\{[lr]b\})")


def without_epytext(value: str) -> str:
    """Docstring whose L{links}, C{code} and the like are plain words."""
    if not any(map(value.__contains__, _TAGS)) or _EPYTEXT_SIGN.search(value) is None:
        return value
    value = value.replace("E{lb}", "\ue000").replace("E{rb}", "\ue001")  # braces, when all tags are gone
    for _ in range(4):  # of tags in tags
        value, n_tags = _EPYTEXT.subn(_epytext_words, value)
        if not n_tags:
            break
    return value.replace("\ue000", "{").replace("\ue001", "}")


def _epytext_words(inline: re.Match[str]) -> str:
    tag, said = inline.groups()
    if tag == "G":  # a graph
        return ""
    target = _EPYTEXT_TARGET.fullmatch(said) if tag in "LU" else None
    return target.group(1) if target else said


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


RULES = WalkedRules(
    suffixes=(".py",),
    grammar="tree_sitter_python:language",
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
    module_suffix=re.compile(r"(?:(?:^|/)__init__)?\.py$"),
    test_function=re.compile("test_"),
    test_class=re.compile("Test"),
)  # fmt: skip
