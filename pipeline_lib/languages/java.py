"""Java: methods, and the Javadoc before them, in `/** */` or in the Markdown of `///` lines."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import before_tags, last_doc_block, markdown_words, tagged_prose
from pipeline_lib.languages.rules import STARRED_TAG, TEXT_TAG, CommentedRules, named

# what follows `new`: a body may be that of a class where no semicolon comes first and no bracket right before the brace
_CLASS_AFTER_NEW = re.compile(
    rb"""new\b[^;{"'/]*+(?:(?:"(?!"")[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'|/(?![/*]))[^;{"'/]*+)*+"""
    rb"""(?!;)(?!(?<=\])\{)(?!(?<=\] )\{)"""
)

_BLANK_LINE = re.compile(rb"[ \t]*\n[ \t]*\n")


def doc_block_or_lines(data: bytes, comments: list[Node]) -> list[Node]:
    """The last `/** */`, or the last run of `///` lines, which older code has as titles of what follows a blank line."""
    chosen = last_doc_block(data, comments, b"///")
    lines = chosen and data.startswith(b"///", chosen[0].start_byte)
    titles = lines and any(_BLANK_LINE.match(data, comment.end_byte) for comment in (chosen[-1], comments[-1]))
    return [] if titles else chosen


def java_prose(comments: list[str]) -> str:
    """What a documentation comment says before its first tag."""
    if not comments[0].startswith("///"):
        return tagged_prose(comments)
    text = before_tags("\n" + "\n".join(comment[3:].removeprefix(" ").rstrip() for comment in comments))
    return markdown_words(text)


RULES = CommentedRules(
    suffixes=(".java",),
    grammar="tree_sitter_java:language",
    definitions={
        "method_declaration": "function", "constructor_declaration": "function",
        "compact_constructor_declaration": "function",
        "class_declaration": "class", "interface_declaration": "class", "enum_declaration": "class",
        "record_declaration": "class", "annotation_type_declaration": "class",
    },
    comments=("line_comment", "block_comment"),
    signs=(*map(re.compile, (rb"class[\s/]", rb"interface[\s/]", rb"enum[\s/]", rb"record[\s/]")), _CLASS_AFTER_NEW),
    opening=b"{",
    entered=("class_body", "interface_body", "enum_body", "enum_body_declarations", "enum_constant", "annotation_type_body"),
    name_of=named,
    left_out=frozenset({"annotation", "marker_annotation", "line_comment", "block_comment"}),
    left_out_signs=b"@/",
    between=re.compile(rb"\s*"),  # javac: blank lines may stand between; annotations are part of the declaration
    doc_above=doc_block_or_lines,
    clean=java_prose,
    tag=STARRED_TAG,
    text_tag=TEXT_TAG,
    module_suffix=re.compile(r"(?:(?<=.)/[^/]*|)\.java$"),  # the package is the folder
    constructor_is_class=True,
    standard_methods=frozenset({"toString", "hashCode", "equals", "finalize", "notify", "notifyAll", "clone"}),
)  # fmt: skip
