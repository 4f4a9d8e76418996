"""CodeSearchNet's records: a docstring and a function go in, and come back out of the source that is built of them."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.config.data import CodePairsConfig, ExtractConfig, SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.readers.code_search_net import read_records
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import SourceFile

PYTHON = "@cached\ndef add(items: list[int] = [1, 2],\n        start=lambda: 0):  # adds\n    total = 0\n    return total"
RECORD = {
    "repo": "o/r", "path": "lib/sums.py", "func_name": "add", "language": "python", "original_string": PYTHON, "code": PYTHON,
    "docstring": "Adds all numbers.\n\nSlowly.", "url": "https://github.com/o/r/blob/c0ffee/lib/sums.py#L7-L9",
}  # fmt: skip


def container(folder: Path, lines: list[Any]) -> SourceFile:
    path = folder / "python_test_0.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n"))
    return describe(str(path), path.name, "csn", "csn", "MIT").model_copy(update={"form": "code_search_net"})


def read(folder: Path, *lines: Any, limits: ReadLimits | None = None) -> list[SourceRecord]:
    return list(texts_of(container(folder, list(lines)), SourceConfig(limits=limits or ReadLimits())))


def text(found: SourceRecord) -> str:
    assert isinstance(found.content, SourceText), found
    return found.content.text


def test_a_record_is_a_file_of_its_repository(tmp_path: Path) -> None:
    (found,) = read(tmp_path, RECORD)
    assert found.file.path == f"python_test_0.jsonl.gz!{RECORD['url']}"
    assert (found.file.group, found.file.form, found.file.inner_path) == ("o/r", "python", "lib/sums.py")
    function = ast.parse(text(found)).body[0]
    assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function) == RECORD["docstring"]
    assert text(found).replace('    """Adds all numbers.\n    \n    Slowly."""\n', "") == PYTHON + "\n"


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\\\"'\n"), min_size=1, max_size=40))
def test_any_docstring_comes_back_word_for_word(tmp_path_factory: pytest.TempPathFactory, doc: str) -> None:
    (found,) = read(tmp_path_factory.mktemp("csn"), RECORD | {"docstring": doc})
    function = ast.parse(text(found)).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert (ast.get_docstring(function) or "").split() == doc.split()


def test_a_docstring_that_is_there_stays_alone(tmp_path: Path) -> None:
    code = 'def add(a):\n    """Adds."""\n    return a'
    (found,) = read(tmp_path, RECORD | {"original_string": code, "docstring": "Adds."})
    assert text(found) == code + "\n"


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        ("ruby", "def add\n  1\nend", "# Adds all numbers.\n#\n# Slowly.\ndef add\n  1\nend\n"),
        ("go", "func Add() {}", "package p\n\n// Adds all numbers.\n//\n// Slowly.\nfunc Add() {}\n"),
        ("java", "int add() {}", "class Sums {\n/**\n * Adds all numbers.\n *\n * Slowly.\n */\nint add() {}\n}\n"),
        ("php", "function a() {}", "<?php\nclass Sums {\n/**\n * Adds all numbers.\n *\n * Slowly.\n */\nfunction a() {}\n}\n"),
        ("javascript", "function (a) {}", "/**\n * Adds all numbers.\n *\n * Slowly.\n */\nconst add = function (a) {};\n"),
    ],
)
def test_a_docstring_stands_above_as_a_comment(tmp_path: Path, language: str, code: str, expected: str) -> None:
    record = RECORD | {"language": language, "original_string": code, "func_name": "Sums.add"}
    assert text(read(tmp_path, record)[0]) == expected


def test_bad_lines_are_refused_with_their_number_and_the_rest_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path, b"{", b"[" * 100_000, [1], {"repo": "o/r"}, RECORD | {"language": "cobol"}, RECORD | {"repo": 3}, b"",
        RECORD | {"original_string": "x" * 900}, b'"' + b"y" * 40_000 + b'"', RECORD | {"docstring": "\ud800"}, RECORD,
        limits=ReadLimits(max_text_bytes=800),
    )  # fmt: skip
    reasons = [(f.content.reason, f.content.offset) for f in found if isinstance(f.content, Refusal)]
    assert reasons == [
        ("not_json", 1), ("file_too_large", 2), ("not_a_record", 3), ("not_a_record", 4), ("unknown_language", 5),
        ("not_a_record", 6), ("file_too_large", 8), ("file_too_large", 9), ("not_utf8", found[8].content.offset),
    ]  # fmt: skip
    assert text(found[-1]).startswith("@cached")
    assert all(f.file.path.encode() and f.file.group.encode() for f in found)


def test_too_many_records_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, *[RECORD] * 5, limits=ReadLimits(max_members=3))
    assert [getattr(f.content, "reason", "text") for f in found] == ["text"] * 3 + ["too_many_members"]


def test_extraction_finds_the_pair_again(eval_data: Path) -> None:
    """Of 2,000 real records 1,989 give their docstring back word for word, 8 have none, 2 have another one inside, 1 a NUL."""
    path = eval_data / "codesearchnet/python/final/jsonl/test/python_test_0.jsonl.gz"
    file = describe(str(path), "test/" + path.name, "csn", "csn").model_copy(update={"form": "code_search_net"})
    code = CodePairsConfig(min_body_lines=1, min_doc_words=1)
    rows = Rows(0)
    extract_file(file, ExtractWork(source=SourceConfig(), extract=ExtractConfig(code=code)), rows)
    assert rows.facts["documents"] >= 1999
    documented = [pair for pair in rows.pairs if pair[2] == "docstring"]
    assert len(documented) > 1500, rows.dropped


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_s06_mutated_records_give_texts_or_reasons(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(json.dumps(RECORD).encode() + b"\n" + json.dumps(RECORD | {"language": "ruby"}).encode() + b"\n")
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 10, 34, 92, 123, 255]))
    packed = bytearray(gzip.compress(bytes(whole)))
    if data.draw(st.booleans()):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("csn") / "a.jsonl.gz"
    path.write_bytes(packed)
    file = describe(str(path), path.name, "csn", "csn").model_copy(update={"form": "code_search_net"})
    for found in read_records(file, ReadLimits()):
        assert found.content.reason if isinstance(found.content, Refusal) else found.content.text.strip()
        found.file.model_dump_json().encode()
