"""A filter lets exactly the rows through that have its values, and says which values there are."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from index_rows import Row

from pipeline_lib.errors import UserError
from pipeline_lib.index.rows import RowWriter
from pipeline_lib.search.filters import Filters, nearest_values, path_pattern

ROWS = [
    Row(),
    Row(language="go", package="cobra", licence="Apache-2.0", path="cmd/root.go"),
    Row(language="en", package="numpy", licence=None, path="docs/index.md"),
    Row(language="python", package="django-cms", licence="BSD-3-Clause", path="cms/tests/test_views.py"),
    Row(language="python", package="django", licence="BSD-3-Clause", path="wheel.whl!django/views.py"),
]


def table(folder: Path, rows: list[Row], at_once: int = 2) -> pa.Table:
    with RowWriter(folder, 100) as writer:
        for start in range(0, len(rows), at_once):
            writer.write(rows[start : start + at_once])
    return pa.ipc.open_file(pa.memory_map(str(folder / "rows.arrow"))).read_all()


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        (Filters(languages=("python",)), [0, 3, 4]),
        (Filters(languages=("Python", "GO")), [0, 1, 3, 4]),
        (Filters(packages=("numpy",)), [0, 2]),
        (Filters(packages=("django*",)), [3, 4]),
        (Filters(packages=("django",)), [4]),
        (Filters(licences=("bsd-3-clause",)), [3, 4]),
        (Filters(licences=("none",)), [2]),
        (Filters(licences=("none", "MIT")), [0, 2]),
        (Filters(languages=("python",), licences=("MIT",), path="a/*"), [0]),
        (Filters(languages=("go",), packages=("numpy",)), []),
        (Filters(path="*.py"), [0, 3, 4]),
        (Filters(path="**/test_*.py"), [3]),
        (Filters(path="docs"), [2]),
        (Filters(path="cms/"), [3]),
        (Filters(path="wheel.whl"), [4]),
        (Filters(path="*/[t-v]*.py"), [3, 4]),
        (Filters(path="cmd/roo?.go"), [1]),
    ],
)
def test_only_rows_with_its_values_pass(tmp_path: Path, filters: Filters, passing: list[int]) -> None:
    mask_N = filters.mask(table(tmp_path, ROWS))
    assert mask_N is not None and mask_N.dtype == bool and np.flatnonzero(mask_N).tolist() == passing


def test_no_filter_is_no_mask(tmp_path: Path) -> None:
    assert not Filters() and Filters().mask(table(tmp_path, ROWS)) is None


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (Filters(languages=("pythn",)), "the nearest are python"),
        (Filters(packages=("numy",)), "the nearest are numpy"),
        (Filters(packages=("nothing*",)), "package 'nothing*': no row of this index has it"),
        (Filters(licences=("apache",)), "the nearest are Apache-2.0"),
        (Filters(languages=("python", "klingon")), "language 'klingon'"),
        (Filters(path="doc/index.md"), "docs/index.md"),
        (Filters(path="views.py"), "as in '*/views.py'"),
        (Filters(path="[z-a]x"), "not a glob"),
    ],
)
def test_a_value_that_no_row_has_is_an_error_with_the_nearest(tmp_path: Path, filters: Filters, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as error:
        filters.mask(table(tmp_path, ROWS))
    assert "\n" not in str(error.value)


def test_a_value_that_the_dictionary_alone_holds_is_none(tmp_path: Path) -> None:
    with RowWriter(tmp_path, 0, {"language": ["ada", "go", "python"]}) as writer:
        for _ in range(3):
            writer.write([Row(), Row(language="rust")])
    rows = pa.ipc.open_file(pa.memory_map(str(tmp_path / "rows.arrow"))).read_all()
    assert rows.column("language").to_pylist() == ["python", "rust"] * 3
    with pytest.raises(UserError, match="language 'go': no row of this index has it; there are python, rust"):
        Filters(languages=("go",)).mask(rows)


def test_values_of_a_dump_cannot_steer_a_terminal(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Filters(packages=("numpy",)).mask(table(tmp_path, [Row(package="numpy2\x1b[31m\u202e")]))
    assert "numpy2" in str(error.value) and not {"\x1b", "\u202e"} & set(str(error.value))


def test_an_index_of_an_earlier_version_says_what_to_do(tmp_path: Path) -> None:
    earlier = table(tmp_path, ROWS).drop_columns(["language", "package", "licence"])
    with pytest.raises(UserError, match=r"built by an earlier version.*cpt publish"):
        Filters(languages=("python",)).mask(earlier)
    mask_N = Filters(path="*.go").mask(earlier)
    assert mask_N is not None and mask_N.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("glob", "passing"),
    [
        ("app/[id]/page.tsx", [0]),  # as a hit says it
        ("app/[id]/*", [0]),
        ("app/[[...all]]/page.tsx", [2]),
        ("*/[2024-01]/*", [3]),  # else a range that ends before it begins
        ("app/[ip]/page.tsx", [1]),  # one character, where no path has the brackets
        ("app/[ip]*", [1]),
    ],
)
def test_brackets_that_stand_in_a_path_mean_themselves(tmp_path: Path, glob: str, passing: list[int]) -> None:
    paths = ("app/[id]/page.tsx", "app/i/page.tsx", "app/[[...all]]/page.tsx", "log/[2024-01]/a.md")
    mask_N = Filters(path=glob).mask(table(tmp_path, [Row(path=path) for path in paths]))
    assert mask_N is not None and np.flatnonzero(mask_N).tolist() == passing
    packages = table(tmp_path, [Row(package="requests[socks]"), Row(package="requestss")])
    assert Filters(packages=("requests[s*",)).mask(packages).tolist() == [True, False]  # type: ignore[union-attr]


def test_nothing_but_the_glob_signs_means_anything() -> None:
    for path in ("a.b+c(d)/e f#x.py", "größe/日本.py", "a\\b", "a$b^c|{1}"):
        assert re.search(path_pattern(path), path)
        assert re.search(path_pattern(path + "*"), path + "x")
        assert not re.search(path_pattern(path), path.replace(path[1], "Z", 1) + "q")


@pytest.mark.parametrize(
    ("glob", "meant", "not_meant"),
    [
        ("[!]]*", "a]", "]a"),
        ("[]]*", "]a", "a"),
        ("[]a]", "a", "b"),
        ("[^a]*", "b", "a"),
        ("[!^]", "a", "^"),
        ("[a^]", "^", "b"),
        ("[\\d]", "\\", "5"),
        ("a[b", "a[b", "ab"),
        ("[!]", "[!]", "a"),
        ("*/tests/", "x/tests/y/z.py", "x/testsy"),
        ("**/", "a/b", None),
        ("./a/b", "a/b/c.py", "b"),
    ],
)
def test_brackets_and_folders_mean_what_they_mean_to_git(glob: str, meant: str, not_meant: str | None) -> None:
    assert re.search(path_pattern(glob), meant)
    assert not_meant is None or not re.search(path_pattern(glob), not_meant)


def test_a_mistyped_path_among_many_that_are_alike_is_told_at_once() -> None:
    folders = [f"package/models/part_{i % 97}/modeling_{i}" for i in range(20_000)]
    known = [f"{folder}/{name}.py" for folder, name in zip(folders, ["core", "utils"] * 10_000, strict=True)]
    start = time.process_time()
    assert (
        nearest_values("package/models/part_5/modelling_102/corre.py", known)[0] == "package/models/part_5/modeling_102/core.py"
    )
    assert time.process_time() - start < 0.7  # 0.1; letter by letter it would be over a second


def test_the_nearest_come_first() -> None:
    assert nearest_values("javascrip", ["java", "javascript", "go"])[0] == "javascript"
    assert nearest_values("zzzz", ["java", "go"]) == []


def test_half_a_million_rows_are_masked_without_pandas(tmp_path: Path) -> None:
    rows = [Row(package=f"p{i % 700}", language=("python", "go")[i % 2]) for i in range(2000)]
    table(tmp_path, rows, 500)
    code = f"""
import sys, time, pyarrow as pa
from pipeline_lib.search.filters import Filters
rows = pa.concat_tables([pa.ipc.open_file(pa.memory_map({str(tmp_path / "rows.arrow")!r})).read_all()] * 250)
start = time.process_time()
mask = Filters(languages=("go",), packages=("p1*",), path="*.py").mask(rows)
print(int(mask.sum()) // 250, len(mask), "pandas" in sys.modules, time.process_time() - start < 3)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = sum(row.language == "go" and row.package.startswith("p1") for row in rows)
    assert answer.stdout.split() == [str(expected), "500000", "False", "True"], answer.stderr
