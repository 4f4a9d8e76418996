"""Our reading of the standard library against that of `ast`."""

from __future__ import annotations

import ast
import hashlib
import warnings

from pipeline_lib.pairs.definitions import find_definitions
from pipeline_lib.pairs.languages.python import PYTHON
from pipeline_lib.sources.python_installation import _standard_library
from pipeline_lib.sources.safe_open import SourceText, read_source

Documented = tuple[str, str, int, int, str | None]  # kind, name, first and last line, docstring


def by_ast(source: str) -> list[Documented]:
    found: list[Documented] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            found.append((kind, node.name, node.lineno, node.end_lineno or 0, ast.get_docstring(node, clean=False)))
    return sorted(found, key=lambda row: row[2])


def by_us(data: bytes) -> list[Documented]:
    rows: list[Documented] = []
    for definition in find_definitions(data, PYTHON, "m")[1:]:
        last = definition.line + data.count(b"\n", definition.start, definition.end)
        rows.append((definition.kind, definition.name, definition.line, last, definition.doc and definition.doc.value))
    return sorted(rows, key=lambda row: row[2])


def test_names_spans_and_docstrings_agree_with_ast_over_the_standard_library() -> None:
    files = sorted(
        (file for file in _standard_library() if file.form == "python"),
        key=lambda file: hashlib.sha256(file.path.encode()).digest(),
    )
    compared = agreed = with_docstring = 0
    for file in files[:120]:
        source = read_source(file.place, 2_000_000, python=True)
        assert isinstance(source, SourceText)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = by_ast(source.text)
        except SyntaxError:
            continue  # Python 2, kept for lib2to3
        got = by_us(source.data)
        compared += max(len(expected), len(got))
        agreed += len(set(expected) & set(got))
        with_docstring += sum(row[4] is not None for row in expected)
    assert compared > 1000
    assert with_docstring > 300
    assert agreed / compared >= 0.995, f"{agreed} of {compared} definitions agree"
