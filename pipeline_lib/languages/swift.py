"""Swift: functions, methods, properties and subscripts with code, with the documentation in `///` lines or `/** */`."""

from __future__ import annotations

import re
from functools import partial

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import doc_text, last_doc_block, markdown_words
from pipeline_lib.languages.rules import CommentedRules, called, marked_by

# a callout of Swift's markup, with what is indented below it
_CALLOUT = re.compile(
    r"\n[ \t]*[-*+][ \t]+(?i:parameters?|returns?|throws|note|warning|important|attention|author|authors|bug|complexity"
    r"|copyright|date|experiment|invariant|mutatingvariant|nonmutatingvariant|postcondition|precondition|recommended|recommendedover"
    r"|remark|remarks|requires|seealso|see also|since|tag|todo|to do|version|localizationkey|keyword|example)\b[^\n:]*:[^\n]*"
    r"(?:\n[ \t]*(?=\n)|\n[ \t]{2,}\S[^\n]*)*"
)
_MARK = re.compile(r"\s*(?:MARK|TODO|FIXME|swiftlint)\b")
_LINK = re.compile(r"``([^`\n]+)``")


def swift_prose(comments: list[str]) -> str:
    """What a comment says beside its callouts, without its Markdown."""
    text = doc_text(comments)
    if _MARK.match(text):
        return ""
    if "``" in text:
        text = _LINK.sub(lambda found: f"`{found.group(1).replace('/', '.')}`", text)
    return markdown_words(_CALLOUT.sub("\n\n", text))


_WORDS = {"init_declaration": "init", "deinit_declaration": "deinit", "subscript_declaration": "subscript"}


def name_in_swift(node: Node, data: bytes) -> tuple[str, Node] | None:
    """A declaration's name, an initializer's word; an extension has the name of its type; a property needs code."""
    kind = node.type
    if kind in _WORDS:
        name = next((child for child in node.children if child.type == _WORDS[kind]), None)
    else:
        if kind == "property_declaration" and node.child_by_field_name("computed_value") is None:
            return None
        name = node.child_by_field_name("name")
    if (found := called(name, data)) is None:
        return None
    text, name = found
    return text.partition("<")[0].strip("` ") if kind == "class_declaration" else text.strip("`"), name


def body_in_swift(node: Node) -> Node | None:
    """The code of a property or a subscript."""
    found = node.child_by_field_name("computed_value")
    return found or next((child for child in node.named_children if child.type == "computed_property"), None)


RULES = CommentedRules(
    suffixes=(".swift",),
    grammar="tree_sitter_swift:language",
    definitions={
        "function_declaration": "function", "init_declaration": "function", "deinit_declaration": "function",
        "subscript_declaration": "function", "property_declaration": "function",
        "class_declaration": "class", "protocol_declaration": "class",
    },
    comments=("comment", "multiline_comment"),
    signs=tuple(map(re.compile, (rb"func\b", rb"class\b", rb"struct\b", rb"enum\b", rb"extension\b", rb"actor\b", rb"init\b"))),
    entered=("class_body", "enum_class_body", "protocol_body", "ERROR"),
    name_of=name_in_swift,
    body_of=body_in_swift,
    marked_test=marked_by(re.compile(rb"@(?:Test|Suite)\b")),
    left_out=frozenset({"attribute", "comment", "multiline_comment"}),
    left_out_signs=b"@/",
    between=re.compile(rb"\s*(?:#(?:if|else|elseif|endif)\b[^\n]*\n\s*)*+"),
    doc_above=partial(last_doc_block, line_mark=b"///"),
    clean=swift_prose,
    module_suffix=re.compile(r"\.swift$"),
    constructors=frozenset({"init", "deinit"}),
    standard_methods=frozenset({"hash", "encode", "description", "debugDescription", "=="}),
)  # fmt: skip
