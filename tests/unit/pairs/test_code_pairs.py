"""Awkward Python as source and what must come of it."""

from __future__ import annotations

import textwrap
from collections import Counter

import pytest
from python_extraction_cases import CASES

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.languages.python import RULES as PYTHON
from pipeline_lib.pairs.code_pairs import CodePair, code_pairs
from pipeline_lib.pairs.definitions import find_definitions


def pairs_of(source: str | bytes, **choices: object) -> tuple[list[CodePair], Counter[str]]:
    data = source if isinstance(source, bytes) else textwrap.dedent(source).encode()
    dropped: Counter[str] = Counter()
    config = CodePairsConfig.model_validate({"min_body_lines": 1, "min_doc_words": 2, **choices})
    return list(code_pairs(find_definitions(data, PYTHON, "m"), data, config, PYTHON, dropped)), dropped


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    source, expected = CASES[name]
    pairs, _ = pairs_of(source)
    assert [(pair.name, pair.x, pair.y, pair.line) for pair in pairs] == expected


def test_tabs_are_dedented() -> None:
    pairs, _ = pairs_of(b'class A:\n\tdef f(self):\n\t\t"""With tabs here."""\n\t\tif self:\n\t\t\treturn 1\n')
    assert [pair.y for pair in pairs] == ["def f(self):\n\tif self:\n\t\treturn 1"]


def test_every_drop_is_counted_by_its_reason() -> None:
    long = "    x = 1\n" * 30
    pairs, dropped = pairs_of(
        f'''
def test_it():
    """A test of it."""
    return 1
class TestIt:
    def helper(self):
        """A helper of tests."""
        return 1
def __len__(self):
    """Its own length."""
    return 1
def undocumented():
    return 1
def short():
    """Short."""
    a = 1
    return a
def escaped():
    """Holds a \\0 byte."""
    a = 1
    return a
def surrogate():
    """Holds a \\ud800 half."""
    a = 1
    return a
def large():
    """Holds far too much."""
{long}
def trivial():
    """Does nothing much."""
    # but comment

    pass
def kept():
    """This one is kept."""
    a = 1
    return a
''',
        min_body_lines=2,
        max_function_bytes=200,
    )
    assert [pair.name for pair in pairs] == ["m.kept"]
    assert dropped == {
        "test": 2, "dunder": 1, "no_doc": 1, "short_doc": 1, "not_text": 2, "too_large": 1, "trivial": 1
    }  # fmt: skip


def test_the_view_by_name_takes_name_and_comments_out_of_what_has_no_docstring() -> None:
    pairs, dropped = pairs_of(
        '''
        def parseHTTPDate_v2(text):
            # RFC 9110 wants GMT
            when = strptime(text)  # stays: no line of its own
            #: the zone
            return parseHTTPDate_v2(when)
        def documented_one():
            """With a docstring."""
            return 1
        class HTTPCache:
            def drop_old(self):
                return 1
        def short():
            return 1
        ''',
        views=("docstring", "name"),
    )
    assert [(pair.view, pair.x, pair.y) for pair in pairs] == [
        (
            "name",
            "parse http date v 2 RFC 9110 wants GMT the zone",
            "def _(text):\n    when = strptime(text)  # stays: no line of its own\n    return parseHTTPDate_v2(when)",
        ),
        ("docstring", "With a docstring.", "def documented_one():\n    return 1"),
        ("name", "http cache drop old", "def _(self):\n    return 1"),
    ]
    assert dropped == {"no_doc": 3, "has_doc": 1, "short_name": 1}


def test_the_view_of_a_class_leaves_out_what_its_functions_do() -> None:
    pairs, dropped = pairs_of(
        '''
        class Pool(Base):
            """Keeps connections open.

            And more.
            """
            size = 8
            @property
            def free(self) -> int:
                """How many are free."""
                def inner():
                    return 1
                return inner()
            class Lock:
                def take(self):
                    return 2
            def close(self): self.open = False
        class Bare:
            x = 1
        ''',
        views=("class",),
    )
    assert [(pair.x, pair.y, pair.line) for pair in pairs] == [
        (
            "Keeps connections open.",
            "class Pool(Base):\n    size = 8\n    @property\n    def free(self) -> int:\n    class Lock:\n"
            "        def take(self):\n            return 2\n    def close(self):",
            2,
        )
    ]
    assert dropped == {"no_doc": 2}


def test_two_thousand_levels_do_not_exhaust_the_stack() -> None:
    deep = "".join(" " * i + f"def f{i}():\n" for i in range(2000)) + " " * 2000 + "return 1\n"
    pairs_of(deep.encode())
    expression = 'def f():\n    """Nested very deep."""\n    return ' + "(" * 2000 + "1" + ")" * 2000 + "\n"
    pairs, _ = pairs_of(expression.encode())
    assert len(pairs) == 1
    blocks = "".join("  " * i + "if x:\n" for i in range(90)) + "  " * 90 + "def f():\n" + "  " * 91 + '"""At the bottom."""\n'
    pairs, _ = pairs_of((blocks + "  " * 91 + "return 1\n").encode())
    assert [pair.y for pair in pairs] == ["def f():\n  return 1"]


def test_a_hundred_thousand_lines() -> None:
    source = ("x = 1\n" * 99_997 + 'def last():\n    """The last one."""\n    return x\n').encode()
    pairs, _ = pairs_of(source)
    assert [(pair.name, pair.line) for pair in pairs] == [("m.last", 99_998)]


def test_nothing_is_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs_of(
        """
        import os
        os.mkdir("executed")
        @os.mkdir("executed2")
        def f(a=os.mkdir("executed3")):
            "Docstring " "in \\x41 parts."
            return os.mkdir("executed4")
        f()
        """
    )
    assert list(tmp_path.iterdir()) == []


def test_words_of_a_docstring_are_counted_by_its_script() -> None:
    source = 'def one():\n    """返回当前用户的名字。"""\n    return 1\ndef two():\n    """名字"""\n    return 1\n'
    pairs, dropped = pairs_of(source, min_doc_words=3)
    assert [pair.x for pair in pairs] == ["返回当前用户的名字。"] and dropped == {"short_doc": 1}


SHORT_AND_LONG = '''
def doubled(number):
    """Twice the number that is given."""
    result = number * 2
    return result


def summed(numbers):
    """The sum of all numbers of a list."""
    total = 0
    for number in numbers:
        total += number
    return total


def one():
    """The number one, whatever happens."""
    return 1
'''


def test_short_functions_are_for_training_and_stand_behind_all_others() -> None:
    found = {}
    for least in (None, 3, 2):
        pairs, dropped = pairs_of(SHORT_AND_LONG, min_body_lines=3, min_function_lines=least)
        found[least] = [(pair.view, pair.name) for pair in pairs], dropped["trivial"]
    long = ("docstring", "m.summed")
    assert found == {
        None: ([long], 2),
        3: ([long, ("short", "m.doubled")], 1),
        2: ([long, ("short", "m.doubled"), ("short", "m.one")], 0),
    }
