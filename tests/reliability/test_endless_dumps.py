"""Well-formed files of any length go through whole, in memory that does not grow with them: the reader stage alone.

Scaled in bytes, not in records: a JSON Lines file has its 5 million lines, short ones, in 70 MB of gzip; an export has 400,000
pages of other namespaces, which are not parsed as wikitext, where the English Wikipedia has 20 million; the names of 20 million
texts are told apart without their texts.
"""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

READING = """
import re, sys
from collections import Counter
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pathlib import Path
place, form = sys.argv[1:]
size = Path(place).stat().st_size
file = SourceFile(place=place, path="a", source="s", group="g", licence=None, form=form, bytes=size, sha256="")
found = Counter(c.reason if isinstance(c, Refusal) else "text" for _, c, _ in texts_of(file, SourceConfig()))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
import json
print(json.dumps([found, peak]))
"""
NAMING = """
import re, sys
from pipeline_lib.sources import readers
names = readers._Names()
taken = sum(names._is_new(f"enwiki.xml.bz2!Title {n}") for n in range(int(sys.argv[1])))
print(taken, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024)
"""
MB = 1024**2
MOST_BYTES = 200 * MB  # the interpreter with pyarrow and pydantic takes 100


def read(path: Path, form: str) -> dict[str, int]:
    answer = subprocess.run([sys.executable, "-c", READING, str(path), form], capture_output=True, text=True, check=True)
    found, peak_bytes = json.loads(answer.stdout)
    assert peak_bytes < MOST_BYTES, f"{peak_bytes / MB:.0f} MB"
    return found


def write_lines(path: Path, count: int) -> None:
    """That many lines, in members of 50,000."""
    member = b"".join(json.dumps({"text": f"Line {n} of a dump.", "id": str(n)}).encode() + b"\n" for n in range(50_000))
    compressed = gzip.compress(member, 6)
    with path.open("wb") as out:
        for _ in range(count // 50_000):
            out.write(compressed)


def write_export(path: Path, count: int) -> None:
    """That many pages, in streams of 1,000, as a multistream export has them."""
    page = "<page><title>T{}</title><ns>1</ns><id>{}</id><revision><text>Talk of it. {}</text></revision></page>\n"
    with path.open("wb") as out:
        out.write(bz2.compress(b"<mediawiki>"))
        for first in range(0, count, 1000):
            out.write(bz2.compress("".join(page.format(n, n, n) for n in range(first, first + 1000)).encode()))
        out.write(bz2.compress(b"</mediawiki>"))


@pytest.mark.parametrize("count", [100_000, pytest.param(5_000_000, marks=pytest.mark.slow)])
def test_a_file_of_any_number_of_lines_is_read_whole(tmp_path: Path, count: int) -> None:
    write_lines(tmp_path / "a.jsonl.gz", count)
    assert read(tmp_path / "a.jsonl.gz", "json_lines") == {"text": count}


@pytest.mark.slow
def test_an_export_of_any_number_of_pages_is_read_whole(tmp_path: Path) -> None:
    write_export(tmp_path / "a.xml.bz2", 400_000)
    assert read(tmp_path / "a.xml.bz2", "mediawiki") == {"not_an_article": 400_000}


@pytest.mark.slow
def test_the_names_of_twenty_million_texts_take_little_memory() -> None:
    """A set of them takes 1.4 GB."""
    answer = subprocess.run([sys.executable, "-c", NAMING, "20000000"], capture_output=True, text=True, check=True)
    taken, peak_bytes = map(int, answer.stdout.split())
    assert taken == 20_000_000 and peak_bytes < 700 * MB, f"{peak_bytes / MB:.0f} MB"
