"""Parquet files of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import options_of
from pipeline_lib.sources.readers.parquet import read_parquet
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
    for cut in range(1, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:cut])
        assert reasons(read_dump(path, "parquet")) == ["damaged" if cut else "file_empty"]


# ---- layouts of hubs


def table(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


WORDS = ["First é.", "Second.", "Third."]
COLUMNS = {
    "large_string": pa.array(WORDS, pa.large_string()),
    "string_view": pa.array(WORDS, pa.string_view()),
    "binary": pa.array([word.encode() for word in WORDS]),
    "large_binary": pa.array([word.encode() for word in WORDS], pa.large_binary()),
    "dictionary": pa.array(WORDS).dictionary_encode(),
    "list": pa.array([[word] for word in WORDS]),
    "messages": pa.array([[{"role": "user", "content": word}] for word in WORDS]),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", ["text", "content", "Body"])
def test_columns_of_any_type_that_holds_text(tmp_path: Path, kind: str, name: str) -> None:
    found = read_dump(table(tmp_path / "a.parquet", **{name: COLUMNS[kind], "score": pa.array([0.5, None, 2.0])}), "parquet")
    assert list(texts(found).values()) == WORDS and reasons(found) == []


def test_columns_inside_others(tmp_path: Path) -> None:
    pairs = pa.array([{"en": word, "de": word.upper()} for word in WORDS])
    path = table(tmp_path / "a.parquet", translation=pairs, no=pa.array([7, 8, 9]))
    (loss,) = read_dump(path, "parquet")
    assert isinstance(loss.content, Refusal) and loss.content.reason == "no_text_column"
    assert "'translation.en', 'translation.de', 'no'" in loss.content.detail and "option `text`" in loss.content.detail
    file = describe(str(path), path.name, "s", "g").model_copy(
        update={"form": "parquet", "options": options_of("parquet", {"text": "translation.en", "id": "no"})}
    )
    assert texts(list(read_parquet(file, ReadLimits()))) == {f"{n + 6}#L{n}": word for n, word in enumerate(WORDS, 1)}
    found = read_dump(table(tmp_path / "b.parquet", text=pa.array([{"value": word} for word in WORDS])), "parquet")
    assert list(texts(found).values()) == WORDS


def test_nulls_are_empty_texts_and_numbers_are_none(tmp_path: Path) -> None:
    found = read_dump(table(tmp_path / "a.parquet", text=pa.array(["One.", None, " ", "", None])), "parquet")
    assert [text.strip() for text in texts(found).values()] == ["One.", "", "", "", ""] and reasons(found) == []
    found = read_dump(table(tmp_path / "a.parquet", text=pa.array([None, None], pa.null())), "parquet")
    assert list(texts(found).values()) == ["", ""]
    assert reasons(read_dump(table(tmp_path / "a.parquet", text=pa.array([1, 2])), "parquet")) == ["no_text_column"]
    found = read_dump(table(tmp_path / "a.parquet", text=pa.array([b"fine", b"caf\xe9", b"a\0b"])), "parquet")
    assert list(texts(found).values()) == ["fine"] and reasons(found) == ["not_utf8", "nul_byte"]


def test_only_the_columns_that_are_used_are_read(tmp_path: Path) -> None:
    """A picture beside each text costs no memory: its pages may be damaged, for nobody reads them."""
    path = table(tmp_path / "a.parquet", text=pa.array(WORDS), image=pa.array([b"\x89PNG" * 1_000] * 3))
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    assert list(texts(read_dump(path, "parquet")).values()) == WORDS
