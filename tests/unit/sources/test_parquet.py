"""Parquet files of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.safe_open import Refusal


def write(path: Path, rows: list[dict[str, Any]], group: int = 100) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group, write_page_checksum=True, use_dictionary=False)
    return path


def test_rows_by_the_layout_of_their_columns(tmp_path: Path) -> None:
    rows = [{"text": f"Text {i}.", "url": f"http://a.org/{i}", "unused": i} for i in range(250)]
    found = read_dump(write(tmp_path / "a.parquet", rows), "parquet")
    assert texts(found) == {f"http://a.org/{i}#L{i + 1}": f"Text {i}." for i in range(250)}
    code = [{"content": "x = 1", "lang": "Go", "path": "a.go", "repository_name": "me/it", "licenses": ["MIT"]}]
    (item,) = read_dump(write(tmp_path / "b.parquet", code), "parquet")
    assert (item.file.form, item.file.group, item.file.licence) == ("go", "me/it", "MIT")


def test_a_damaged_row_group_costs_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"text": f"Text number {i}."} for i in range(300)])
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
    path.write_bytes(data)
    found = read_dump(path, "parquet")
    refusals = [item.content for item in found if isinstance(item.content, Refusal)]
    assert [(refusal.reason, refusal.offset) for refusal in refusals] == [("damaged", 101)]
    assert len(texts(found)) == 200


def test_what_is_no_parquet_and_what_is_too_much(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"text": "x" * 100, "n": i} for i in range(1000)])
    found = read_dump(path, "parquet", ReadLimits(max_members=999))
    assert len(texts(found)) == 999 and reasons(found) == ["too_many_members"]
    assert reasons(read_dump(path, "parquet", ReadLimits(max_expanded_bytes=1000))) == ["expansion_limit"]
    assert reasons(read_dump(write(tmp_path / "b.parquet", [{"title": "x"}]), "parquet")) == ["no_text_column"]
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:cut])
        assert reasons(read_dump(path, "parquet")) == ["damaged" if cut else "file_empty"]
