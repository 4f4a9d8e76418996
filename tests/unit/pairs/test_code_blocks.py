"""Fenced blocks of Markdown and cells of notebooks with the prose right before them, and why others give none."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.data import CodePairsConfig, ExtractConfig, SourceConfig
from pipeline_lib.pairs.code_blocks import BLOCK_RULES, BrokenNotebook, block_pairs, markdown_blocks, read_notebook
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.folder import Skips, list_tree

CODE = "a = 1\nb = a + 1\nprint(b)"
WORDS = "This is how two numbers are added."


def config(**choices: object) -> CodePairsConfig:
    return CodePairsConfig.model_validate({"languages": ("python", "rust"), "blocks": ("markdown", "notebook"), **choices})


def found(text: str, **choices: object) -> tuple[list[tuple[str, str, str, int, str]], Counter[str]]:
    dropped: Counter[str] = Counter()
    pairs = block_pairs(markdown_blocks(text), "block", "README.md", config(**choices), dropped)
    return [(language, pair.x, pair.y, pair.line, pair.name) for language, pair in pairs], dropped


def test_a_block_has_its_heading_and_the_paragraph_before_it() -> None:
    text = f"# Sums\n\nFar above.\n\n## Adding\n\n{WORDS}\n\n```python\n{CODE}\n```\n"
    assert found(text)[0] == [("python", f"Adding: {WORDS}", CODE, 10, "README.md#Adding")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{WORDS}\n```python\n{CODE}\n```\n", CODE),
        (f"{WORDS}\n\n~~~ {{.python .numberLines}}\n{CODE}\n~~~\n", CODE),
        (f'{WORDS}\n\n```py title="a"\n{CODE}\n```\n', CODE),
        (f"{WORDS}\n\n````python\n```\n{CODE}\n```\n````\n", f"```\n{CODE}\n```"),
        (f"1. {WORDS}\n\n   ```python\n   a = 1\n     b\n   c = 2\n   ```\n", "a = 1\n  b\nc = 2"),
        (f"> {WORDS}\n>\n> ```python\n> a = 1\n> b = 2\n> c = 3\n> ```\n", "a = 1\nb = 2\nc = 3"),
        (f"{WORDS}\n\n```pycon\n>>> a = 1\n>>> for b in a:\n...     c\n...\n7\n>>> d\n```\n", "a = 1\nfor b in a:\n    c\n\nd"),
        (f"{WORDS}\n\n```python\n>>> a = 1\n>>> b = 2\n>>> c\n3\n```\n", "a = 1\nb = 2\nc"),
    ],
)
def test_what_is_in_a_fence(text: str, expected: str) -> None:
    assert [(x, y) for _, x, y, *_ in found(text)[0]] == [(WORDS, expected)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{WORDS}\n\n```\n{CODE}\n```\n", "block_language"),
        (f"{WORDS}\n\n```console\n$ ls\n$ ls\n$ ls\n```\n", "block_language"),
        (f"{WORDS}\n\n```go\n{CODE}\n```\n", "block_language"),
        (f"{WORDS}\n\n```python\na = 1\n# one\n# two\n```\n", "block_short"),
        (f"```python\n{CODE}\n```\n", "block_no_prose"),
        (f"Look here:\n\n```python\n{CODE}\n```\n", "block_short_prose"),
        (f"{WORDS}\n\n```python\n{CODE * 2_000}\n```\n", "block_large"),
        (f"{WORDS}\n\n```python\n{CODE}\0\n```\n", "block_not_text"),
    ],
)
def test_a_block_without_a_pair_has_a_reason(text: str, reason: str) -> None:
    assert found(text) == ([], Counter({reason: 1}))
    assert reason in {rule.name for rule in BLOCK_RULES}


def test_prose_is_about_the_first_block_behind_it_and_an_open_fence_is_none() -> None:
    block = f"```python\n{CODE}\n```\n"
    pairs, dropped = found(
        f"{WORDS}\n\n{block}\n{block}\nMore words about the third of them.\n\n{block}\n```python\nnever closed"
    )
    assert [x for _, x, *_ in pairs] == [WORDS, "More words about the third of them."]
    assert dropped == {"block_no_prose": 1}


def test_long_prose_is_cut_to_the_last_paragraphs() -> None:
    text = f"{'far ' * 150}\n\n{'near ' * 150}\n\n```rust\nlet a = 1;\nlet b = 2;\nlet c = 3;\n```\n"
    assert [x.split() for _, x, *_ in found(text)[0]] == [["near"] * 150]
    assert len(found(text.replace("near ", "near " * 9))[0][0][1].split()) == 200


@pytest.mark.parametrize("unit", ["```\n", "> ", "```python\n", "~~~", ">", " ", "`", "```a\n```\n"])
def test_no_text_takes_the_square_of_its_length(unit: str) -> None:
    start = time.process_time()
    found(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 5


def cell(kind: str, source: str | list[str], **more: Any) -> dict[str, Any]:
    return {"cell_type": kind, "source": source, "metadata": {}, **more}


def notebook(*cells: dict[str, Any], **metadata: Any) -> str:
    return json.dumps({"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def rows_of(folder: Path, name: str, text: str, **choices: object) -> tuple[Rows, Skips]:
    (folder / name).write_text(text)
    (folder / "a.py").write_text("a = 1\n")
    work = ExtractWork(source=SourceConfig(), extract=ExtractConfig(code=config(**choices)))
    rows, skips = Rows(0), Skips()
    for file in list_tree(str(folder), skips, work.extract.more_forms):
        if file.path == name:
            extract_file(file, work, rows)
    counts = rows.counts()
    assert counts.n_in == counts.n_out + sum(counts.dropped.values()) + counts.quarantined
    return rows, skips


def test_a_notebook_gives_its_cells_with_the_markdown_before_them_and_its_prose(tmp_path: Path) -> None:
    prose = "Some words about numbers that go on for a while, so that there is a passage of its own. " * 8
    text = notebook(
        cell("markdown", ["## Adding\n", "\n", WORDS]),
        cell("code", ["%matplotlib inline\n", *CODE.splitlines(keepends=True)], outputs=[{"text": "2"}]),
        cell("code", CODE),
        cell("markdown", f"# More\n\n{prose}"),
        cell("code", "%%bash\nls\nls\nls"),
        cell("raw", "no cell of ours"),
        cell("markdown", prose),
        cell("code", f"%%time\n{CODE}\n!pip install a\n"),
        kernelspec={"language": "python"},
    )
    rows, _ = rows_of(tmp_path, "a.ipynb", text)
    pairs = [(row[1], row[2], row[3][:40], row[4]) for row in rows.pairs if row[2] == "cell"]
    assert pairs == [("code", "cell", f"Adding: {WORDS}"[:40], CODE), ("code", "cell", prose[:40], CODE)]
    assert rows.dropped["block_no_prose"] == 1 and rows.dropped["block_language"] == 1
    assert [(row[4], row[6]) for row in rows.documents] == [("python", "code"), ("en", "text")]
    assert any(row[2] == "neighbour" for row in rows.pairs)


def test_a_notebook_is_read_where_it_is_asked_for_alone(tmp_path: Path) -> None:
    rows, skips = rows_of(tmp_path, "a.ipynb", notebook(cell("code", CODE)), blocks=())
    assert rows.facts["files"] == 0 and skips.facts() == {"other_language": {".ipynb": 1}}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"cells": 1}', "[" * 100_000, '{"cells": "a", "worksheets": [1]}', '"cells"', "NaN"]
)
def test_what_is_no_notebook_is_set_aside(tmp_path: Path, text: str) -> None:
    if text:
        with pytest.raises(BrokenNotebook):
            read_notebook(text)
    rows, _ = rows_of(tmp_path, "a.ipynb", text)
    assert [row[5] for row in rows.quarantine] == (["broken_notebook"] if text else [])
    assert rows.dropped == ({} if text else {"file_empty": 1})


@pytest.mark.parametrize(
    "cells",
    [[1, None, "a"], [{}], [cell("code", 1)], [cell("code", [1, None])], [cell("markdown", {"a": 1})], [{"cell_type": []}]],  # type: ignore[arg-type,list-item]
)
def test_cells_of_any_shape_are_looked_over(cells: list[Any], tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, "a.ipynb", notebook(*cells))
    assert rows.pairs == [] and rows.quarantine == []


def test_old_notebooks_and_other_kernels() -> None:
    old = {
        "worksheets": [
            {"cells": [{"cell_type": "heading", "level": 2, "source": "Adding"}, {"cell_type": "code", "input": CODE}]}
        ]
    }
    assert [(block.code, block.prose[0].text) for block in read_notebook(json.dumps(old)).blocks] == [(CODE, "Adding")]
    assert read_notebook(notebook(cell("code", "a"), language_info={"name": "Rust"})).language == "rust"
    assert read_notebook(notebook(cell("code", "a"), kernelspec={"name": "python3"})).language == "python"


@pytest.mark.parametrize(
    ("kind", "source"), [("code", "a = '\ud800'"), ("code", "a = '\0'"), ("markdown", "half of \udfff"), ("raw", "\0")]
)
def test_a_cell_that_no_table_can_hold_costs_its_notebook_alone(kind: str, source: str, tmp_path: Path) -> None:
    text = notebook(cell("markdown", WORDS), cell("code", CODE), cell(kind, source))
    rows, _ = rows_of(tmp_path, "a.ipynb", text)
    assert [(row[5], "in cell 3" in row[6]) for row in rows.quarantine] == [("broken_notebook", True)]
    assert rows.pairs == [] and rows.documents == []


def test_lines_that_end_as_windows_has_them_are_lines(tmp_path: Path) -> None:
    parts = (cell("markdown", f"# Sums\n\n{WORDS}\n\n{WORDS}"), cell("code", CODE))
    blocks = read_notebook(notebook(*parts)).blocks
    assert len(blocks[0].prose) == 3
    assert read_notebook(notebook(*parts).replace("\\n", "\\r\\n")).blocks == blocks
    assert read_notebook(notebook(*parts).replace("\\n", "\\r")).blocks == blocks


@pytest.mark.parametrize(
    ("source", "language", "code"),
    [
        ("ok = (\n    a\n    != b\n)", "python", "ok = (\n    a\n    != b\n)"),
        ("q = '''\n%s of\n! it\n? no\n'''", "python", "q = '''\n%s of\n! it\n? no\n'''"),
        ('q = """it\'s\n!a"""  # """\n!pip install a\nb', "python", 'q = """it\'s\n!a"""  # """\nb'),
        ("!echo it's\na = ''\n!ls\nb", "python", "a = ''\nb"),
        ("a.b?\n?c\nd.e??\nf", "python", "f"),
        ("%sql\nSELECT a\nFROM b", "sql", "SELECT a\nFROM b"),
        ("\n%scala \nval a = 1", "scala", "val a = 1"),
        ("%sql SELECT a\nb = _", "python", "b = _"),
        ("%%Time\na", "python", "a"),
        ("#!csharp\nvar a = 1;", "csharp", "var a = 1;"),
        ("#!pip install a\nb", "python", "#!pip install a\nb"),
    ],
)
def test_magics_are_left_out_and_what_looks_like_them_is_not(source: str, language: str, code: str) -> None:
    [block] = read_notebook(notebook(cell("code", source))).blocks
    assert (block.language, block.code) == (language, code)


