"""Our reading of the standard library against that of `ast`."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import warnings
from collections import Counter
from pathlib import Path

import pytest

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.languages import rules_of
from pipeline_lib.languages.python import RULES as PYTHON
from pipeline_lib.pairs.code_pairs import code_pairs
from pipeline_lib.pairs.definitions import find_definitions
from pipeline_lib.sources.folder import Skips
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


@pytest.mark.parametrize("every", [120, pytest.param(None, marks=pytest.mark.slow)])
def test_names_spans_and_docstrings_agree_with_ast_over_the_standard_library(every: int | None) -> None:
    files = sorted(
        (file for file in _standard_library(Skips()) if file.form == "python"),
        key=lambda file: hashlib.sha256(file.path.encode()).digest(),
    )
    compared = agreed = with_docstring = 0
    for file in files[:every]:
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


# What RDoc and YARD set a word in: the words are compared, not the marks.
_MARKUP = re.compile(r"[`+*_{}\[\]\\\s]+|</?\w[^<>]*>")


def summary(docstring: str) -> str:
    """CodeSearchNet's own: the lines up to an empty one, or up to a tag; here its words alone."""
    head = re.split(r"\n\s*\n|(?m:^\s*)@\w", docstring.strip())[0]
    return _MARKUP.sub("", head)


def test_docstrings_of_code_search_net_come_back_from_comments_above_their_code(eval_data: Path) -> None:
    records = eval_data / "codesearchnet" / "ruby" / "final" / "jsonl" / "test" / "ruby_test_0.jsonl.gz"
    if not records.is_file():
        pytest.skip(f"no records at {records}")
    rules = rules_of("ruby")
    config = CodePairsConfig(min_body_lines=1, min_doc_words=1, max_function_bytes=10**6)
    rows = same_code = same_doc = 0
    dropped: Counter[str] = Counter()
    for line in gzip.decompress(records.read_bytes()).splitlines():
        row = json.loads(line)
        comment = "".join(f"# {text}\n".replace("#  ", "# ") for text in str(row["docstring"]).split("\n"))
        data = (comment + row["code"] + "\n").encode()
        pairs = list(code_pairs(find_definitions(data, rules, "m"), data, config, rules, dropped))
        first = next((pair for pair in pairs if pair.line == comment.count("\n") + 1), None)
        rows += 1
        same_code += first is not None and first.y == row["code"].rstrip()
        same_doc += first is not None and summary(row["docstring"]).startswith(_MARKUP.sub("", first.x))
    assert rows > 1000
    assert same_code / rows >= 0.99, f"{same_code} of {rows} functions came back, {dropped}"
    assert same_doc / rows >= 0.99, f"{same_doc} of {rows} docstrings came back"
