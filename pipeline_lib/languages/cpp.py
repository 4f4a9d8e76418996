"""C++: functions, methods inside and outside of their class, operators and macros, with the comment above them as in C."""

from __future__ import annotations

import re
from dataclasses import replace

from tree_sitter import Node

from pipeline_lib.languages import c
from pipeline_lib.languages.rules import TEST_FUNCTION

_ARGUMENTS = re.compile(r"<[^<>]*>")
_SPACES = re.compile(r"\s+")
_OPERATOR = re.compile(r"\boperator\b.*", re.S)


def name_in_cpp(node: Node, data: bytes) -> tuple[str, Node] | None:
    """n::Foo<T>::bar -> n.Foo.bar; operators are called `operator+=`, a conversion `operator bool`."""
    if node.type == "namespace_definition":
        name = node.child_by_field_name("name")
        return (data[name.start_byte : name.end_byte].decode().replace("::", "."), name) if name is not None else None
    found = c.name_in_c(node, data)
    if found is None:
        return None
    text, name = found
    operator = _OPERATOR.search(text)
    scopes = text[: operator.start()] if operator else text
    while "<" in scopes and (shorter := _ARGUMENTS.sub("", scopes)) != scopes:
        scopes = shorter
    last = operator.group().partition("(")[0] if operator and not operator.group().startswith("operator()") else ""
    last = last or ("operator()" if operator else "")
    return (_SPACES.sub("", scopes).replace("::", ".").lstrip(".") + _SPACES.sub(" ", last).strip(), name)


RULES = replace(
    c.RULES,
    suffixes=(".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"),
    shared_suffixes=(".h",),
    grammar="tree_sitter_cpp:language",
    definitions={**c.RULES.definitions, "class_specifier": "class", "namespace_definition": "module"},
    signs=tuple(map(re.compile, (rb"class\b", rb"struct\b", rb"union\b"))),  # of types inside functions
    opening=b"{",
    entered=(*c.RULES.entered, "template_declaration", "field_declaration_list", "friend_declaration", "namespace_definition"),
    name_of=name_in_cpp,
    wrapped_by=frozenset({"type_definition", "template_declaration", "friend_declaration"}),
    between=re.compile(c.BETWEEN + rb"(?:(?:static|inline|constexpr|friend|export|typedef)\s+)*+"),
    test_function=re.compile(rf"{TEST_FUNCTION.pattern}|(?:[A-Z]+_)*TEST(?:_[A-Z]+)?$|TEST_CASE|SCENARIO$|BENCHMARK"),
    module_suffix=re.compile(r"\.(?:cc|cpp|cxx|h|hh|hpp|hxx)$"),
    constructor_is_class=True,
    told_by_text=None,
)
