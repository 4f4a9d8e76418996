"""JSON Lines in the layouts of the known data sets, and lines that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers.json_lines import read_json_lines
from pipeline_lib.sources.record_fields import Options
from pipeline_lib.sources.safe_open import Refusal, SourceText

RECORDS: dict[str, dict[str, Any]] = {
    "dolma": {"id": "doc-7", "text": "Some prose.", "source": "web", "metadata": {"source_domain": "a.org", "license": "CC0"}},
    "c4": {"text": "Some prose.", "url": "http://a.org/x", "timestamp": "2019"},
    "redpajama": {"text": "Some prose.", "meta": {"url": "http://a.org/x", "language": "en"}},
    "the_stack": {
        "content": "x = 1\n",
        "lang": "Python",
        "max_stars_repo_path": "src/a.py",
        "max_stars_repo_name": "me/it",
        "max_stars_repo_licenses": ["MIT", "BSD-3-Clause"],
    },
    "the_stack_smol": {"content": "x = 1\n", "lang": "Ruby", "path": "a.rb", "repository_name": "me/it", "licenses": ["MIT"]},
}
WANTED = {  # path, group, licence, form
    "dolma": ("doc-7#L1", "a.org", "CC0", "plain"),
    "c4": ("http://a.org/x#L1", "http://a.org/x", "CC0-1.0", "plain"),
    "redpajama": ("http://a.org/x#L1", "http://a.org/x", "CC0-1.0", "plain"),
    "the_stack": ("me/it/src/a.py#L1", "me/it", "MIT OR BSD-3-Clause", "python"),
    "the_stack_smol": ("me/it/a.rb#L1", "me/it", "MIT", "ruby"),
}


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("layout", sorted(RECORDS))
def test_a_layout_is_known_by_its_fields(tmp_path: Path, layout: str) -> None:
    (found,) = read_dump(write(tmp_path / "a.jsonl", RECORDS[layout]), "json_lines")
    path, group, licence, form = WANTED[layout]
    assert (found.file.path, found.file.group, found.file.licence, found.file.form) == (f"a.jsonl!{path}", group, licence, form)
    assert isinstance(found.content, SourceText) and found.content.text in ("Some prose.", "x = 1\n")


def test_fields_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": {"en": "Hello."}, "no": 17, "by": "me"})
    options = Options(text="body.en", name="no", group="by").model_dump(mode="json")
    file = describe(str(path), path.name, "s", "g").model_copy(update={"form": "json_lines", "options": options})
    (found,) = read_json_lines(file, ReadLimits())
    assert (found.file.path, found.file.group, found.content) == ("a.jsonl!17#L1", "me", SourceText("Hello.", b"Hello."))


def test_a_bad_line_is_refused_by_its_number_and_the_next_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"text": "first"},
        b"{broken",
        b"",
        b"[" * 100_000,
        b"[1]",
        {"title": "no text"},
        {"text": 5},
        {"text": "a\0b"},
        b'{"text": "\\ud800"}',
        {"text": "x" * 3_000},
        {"text": "y" * 10_000},
        {"content": "int x;", "lang": "C", "max_stars_repo_path": "x.c"},
        b'{"text": "\xff"}',
        {"text": "last"},
    )
    found = read_dump(path, "json_lines", ReadLimits(max_text_bytes=1_000))
    assert list(texts(found).values()) == ["first", "last"]
    assert [(item.content.reason, item.content.offset) for item in found if isinstance(item.content, Refusal)] == [
        ("not_json", 2),
        ("file_too_large", 4),
        ("not_a_record", 5),
        ("not_a_record", 6),
        ("not_a_record", 7),
        ("nul_byte", 8),
        ("not_utf8", 9),
        ("file_too_large", 10),
        ("file_too_large", 11),
        ("unknown_language", 12),
        ("not_json", 13),
    ]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_file_gives_the_rows_before_the_cut(tmp_path: Path, suffix: str) -> None:
    rows = b"".join(json.dumps({"text": f"text {i} {i * 7919 % 1000}"}).encode() + b"\n" for i in range(1000))
    whole = gzip.compress(rows) if suffix == "gz" else zstandard.ZstdCompressor().compress(rows)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(whole)
    assert len(texts(read_dump(path, "json_lines"))) == 1000
    path.write_bytes(whole[:-20])
    found = read_dump(path, "json_lines")
    assert reasons(found) == ["truncated"] and (suffix == "zst" or len(texts(found)) > 990)
    found = read_dump(write(tmp_path / "b.jsonl", *[{"text": "x"}] * 5), "json_lines", ReadLimits(max_members=3))
    assert len(texts(found)) == 3 and reasons(found) == ["too_many_members"]


def test_real_dolma_and_redpajama(eval_data: Path) -> None:
    for path in sorted((eval_data / "dumps" / "jsonl").glob("*.gz")):
        found = read_dump(path, "json_lines")
        assert len(texts(found)) == 10 and reasons(found) == [], path.name
        assert len({item.file.group for item in found}) == 10
