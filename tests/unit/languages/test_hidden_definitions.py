"""Definitions of C and C++ behind macros that a grammar does not know: found with their documentation, and y as it stands."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.languages import rules_of
from pipeline_lib.languages.c import mended
from pipeline_lib.pairs.code_pairs import code_pairs
from pipeline_lib.pairs.definitions import find_definitions

DOC = "/** Reads a date from text. */\n"
BODY = "{\n  int b = a;\n  return b;\n}\n"
PARSE = f"{DOC}int parse(int a) {BODY}"

HIDDEN = {  # the source, and what it holds
    ("cpp", f"class EXPORT A {{\npublic:\n{PARSE}}};\n"): ["class A", "function A.parse"],
    ("cpp", f"struct EXPORT A {{\n{PARSE}}};\n"): ["class A", "function A.parse"],
    ("cpp", f"class EXPORT(a, b(c)) DEPRECATED\nA final : public B<C> {{\n{PARSE}}};\n"): ["class A", "function A.parse"],
    ("cpp", f"class API final {{\n{PARSE}}};\n"): ["class API", "function API.parse"],
    ("cpp", f"class A : public B {{\n  Q_OBJECT\npublic:\n{PARSE}}};\n"): ["class A", "function A.parse"],
    ("cpp", f"class A {{\n  Q_OBJECT\n  Q_PROPERTY(int a READ a)\npublic slots:\n{PARSE}signals:\n  void b();\n}};\n"): [
        "class A", "function A.parse",
    ],
    ("cpp", f"class A {{\n{PARSE}  Q_DISABLE_COPY(A)\n}};\n"): ["class A", "function A.parse"],
    ("cpp", f"BEGIN_NAMESPACE\n{PARSE}END_NAMESPACE\n"): ["function parse"],
    ("cpp", f"export module a;\nexport namespace b {{\n{PARSE}}}\n"): ["module b", "function b.parse"],
    ("cpp", f"{DOC}int parse(int a) const NOEXCEPT(true) OVERRIDE {BODY}"): ["function parse"],
    ("cpp", f"class A {{\n{DOC}friend int parse(int a) {BODY}}};\n"): ["class A", "function A.parse"],
    ("cpp", f"class A {{\n{DOC}template <class T>\nfriend int parse(T a) {BODY}}};\n"): ["class A", "function A.parse"],
    ("c", f'MODULE_LICENSE("GPL")\n{PARSE}'): ["function parse"],
    ("c", f"EXPORT_SYMBOL(other)\n\n{PARSE}"): ["function parse"],
    ("c", f"struct PACKED A {{\n  int a;\n}};\n{PARSE}"): ["class A", "function parse"],
    ("c", f"enum API A {{ B, C }};\n{PARSE}"): ["class A", "function parse"],
    ("c", f"{DOC}void CALL\nparse(struct a *a) {BODY}"): ["function parse"],
}  # fmt: skip
NOTHING_HIDDEN = {
    ("c", f"{DOC}DEFINE(parse, int a)\n{BODY}{DOC}int z(int a) {BODY}"): ["function z"],
    ("cpp", f"{DOC}TEST(A, B)\n{BODY}"): ["function TEST"],
    ("cpp", f"{DOC}EXPORT\nint parse(int a) {BODY}"): ["function parse"],
    ("c", f"{DOC}int parse(int a) {{\n  int b = A_B |\n    C_D\n  ;\n  return b;\n}}\n"): ["function parse"],
}


@pytest.mark.parametrize(("language", "source"), [*HIDDEN, *NOTHING_HIDDEN])
def test_what_stands_behind_a_macro_is_found(language: str, source: str) -> None:
    wanted = (HIDDEN | NOTHING_HIDDEN)[language, source]
    data, rules = source.encode(), rules_of(language)
    module, *found = find_definitions(data, rules, "")
    assert [f"{one.kind} {one.qualified_name.removeprefix('.')}" for one in found] == wanted
    config = CodePairsConfig.model_validate({"min_body_lines": 1, "min_doc_words": 2})
    pairs = list(code_pairs([module, *found], data, config, rules, Counter()))
    expected = [name for name in wanted if name.startswith("function") and "TEST" not in name]
    assert [(pair.x, f"function {pair.name.removeprefix('.')}") for pair in pairs] == [
        ("Reads a date from text.", name) for name in expected
    ]
    if (language, source) in HIDDEN:
        assert module.gaps is None or "export module" in source
        assert pairs[0].y in source, "y is what the file holds, macros and all"


def test_a_type_that_its_typedef_names_ends_behind_its_name() -> None:
    source = "/** A day of some month. */\ntypedef struct {\n  int month;\n  int day;\n} date_t;\nint z;\n"
    data, rules = source.encode(), rules_of("c")
    config = CodePairsConfig.model_validate({"min_body_lines": 1, "min_doc_words": 2, "views": ("class",)})
    [pair] = code_pairs(find_definitions(data, rules, ""), data, config, rules, Counter())
    assert pair.y == "typedef struct {\n  int month;\n  int day;\n} date_t;"


def test_a_mended_text_has_every_line_where_it_was() -> None:
    for _, source in HIDDEN:
        blanked = mended(source.encode())
        assert len(blanked) == len(source.encode())
        assert [at for at, sign in enumerate(blanked) if sign == 10] == [
            at for at, sign in enumerate(source.encode()) if sign == 10
        ]


@pytest.mark.parametrize(
    "unit",
    ["ABC", "ABC ", "ABC\n", "ABC(", "ABC(a)", "class ABC ", "class ABC a<", ") ABC ", ")", ") const ", "(", " ", "public ",
     "ABC()\n", "#if A\n", "#endif\n", "export ", "signals ", "enum class "],
)  # fmt: skip
def test_mending_takes_no_square_of_the_length(unit: str) -> None:
    start = time.process_time()
    mended(b"x " + unit.encode() * (100_000 // len(unit)) + b"!")
    assert time.process_time() - start < 5
