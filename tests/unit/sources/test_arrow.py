"""Arrow files and streams of records."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dump_files import read_dump, reasons, texts

from pipeline_lib.sources.dump_files import list_source
from pipeline_lib.sources.dump_spec import guess_reader, sources_of
from pipeline_lib.sources.safe_open import Refusal

ROWS = [{"text": f"Text {i}.", "url": f"http://a.org/{i}", "unused": i, "kind": "ab"[i % 2]} for i in range(250)]
WORDS = [row["text"] for row in ROWS]
KINDS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    made = pa.Table.from_pylist(rows)
    return made.set_column(3, "kind", made["kind"].dictionary_encode()) if "kind" in made.column_names else made


def write(path: Path, kind: str, rows: pa.Table | None = None, compression: str | None = None) -> Path:
    rows = table() if rows is None else rows
    with KINDS[kind](str(path), rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(rows, max_chunksize=25)
    return path


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_file_and_of_a_stream(tmp_path: Path, kind: str, compression: str | None) -> None:
    path = write(tmp_path / "data", kind, compression=compression)
    assert guess_reader(str(path)) == "arrow"
    found = read_dump(path, "arrow")
    assert texts(found) == {f"http://a.org/{i}#L{i + 1}": f"Text {i}." for i in range(250)}
    packed = tmp_path / "data.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert guess_reader(str(packed)) == "arrow" and list(texts(read_dump(packed, "arrow")).values()) == WORDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_keeps_what_came_before_it(tmp_path: Path, kind: str) -> None:
    whole = write(tmp_path / "a.arrow", kind).read_bytes()
    for cut in range(20, len(whole) - 10, len(whole) // 40):
        (tmp_path / "a.arrow").write_bytes(whole[:cut])
        found = read_dump(tmp_path / "a.arrow", "arrow")
        kept = list(texts(found).values())
        assert reasons(found) == ["truncated"] and kept == WORDS[: len(kept)]
    assert len(kept) >= 225


def test_a_damaged_batch_costs_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", "stream", compression="zstd")
    data = bytearray(path.read_bytes())
    frames = [at for at in range(len(data)) if data.startswith(b"\x28\xb5\x2f\xfd", at)]
    damaged = frames[len(frames) // 2]
    data[damaged : damaged + 12] = bytes(12)
    path.write_bytes(data)
    found = read_dump(path, "arrow")
    assert reasons(found) == ["damaged"] and len(texts(found)) == 225
    assert all(item.content.lost_bytes for item in found if isinstance(item.content, Refusal))


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_gives_rows_or_a_reason(tmp_path: Path, kind: str) -> None:
    whole = write(tmp_path / "a.arrow", kind, compression="lz4").read_bytes()
    for seed in range(120):
        chance, data = random.Random(seed), bytearray(whole)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "a.arrow").write_bytes(data)
        found = read_dump(tmp_path / "a.arrow", "arrow")
        assert len(texts(found)) == 250 or reasons(found)


def test_columns_of_other_kinds_and_a_file_without_text(tmp_path: Path) -> None:
    chat = [[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]]
    messages = pa.table({"messages": pa.array(chat)})
    assert texts(read_dump(write(tmp_path / "a.arrow", "stream", messages), "arrow")) == {"#L1": "Hi.\n\nYes?"}
    nulls = pa.table({"content": pa.array(["One.", None, "Two."]).dictionary_encode()})
    assert list(texts(read_dump(write(tmp_path / "b.arrow", "file", nulls), "arrow")).values()) == ["One.", "", "Two."]
    (lost,) = read_dump(write(tmp_path / "c.arrow", "file", pa.table({"n": [1, 2]})), "arrow")
    assert isinstance(lost.content, Refusal) and lost.content.reason == "no_text_column" and "2 records" in lost.content.detail


def test_a_data_set_as_it_is_saved_to_disk(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "data-00000-of-00001.arrow", "stream")
        (tmp_path / split / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (tmp_path / split / "dataset_info.json").write_text('{"description": "Not a text."}')
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (source,) = sources_of(str(tmp_path))
    assert source.reader == "arrow"
    assert [file.path for file in list_source(source)] == [f"{split}/data-00000-of-00001.arrow" for split in ("test", "train")]


def test_streams_one_after_the_other_are_all_read(tmp_path: Path) -> None:
    one = write(tmp_path / "one.arrow", "stream").read_bytes()
    path = tmp_path / "both.arrow"
    path.write_bytes(one + one)
    assert len(texts(read_dump(path, "arrow"))) == 500
    path.write_bytes(one + b"something else")
    found = read_dump(path, "arrow")
    assert len(texts(found)) == 250 and reasons(found) == ["damaged"]
