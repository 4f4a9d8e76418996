"""PHP, inside HTML too: functions and methods, and the PHPDoc before them."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import last_doc_block, tagged_prose
from pipeline_lib.languages.rules import STARRED_TAG, TEXT_TAG, CommentedRules, named


def doc_block(data: bytes, comments: list[Node]) -> list[Node]:
    """The last `/** */` that is about one thing: phpDocumentor's `/**#@+ */` opens what many share."""
    chosen = last_doc_block(data, comments)
    return [] if chosen and data.startswith(b"/**#@", chosen[0].start_byte) else chosen


RULES = CommentedRules(
    suffixes=(".php",),
    grammar="tree_sitter_php:language_php",
    definitions={
        "function_definition": "function", "method_declaration": "function",
        "class_declaration": "class", "interface_declaration": "class", "trait_declaration": "class",
        "enum_declaration": "class",
    },
    comments=("comment",),
    signs=tuple(map(re.compile, (rb"function\b", rb"class\b", rb"interface\b", rb"trait\b", rb"enum\b"))),
    ignore_case=True,
    name_of=named,
    left_out=frozenset({"attribute_list", "comment"}),
    left_out_signs=b"#/",
    between=re.compile(rb"\s*"),  # as for PHP's own getDocComment(); attributes are part of the declaration
    doc_above=doc_block,
    doc_inside=True,
    clean=tagged_prose,
    tag=STARRED_TAG,
    text_tag=TEXT_TAG,
    code_line=re.compile(rb"\n[ \t;{}()\[\],]*(?!//|/\*|\*|#(?!\[))[^\s;{}()\[\],]"),
    comment_line=re.compile(r"\n[ \t]*(?://|#(?!\[))[/#]*[ \t!]*([^\n]*)"),
    module_suffix=re.compile(r"\.(?:php\d?|phtml|inc)$"),
    constructors=frozenset({"__construct"}),
    standard_methods=frozenset(
        {
            "__destruct", "__call", "__callStatic", "__get", "__set", "__isset", "__unset", "__sleep", "__wakeup",
            "__toString", "__invoke", "__set_state", "__clone", "__debugInfo", "__serialize", "__unserialize",
        }
    ),
)  # fmt: skip
