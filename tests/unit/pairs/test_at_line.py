"""The text at a line is the one that extraction would have cut out there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.pairs.at_line import text_at

PYTHON = '''"""Module."""
import os


LIMIT = 3
TIMES = 4


@cache
# why
def first(items):
    """Return the first."""
    if items:
        return items[0]

    return None


class Box:
    """A box."""

    size = 1

    def open(self, key):
        def inner(x):
            return x

        return inner(key)
'''

GO = """package a

// Serve answers requests.
// It blocks.
func Serve(l Listener) error {
\treturn l.run()
}
"""

JAVASCRIPT = """/**
 * Adds two.
 */
function add(a, b) {
  return a + b;
}
"""

FIRST = "def first(items):\n    if items:\n        return items[0]\n\n    return None"
INNER = "def inner(x):\n    return x"


@pytest.mark.parametrize(
    ("name", "source", "line", "text", "begins"),
    [
        ("a.py", PYTHON, 11, FIRST, 11),
        ("a.py", PYTHON, 12, FIRST, 11),  # its docstring
        ("a.py", PYTHON, 15, FIRST, 11),  # an empty line within
        ("a.py", PYTHON, 9, FIRST, 11),  # its decorator
        ("a.py", PYTHON, 10, FIRST, 11),
        ("a.py", PYTHON, 26, INNER, 25),
        ("a.py", PYTHON, 27, "def open(self, key):\n    def inner(x):\n        return x\n\n    return inner(key)", 24),
        ("a.py", PYTHON, 5, "LIMIT = 3\nTIMES = 4", 5),
        ("a.go", GO, 3, "func Serve(l Listener) error {\n\treturn l.run()\n}", 5),
        ("a.go", GO, 6, "func Serve(l Listener) error {\n\treturn l.run()\n}", 5),
        ("a.js", JAVASCRIPT, 2, "function add(a, b) {\n  return a + b;\n}", 4),
        ("a.js", JAVASCRIPT, 5, "function add(a, b) {\n  return a + b;\n}", 4),
        ("Makefile", "all:\n\techo\n\nother:\n", 2, "all: echo", 1),
    ],
)
def test_code_is_cut_out_as_extraction_does(tmp_path: Path, name: str, source: str, line: int, text: str, begins: int) -> None:
    (tmp_path / name).write_text(source, encoding="utf-8")
    found = text_at(tmp_path / name, line)
    assert (found.text, found.line) == (text, begins)


def test_a_class_outside_of_its_functions_is_the_class_without_their_bodies(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)
    found = text_at(tmp_path / "a.py", 21)
    assert found.name == "a.Box" and found.text.startswith("class Box:") and "return inner" not in found.text


def test_prose_is_cut_into_passages(tmp_path: Path) -> None:
    paragraphs = [" ".join(f"word{i}x{j}" for j in range(45)) + "." for i in range(6)]
    (tmp_path / "a.md").write_text("# Title\n\n" + "\n\n".join(paragraphs) + "\n")
    for number in (0, 3, 5):
        found = text_at(tmp_path / "a.md", 3 + 2 * number)
        assert f"word{number}x0" in found.text and found.kind == "text" and found.line <= 3 + 2 * number
    assert text_at(tmp_path / "a.md", 4).text == text_at(tmp_path / "a.md", 3).text


def test_lines_count_as_editors_count_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x = '\x0c\xe2\x80\xa8'\r\n\r\n\r\ndef f():\r\n    return 1\r\n")
    assert text_at(tmp_path / "a.py", 5).text == "def f():\n    return 1"


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"x = 1\n", 2, "the file has 1 lines"),
        (b"x = 1\n\ny = 2\n", 2, "an empty line"),
        (b"\x00\x01", 1, "NUL"),
        (b"\xff\xfe\xfa", 1, "not_utf8"),
        (b"", 1, "the file has 0 lines"),
    ],
)
def test_no_text_there_is_one_line(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    (tmp_path / "a.py").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        text_at(tmp_path / "a.py", line)
    assert "\n" not in str(error.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.py"):
        with pytest.raises(UserError, match=str(path)):
            text_at(path, 1)
