"""Files of records of any size go through whole, and the memory of reading them does not grow with them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
# in a process of its own, and VmHWM: what this one held before counts for nothing
CHILD = """
import re, sys
from pathlib import Path
import pyarrow.parquet, zstandard
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.safe_open import SourceText
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
path = Path(sys.argv[2])
file = describe(str(path), path.name, "s", "g").model_copy(update={"form": sys.argv[1]})
before = peak()
limits = ReadLimits(max_members=10**9)
found = [0, 0]
for record in texts_of(file, SourceConfig(limits=limits)):
    found[isinstance(record.content, SourceText)] += 1
print(found[1], found[0], peak() - before)
"""
ROW = '{"id": "d%d", "text": "The river ran by tower number %d, and nobody saw it."}'


def json_lines(path: Path, count: int) -> None:
    with path.open("w") as file:
        for start in range(0, count, 1000):
            file.write("".join(ROW % (i, i) + "\n" for i in range(start, min(count, start + 1000))))


def array(path: Path, count: int) -> None:
    """One record in it is of 20 MB, ten times the longest that is read: a row of the quarantine."""
    with path.open("w") as file:
        file.write("[" + ROW % (0, 0) + ', {"text": "')
        for _ in range(20):
            file.write('no {} [end], \\"x\\" ' * 50_000)
        file.write('"}')
        for i in range(1, count):
            file.write(", " + ROW % (i, i))
        file.write("]")


def table(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.write("id,text\n")
        for start in range(0, count, 1000):
            file.write("".join(f'{i},"The river, it ran\nby tower {i}"\n' for i in range(start, min(count, start + 1000))))


def parquet(path: Path, count: int, group: int = 100_000) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, group):
            numbers = range(start, min(count, start + group))
            columns = [[f"d{i}" for i in numbers], [f"The river ran by tower {i}, and nobody saw it." * 2 for i in numbers]]
            writer.write_table(pa.table(columns, schema), row_group_size=group)


def one_row_group(path: Path, count: int) -> None:
    parquet(path, count, group=count)


Writer = Callable[[Path, int], None]
KINDS: dict[str, tuple[str, Writer, int]] = {
    "lines": ("json_lines", json_lines, 5_000_000),
    "array": ("json_lines", array, 1_000_000),
    "table": ("csv", table, 1_000_000),
    "parquet": ("parquet", parquet, 3_000_000),
    "parquet of one row group": ("parquet", one_row_group, 3_000_000),
}
MOST_KB = 200 * 1024


def read(path: Path, form: str) -> tuple[int, int, int]:
    """Texts, refusals, and how much the memory grew (KiB)."""
    command = [sys.executable, "-c", CHILD, form, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts, refused, grew = map(int, re.findall(r"\d+", done.stdout))
    return texts, refused, grew


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_goes_through_whole(tmp_path: Path, kind: str) -> None:
    form, write, _ = KINDS[kind]
    write(tmp_path / "a", 20_000)
    texts, refused, grew = read(tmp_path / "a", form)
    assert (texts, refused) == (20_000, int(kind == "array")) and grew < MOST_KB


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_millions_of_records_go_through_whole_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    form, write, count = KINDS[kind]
    write(tmp_path / "a", count)
    texts, refused, grew = read(tmp_path / "a", form)
    assert (texts, refused) == (count, int(kind == "array")) and grew < MOST_KB
