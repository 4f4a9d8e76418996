"""C#: methods, operators, properties with code and local functions, with the XML documentation before them."""

from __future__ import annotations

import html
import re
from functools import partial

from tree_sitter import Node

from pipeline_lib.languages.c import without_cutting_branches
from pipeline_lib.languages.doc_comments import doc_text, last_doc_block, without_markup
from pipeline_lib.languages.rules import CommentedRules, named

_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.S)
# up to its end or, where that is missing, to the next element that no summary holds
_SUMMARY = re.compile(r"<summary\b[^<>]*>(.*?)(?:</summary\s*>|(?=<(?:param|typeparam|returns|exception|remarks)\b)|\Z)", re.S)
_MORE = re.compile(r"<(?:remarks|value)\b[^<>]*>(.*?)(?:</(?:remarks|value)\s*>|\Z)", re.S)
_ELEMENT = re.compile(r"</?[A-Za-z][^<>]*>")
_CODE = re.compile(r"<code\b[^<>]*>.*?(?:</code\s*>|\Z)", re.S)
_INLINE_CODE = re.compile(r"<c>([^<]*)</c>")
_REFERENCE = re.compile(
    r"<(?:see|seealso|paramref|typeparamref)\s+(?:cref|name|langword|href)\s*=\s*[\"']([^\"'<>]*)[\"']\s*(?:/>|>\s*</\w+\s*>)"
)
_LABELLED = re.compile(r"</?(?:see|seealso|a)\b[^<>]*>")
_PARAGRAPH = re.compile(r"</?(?:para|p|list|item|description|term|listheader|br|summary|remarks)\b[^<>]*>")
_DOC_ID = re.compile(r"\A[A-Z!]:|`+\d+|\{[^{}]*\}")


def xml_prose(comments: list[str]) -> str:
    """What `<summary>` says, then `<remarks>` and `<value>`; of a comment without elements all."""
    text = doc_text(comments)
    if "<" not in text:
        return without_markup(text).strip()
    text = _CDATA.sub(lambda found: html.escape(found.group(1)), text) if "<![CDATA[" in text else text
    summary = _SUMMARY.search(text)
    if summary is None:  # other elements alone say nothing of it: <inheritdoc/>, <returns>
        first = _ELEMENT.search(text)
        said = [text[: first.start()] if first else text]
    else:
        said = [summary.group(1)]
    said += [more.group(1) for more in _MORE.finditer(text)]
    return "\n\n".join(filter(None, map(_words, said)))


def _words(xml: str) -> str:
    text = _CODE.sub("\n\n", xml)
    text = _INLINE_CODE.sub(r"\1", _REFERENCE.sub(lambda found: _DOC_ID.sub("", found.group(1)), text))
    return without_markup(_ELEMENT.sub("", _PARAGRAPH.sub("\n\n", _LABELLED.sub("", text)))).strip()


def name_in_csharp(node: Node, data: bytes) -> tuple[str, Node] | None:
    """A member's name; that of an operator with its sign, of an indexer `this`; a property is one where it holds code."""
    kind = node.type
    if kind in ("property_declaration", "indexer_declaration") and not _has_code(node):
        return None
    if kind in ("operator_declaration", "conversion_operator_declaration", "indexer_declaration"):
        return _unnamed(node, data)
    found = named(node, data)
    return (f"~{found[0]}", found[1]) if found and kind == "destructor_declaration" else found


def _unnamed(node: Node, data: bytes) -> tuple[str, Node] | None:
    """`operator +`, `operator int`, `this`: where the word stands, and what is behind it."""
    for child in node.children:
        if child.type == "this":
            return "this", child
        if child.type == "operator":
            following = child.next_sibling
            if following is None:
                return None
            sign = data[following.start_byte : following.end_byte].decode()
            return (f"operator {sign}" if sign[:1].isalpha() else f"operator{sign}"), following
    return None


def _has_code(node: Node) -> bool:
    accessors = node.child_by_field_name("accessors")
    if accessors is None:
        return any(child.type == "arrow_expression_clause" for child in node.children)
    return any(child.child_by_field_name("body") is not None for child in accessors.named_children)


def accessors_of(node: Node) -> Node | None:
    """The body of a property or an indexer."""
    found = node.child_by_field_name("accessors")
    return found or next((child for child in node.children if child.type == "arrow_expression_clause"), None)


_TEST = re.compile(rb"\[[^\]\n]*\b(?:Test|TestCase|TestMethod|Fact|Theory|DataTestMethod|TestFixture|TestClass)\b")


def is_marked_test(node: Node, data: bytes) -> bool:
    """True behind [Test], [Fact] and the like, which begin a declaration."""
    if data[node.start_byte] != ord("["):
        return False
    lists = [child for child in node.children if child.type == "attribute_list"]
    return _TEST.search(data, node.start_byte, lists[-1].end_byte) is not None if lists else False


# a name, its parameters and a body: what a function inside a method has, and `if (` has not
_LOCAL = re.compile(rb"\)\s*(?:where\b[^{};]*)?(?:=>|\{)")

RULES = CommentedRules(
    suffixes=(".cs",),
    grammar="tree_sitter_c_sharp:language",
    definitions={
        "method_declaration": "function", "constructor_declaration": "function", "destructor_declaration": "function",
        "operator_declaration": "function", "conversion_operator_declaration": "function", "indexer_declaration": "function",
        "property_declaration": "function", "local_function_statement": "function",
        "class_declaration": "class", "struct_declaration": "class", "record_declaration": "class",
        "interface_declaration": "class", "enum_declaration": "class",
    },
    comments=("comment",),
    signs=(_LOCAL, *map(re.compile, (rb"class\b", rb"struct\b", rb"record\b", rb"interface\b", rb"enum\b"))),
    entered=(
        "declaration_list", "namespace_declaration", "file_scoped_namespace_declaration", "preproc_if", "preproc_else",
        "preproc_elif", "ERROR",
    ),
    name_of=name_in_csharp,
    body_of=accessors_of,
    marked_test=is_marked_test,
    left_out=frozenset({"attribute_list", "comment"}),
    left_out_signs=b"[/",
    between=re.compile(rb"\s*(?:#[ \t]*(?:pragma|region|endregion|nullable|if)\b[^\n]*\n\s*)*+"),
    doc_above=partial(last_doc_block, line_mark=b"///"),
    clean=xml_prose,
    mend=without_cutting_branches,
    module_suffix=re.compile(r"(?:\.g|\.designer)?\.cs$", re.I),
    constructor_is_class=True,
    standard_methods=frozenset({"ToString", "GetHashCode", "Equals", "Finalize", "Dispose", "Clone", "MemberwiseClone"}),
)  # fmt: skip
