"""Files of further languages: counted and unread in every source, read in every source where they are asked for."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from pipeline_lib.config.data import CodePairsConfig, ExtractConfig, SourceConfig
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.filters import is_test_path
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.dump_files import list_bundles, list_source
from pipeline_lib.sources.dump_spec import sources_of
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.python_installation import list_python

FILES = {
    "a.py": 'def a():\n    """Adds two numbers."""\n    b = 1\n    b += 1\n    return b\n',
    "a.ts": "/** Adds two numbers. */\nfunction a(): number {\n  let b = 1;\n  b++;\n  return b;\n}\n",
    "a.c": "/** Adds two numbers. */\nint a(void)\n{\n  int b = 1;\n  b++;\n  return b;\n}\n",
    "b.h": "namespace b {\n/** Adds two numbers. */\nint a() {\n  int b = 1;\n  b++;\n  return b;\n}\n}\n",
}
ASKED = ("python", "typescript", "c", "cpp")


def rows_of(place: Path, *languages: str) -> tuple[Rows, Skips]:
    (source,) = sources_of(str(place))
    work = ExtractWork(
        source=SourceConfig(),
        extract=ExtractConfig(code=CodePairsConfig(languages=languages)) if languages else ExtractConfig(),
    )
    rows, skips = Rows(0), Skips()
    for file in list_source(source, skips, work.extract.more_forms):
        extract_file(file, work, rows)
    counts = rows.counts()
    assert counts.n_in == counts.n_out + sum(counts.dropped.values()) + counts.quarantined
    return rows, skips


def tree(folder: Path) -> Path:
    place = folder / "tree"
    place.mkdir()
    for name, text in FILES.items():
        (place / name).write_text(text)
    return place


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as made:
        for name, text in FILES.items():
            made.writestr(name, text)
    return folder / "a.zip"


def records(folder: Path) -> Path:
    names = {"a.py": "Python", "a.ts": "TypeScript", "a.c": "C", "b.h": "C++"}
    lines = [{"content": text, "lang": names[name], "path": name, "repository_name": "r"} for name, text in FILES.items()]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "a.jsonl"


@pytest.mark.parametrize("make", [tree, archive, records])
def test_further_languages_are_read_where_they_are_asked_for(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = make(tmp_path)
    rows, skips = rows_of(place)
    assert [row[14] for row in rows.pairs] == ["python"]
    unread = rows.dropped["unknown_language"] + rows.dropped["other_language"] + skips.total()
    assert unread == 3
    rows, skips = rows_of(place, *ASKED)
    assert sorted(row[14] for row in rows.pairs) == ["c", "cpp", "python", "typescript"]
    assert {row[4] for row in rows.documents} == set(ASKED) and not skips and not rows.dropped


def test_a_header_in_a_language_that_is_not_asked_for_is_counted(tmp_path: Path) -> None:
    rows, skips = rows_of(tree(tmp_path), "c")
    assert [row[14] for row in rows.pairs] == ["c"] and rows.dropped["other_language"] == 1
    assert skips.facts() == {"other_language": {".ts": 1}}


def test_a_file_by_itself_is_read_where_its_language_is_asked_for(tmp_path: Path) -> None:
    place = tree(tmp_path) / "a.ts"
    assert rows_of(place)[0].dropped == {"unknown_language": 1}
    assert [row[14] for row in rows_of(place, "typescript")[0].pairs] == ["typescript"]


def test_the_bundles_of_a_dump_stay_where_no_further_language_is_asked_for(tmp_path: Path) -> None:
    config = SourceConfig(folder=str(tree(tmp_path)))
    (usual,), (asked,) = list_bundles(config), list_bundles(config, more=("c",))
    assert [file.path for file in usual.files] == ["a.py"] and [file.path for file in asked.files] == ["a.c", "a.py", "b.h"]
    assert ExtractConfig().more_forms == () and "blocks" not in CodePairsConfig().key_fields()


def test_the_python_of_this_machine_is_python_alone() -> None:
    skips = Skips()
    assert {file.form for file in list_python(skips)} <= {"python", "markdown", "restructuredtext", "plain", "metadata"}
    assert skips[("other_language", ".h")] + skips[("other_language", ".c")] > 0


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("src/a.test.ts", True), ("src/a.spec.tsx", True), ("a_test.cc", True), ("test_a.c", True), ("a_unittest.cpp", True),
        ("src/tests.rs", True), ("ATest.kt", True), ("ATests.cs", True), ("ATests.swift", True), ("ASpec.scala", True),
        ("ASuite.scala", True), ("Lib.Tests/A.cs", True), ("src/commonTest/kotlin/A.kt", True), ("Tests/A.swift", True),
        ("src/latest.ts", False), ("contest.c", False), ("Attest.cs", False), ("Request.kt", False), ("Inspector.scala", False),
        ("fastest.rs", False), ("Contests/A.cs", False),
    ],
)  # fmt: skip
def test_files_of_tests_are_told_by_their_path(path: str, is_one: bool) -> None:
    assert is_test_path(path) is is_one
