"""Kotlin: functions, methods and properties with code, with the KDoc before them."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import before_tags, doc_text, last_doc_block, markdown_words
from pipeline_lib.languages.rules import STARRED_TAG, CommentedRules, called, marked_by

_BODIES = frozenset({"function_body", "class_body", "enum_class_body", "getter", "setter", "block"})


def kdoc_prose(comments: list[str]) -> str:
    """What a KDoc comment says before its first tag, without its Markdown."""
    return markdown_words(before_tags(doc_text(comments)))


def name_in_kotlin(node: Node, data: bytes) -> tuple[str, Node] | None:
    """A declaration's name; a property is one where it has code, a constructor is called so, a companion by its word."""
    kind = node.type
    if kind in ("secondary_constructor", "companion_object"):
        word = kind.rpartition("_")[2] if kind != "companion_object" else "companion"
        name = node.child_by_field_name("name") or next((child for child in node.children if child.type == word), None)
    elif kind == "property_declaration":
        if not any(child.type in ("getter", "setter") and child.named_children for child in node.named_children):
            return None
        variable = next((child for child in node.named_children if child.type == "variable_declaration"), None)
        name = variable.named_children[0] if variable is not None and variable.named_children else None
    else:
        name = node.child_by_field_name("name")
    if (found := called(name, data)) is None:
        return None
    text, name = found[0].strip("`"), found[1]
    return ("Companion" if text == "companion" else text), name


def body_in_kotlin(node: Node) -> Node | None:
    """The body, for which the grammar has no field."""
    return next((child for child in node.named_children if child.type in _BODIES), None)


_CONTEXT = rb"context[ \t]*\([^()\n]*\)"
_BEFORE_DECLARATION = re.compile(rb"(?m)^([ \t]*)(" + _CONTEXT + rb")(?=\s+(?:@\w|[a-z]+\b))")


def without_contexts(data: bytes) -> bytes:
    """The source with blanks for context parameters, which the grammar does not know in a class."""
    return _BEFORE_DECLARATION.sub(lambda found: found.group(1) + b" " * len(found.group(2)), data)


RULES = CommentedRules(
    suffixes=(".kt", ".kts"),
    grammar="tree_sitter_kotlin:language",
    definitions={
        "function_declaration": "function", "secondary_constructor": "function", "property_declaration": "function",
        "class_declaration": "class", "object_declaration": "class", "companion_object": "module",
    },
    # an annotation with arguments is an expression of its own to the grammar, where it stands before a modifier
    comments=("line_comment", "block_comment", "annotated_expression"),
    signs=tuple(map(re.compile, (rb"fun\b", rb"class\b", rb"object\b", rb"interface\b"))),
    entered=("class_body", "enum_class_body", "ERROR"),
    name_of=name_in_kotlin,
    body_of=body_in_kotlin,
    trailing=True,
    most_open_comments=400,
    marked_test=marked_by(re.compile(rb"@(?:\w+:)?(?:[\w.]+\.)?(?:Test|ParameterizedTest|RepeatedTest|TestFactory)\b")),
    left_out=frozenset({"annotation", "line_comment", "block_comment"}),
    left_out_signs=b"@/",
    between=re.compile(rb"\s*(?:" + _CONTEXT + rb"\s*)?"),
    doc_above=last_doc_block,
    clean=kdoc_prose,
    mend=without_contexts,
    tag=STARRED_TAG,
    module_suffix=re.compile(r"\.kts?$"),
    constructors=frozenset({"constructor"}),
    standard_methods=frozenset({"toString", "hashCode", "equals", "finalize", "clone"}),
)  # fmt: skip
