"""Rust: functions, methods as Type.name, and macros, with the documentation before them in comments and attributes."""

from __future__ import annotations

import re

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import markdown_words
from pipeline_lib.languages.rules import CommentedRules, named

_GENERICS = re.compile(r"<[^<>]*>")
_GAP = re.compile(rb"\s*")
_DOC = re.compile(rb"///(?!/)|/\*\*(?![*/])|#\s*\[\s*doc\s*=")
_DOC_ATTRIBUTE = re.compile(r'#\s*\[\s*doc\s*=\s*(?:"((?:[^"\\]|\\.)*)"|r(#*)"(.*?)"\2)\s*\]', re.S)
_ESCAPES = re.compile(r"\\(?:\n\s*|u\{([0-9A-Fa-f_]{1,8})\}|x([0-7][0-9A-Fa-f])|([\"'\\nrt0]))")
_ESCAPED = {"n": "\n", "r": "\n", "t": "\t", "0": "\0"}
_STAR = re.compile(r"\n[ \t]*\*(?!/)[ \t]?")
_TARGET = re.compile(r"\n[ \t]*\[[^\]\n]+\]:[ \t]*\S[^\n]*")


def doc_parts(data: bytes, comments: list[Node]) -> list[Node]:
    """All documentation above an item, as rustdoc joins it; other attributes and comments may stand between."""
    found = []
    following: Node | None = None
    for index in range(len(comments) - 1, -1, -1):
        comment = comments[index]
        # the comment of a line holds its newline
        if following is not None and _GAP.fullmatch(data, comment.end_byte, following.start_byte) is None:
            break
        line = data.rfind(b"\n", 0, comment.start_byte) + 1
        behind_attribute = index > 0 and comments[index - 1].end_byte > line
        if (
            comment.type.endswith("comment")
            and not behind_attribute
            and data[line : comment.start_byte].strip() not in (b"", b"{")
        ):
            break  # behind code
        if _DOC.match(data, comment.start_byte):
            found.append(comment)
        following = comment
    return found[::-1]


def rust_prose(comments: list[str]) -> str:
    """What rustdoc shows before its first section, without code and links."""
    return markdown_words(_TARGET.sub("", "\n" + "\n".join(map(_part, comments))))


def _part(comment: str) -> str:
    if comment.startswith("///"):
        return comment[3:].rstrip().removeprefix(" ")
    if comment.startswith("/**"):
        return _STAR.sub("\n", "\n" + comment[3:].removesuffix("*/")).strip()
    attribute = _DOC_ATTRIBUTE.match(comment)  # of `include_str!` nobody knows what it says
    if attribute is None:
        return ""
    plain, _, raw = attribute.groups()
    return (raw if plain is None else _ESCAPES.sub(_unescaped, plain)).strip()


def _unescaped(escape: re.Match[str]) -> str:
    wide, narrow, sign = escape.groups()
    if sign:
        return _ESCAPED.get(sign, sign)
    code = int((wide or narrow or "").replace("_", "") or "0", 16)
    return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def name_in_rust(node: Node, data: bytes) -> tuple[str, Node] | None:
    """An item's name; an implementation has that of its type: `impl<T> Trait for a::Foo<T>` is Foo."""
    if node.type != "impl_item":
        return named(node, data)
    of = node.child_by_field_name("type")
    if of is None:
        return None
    text = data[of.start_byte : of.end_byte].decode()
    while "<" in text and (shorter := _GENERICS.sub("", text)) != text:
        text = shorter
    words = re.findall(r"\w+", text)
    return (words[-1], of) if words else None


_TEST = re.compile(rb"#\s*\[\s*(?:[\w:]*\btest\b|rstest|test_case|bench\b|cfg\s*\(\s*test\s*\))")


def is_marked_test(node: Node, data: bytes) -> bool:
    """True behind #[test], #[tokio::test], #[cfg(test)] and the like."""
    before = node.prev_named_sibling
    while before is not None and (before.type == "attribute_item" or before.type.endswith("comment")):
        if before.type == "attribute_item" and _TEST.match(data, before.start_byte):
            return True
        before = before.prev_named_sibling
    return False


def macro_rules(node: Node) -> Node | None:
    """The first rule of a macro."""
    return next((child for child in node.named_children if child.type == "macro_rule"), None)


RULES = CommentedRules(
    suffixes=(".rs",),
    grammar="tree_sitter_rust:language",
    definitions={
        "function_item": "function", "macro_definition": "function", "mod_item": "module", "impl_item": "module",
        "struct_item": "class", "enum_item": "class", "union_item": "class", "trait_item": "class",
    },
    comments=("line_comment", "block_comment", "attribute_item"),
    signs=tuple(map(re.compile, (rb"fn\s", rb"macro_rules!", rb"struct\s", rb"enum\s", rb"trait\s", rb"union\s"))),
    entered=("declaration_list", "foreign_mod_item"),
    name_of=name_in_rust,
    body_of=macro_rules,
    marked_test=is_marked_test,
    between=re.compile(rb"\s*"),
    doc_above=doc_parts,
    clean=rust_prose,
    module_suffix=re.compile(r"(?:(?:^|/)(?:mod|lib|main))?\.rs$"),
    test_function=re.compile(r"tests?(?![a-z])"),
    test_class=re.compile(r"Tests?(?![a-z])|\w*[a-z\d]Tests?$"),
    constructors=frozenset({"new"}),
    standard_methods=frozenset({"fmt", "clone", "eq", "hash", "drop", "main"}),
)  # fmt: skip
