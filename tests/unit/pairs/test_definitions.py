"""Definitions found by looking up the node at each sign are those that a walk over the tree finds."""

import pytest

from pipeline_lib.languages import rules_of
from pipeline_lib.languages.rules import CommentedRules, Doc
from pipeline_lib.pairs.definitions import Definition, _by_signs, _walk_with_comments, find_definitions

FORMS = """/** Of the file. */
'use strict';
/** Adds two numbers. */
function add(a, b = () => 1) { return a + b; }
/** Left by a list. */
const list = [1, /** no documentation */ 2];
/** Twice a name. */
var twice = module.exports = function () { return add(1, 2); };
/** Behind a remark. */ // a remark
/* and another */
export const late = async (x) => { if (x) { return `/** none */`; } };
/** A class. */
export default class Box {
  /** A field. */
  handler = () => { return 1; };
  static #hidden = function () {};
  /** A getter. */
  get size() { return 1; }
  /** Commented before its body. */
  open() /* why */ { return { close() { return 2; } }; }
  *steps() { yield 1; }
  async 'quoted name'(x) { for (const y of x) { await y; } }
  [computed]() { return 3; }
}
/**/
function empty() {}
// see /** this
function line() {}
/** Not next to it. */
let other = 1;
function far() {}
Box.prototype.fold = function fold(x) { return function inner() { return x; }; };
const table = { /** In a table. */ row: function () {}, cell: (x) => x, plain() {}, 'a-b': class {} };
call(function named() { /** Inside. */ function deep() {} });
a = class Inner { m() {} };
"""


def described(definitions: list[Definition]) -> list[tuple[object, ...]]:
    return [
        (d.kind, d.qualified_name, d.start, d.end, d.line, d.body_start, d.in_test, d.doc and (d.doc.line, d.doc.value))
        for d in definitions
    ]


def test_looking_up_signs_finds_what_a_walk_finds() -> None:
    rules = rules_of("javascript")
    assert isinstance(rules, CommentedRules)
    data = FORMS.encode()
    root = rules.parse(data, 10)
    assert not root.has_error
    ways = []
    for way in (_by_signs, _walk_with_comments):
        top = Definition("module", "m", None, 0, len(data), 1, 0, 0, 0, None, False, False)
        ways.append(described(list(way(data, root, rules, top))))
    assert ways[0] == ways[1]
    docs = {str(row[1]): row[-1] for row in ways[0]}
    assert docs["m.module.exports"] == (7, "Twice a name.")
    assert docs["m.late"] == (9, "Behind a remark.")
    assert docs["m.Box.open"] == (19, "Commented before its body.")
    assert [docs[name] for name in ("m.empty", "m.line", "m.far")] == [None] * 3
    assert docs["m.deep"] == (34, "Inside.")


def test_a_method_whose_sign_a_comment_hides_is_found() -> None:
    source = b"class A {\n  /** Opens it. */\n  open(x) // why\n  {\n    return x;\n  }\n}\n"
    found = find_definitions(source, rules_of("javascript"), "m")
    assert [(d.qualified_name, d.doc and d.doc.value) for d in found[1:]] == [("m.A", None), ("m.A.open", "Opens it.")]


@pytest.mark.parametrize(
    ("raw", "has"),
    [
        (b"/** " + b"a " * 10 + b"*/", True),
        (b"/** " + b"a " * 9 + b"*/", True),  # the marks may count: for sure fewer is what is asked
        (b"/** a b */", False),
        (b"/** " + b"x" * 80 + b" */", False),
        (b"/** <b>1</b><b>2</b><b>3</b><b>4</b><b>5</b> */", True),
        (b"/** one\n * @param " + b"a " * 20 + b"*/", False),
    ],
)
def test_too_few_words_are_known_without_cleaning(raw: bytes, has: bool) -> None:
    rules = rules_of("java")
    assert isinstance(rules, CommentedRules)

    def cleaned() -> str:
        return "w " * 10 if has else pytest.fail("it was cleaned")

    assert Doc(cleaned, 0, len(raw), 1, True, (raw, rules.before_tags)).may_have(10) is has