def test_no_cell_takes_the_square_of_its_length() -> None:
    start = time.process_time()
    for unit in ("'''", '"', "' ", "\\", "#\n", "!", "?", "%a\n", "a?", " ", '"""\''):
        read_notebook(notebook(cell("code", unit * (200_000 // len(unit)))))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("metadata", "own", "language"),
    [
        ({"kernelspec": {"language": "C++17", "name": "xcpp17"}}, {}, "cpp"),
        ({"kernelspec": {"language": "C#"}, "language_info": {"name": "polyglot-notebook"}}, {}, "csharp"),
        ({"language": "Julia"}, {"language": "python"}, "julia"),  # of format 3, whose cells all said so
        ({"name": ""}, {"language": "Rust"}, "rust"),
        ({"language_info": {"name": "python"}}, {"metadata": {"vscode": {"languageId": "rust"}}}, "rust"),
        ({}, {"metadata": {"dotnet_interactive": {"language": "csharp"}}}, "csharp"),
        ({"language_info": {"name": "\ud800"}}, {}, "python"),
        ({"kernelspec": {"name": "x" * 10_000}}, {"language": ["a"], "metadata": [1]}, "python"),
    ],
)
def test_a_cell_is_in_the_language_that_it_or_its_notebook_names(metadata: Any, own: Any, language: str) -> None:
    [block] = read_notebook(notebook(cell("code", "a = 1") | own, **metadata)).blocks
    assert block.language == language


def test_a_notebook_of_magics_alone_is_no_document(tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, "a.ipynb", notebook(cell("code", "%matplotlib inline\n!ls")))
    assert rows.documents == [] and rows.dropped["block_short"] == 1


def test_blocks_of_markdown_stand_beside_its_prose(tmp_path: Path) -> None:
    text = f"# Sums\n\n{WORDS}\n\n```python\n{CODE}\n```\n"
    rows, _ = rows_of(tmp_path, "a.md", text)
    assert [(row[1], row[2], row[14]) for row in rows.pairs] == [("code", "block", "python")]
    assert rows.pairs[0][7] == rows.documents[0][0] and len(rows.documents) == 1
    rows, _ = rows_of(tmp_path, "a.md", text, blocks=())
    assert rows.pairs == [] and "block_language" not in rows.dropped
