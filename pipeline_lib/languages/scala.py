"""Scala 2 and 3: methods and functions, with the Scaladoc before them."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import (
    FENCE,
    before_tags,
    doc_text,
    headings_apart,
    last_doc_block,
    without_inline_tags,
)
from pipeline_lib.languages.rules import STARRED_TAG, CommentedRules, named

_CODE = re.compile(r"\{\{\{.*?(?:\}\}\}|\Z)", re.S)
_LINK = re.compile(r"\[\[([^\[\]\s]+)(?:[ \t]+([^\[\]]+))?\]\]")
_HEADING = re.compile(r"\n[ \t]*={1,6}[ \t]*([^=\n]+?)[ \t]*={1,6}[ \t]*(?=\n|\Z)")
_QUOTES = re.compile(r"'{2,5}")  # of what is bold or italic
_RAISED = re.compile(r"(?<!\w)(\^|,,|__)(?=[^\s_^,])([^\n_^,]{1,100})\1(?!\w)")


def scaladoc_prose(comments: list[str]) -> str:
    """What a Scaladoc comment says before its first tag, without the markup of wikis."""
    text = before_tags(FENCE.sub("\n", _CODE.sub("\n", doc_text(comments))))
    text = headings_apart(text, _HEADING)
    if "[[" in text:
        text = _LINK.sub(lambda found: found.group(2) or found.group(1), text)
    if "''" in text:
        text = _QUOTES.sub("", text)
    return without_inline_tags(_RAISED.sub(r"\2", text)).strip()


def name_in_scala(node: Node, data: bytes) -> tuple[str, Node] | None:
    """A definition's name, without the backticks around it."""
    found = named(node, data)
    return (found[0].strip("`"), found[1]) if found else None


RULES = CommentedRules(
    suffixes=(".scala", ".sc"),
    grammar="tree_sitter_scala:language",
    definitions={
        "function_definition": "function", "class_definition": "class", "object_definition": "class",
        "trait_definition": "class", "enum_definition": "class", "package_object": "class", "given_definition": "class",
    },
    comments=("comment", "block_comment"),
    signs=tuple(map(re.compile, (rb"def\b", rb"class\b", rb"object\b", rb"trait\b", rb"enum\b"))),
    entered=("template_body", "with_template_body", "enum_body", "ERROR"),
    name_of=name_in_scala,
    trailing=True,
    left_out=frozenset({"annotation", "comment", "block_comment"}),
    left_out_signs=b"@/",
    # an extension of one method, on its line
    between=re.compile(rb"\s*(?:extension[ \t]*(?:\[[^\[\]\n]*\][ \t]*)?(?:\([^()\n]*\)[ \t]*)+)?"),
    doc_above=last_doc_block,
    clean=scaladoc_prose,
    tag=STARRED_TAG,
    module_suffix=re.compile(r"\.(?:scala|sc)$"),
    test_class=re.compile(r"Tests?(?![a-z])|\w*(?:[a-z\d]Tests?|TestCase|[a-z\d]Spec|[a-z\d]Suite|_[Tt]est)$"),
    constructors=frozenset({"this"}),
    standard_methods=frozenset({"toString", "hashCode", "equals", "canEqual", "finalize", "clone", "main"}),
)  # fmt: skip
