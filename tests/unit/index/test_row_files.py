"""Rows and texts of an index come back as they were written, and no changed byte of them is read."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from index_rows import Row

from data_contracts.schemas import INDEX_ROWS
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.index.rows import BATCH_TEXTS, RowWriter, Texts, signature


def written(folder: Path, rows: list[Row], characters: int = 1000) -> RowWriter:
    folder.mkdir(exist_ok=True)
    with RowWriter(folder, characters) as writer:
        for start in range(0, len(rows), 50):
            writer.write(rows[start : start + 50])
    return writer


def many(n: int) -> list[Row]:
    return [Row(text=f"def f{i}(x):\n    return {i} * '{i * 7919 % 1000}'", package=f"p{i % 7}") for i in range(n)]


def test_every_text_comes_back_at_its_row(tmp_path: Path) -> None:
    rows = many(3 * BATCH_TEXTS + 5)
    written(tmp_path, rows)
    asked = [len(rows) - 1, 0, BATCH_TEXTS, BATCH_TEXTS - 1, 0]
    assert Texts(tmp_path).of(asked) == [(f"def f{row}(x)", rows[row].text) for row in asked]


def test_decoded_batches_are_kept_within_their_bytes_those_read_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(4 * BATCH_TEXTS)
    written(tmp_path, rows)
    whole = Texts(tmp_path)
    whole.of(range(len(rows)))
    decoded: list[int] = []
    kept = Texts(tmp_path, cache_bytes=whole.cached_bytes * 5 // 8)  # two and a half of the four
    read = kept._read
    monkeypatch.setattr(
        kept, "_read", SimpleNamespace(get_batch=lambda number: decoded.append(number) or read.get_batch(number))
    )
    for batch, expected in ((0, [0]), (1, [0, 1]), (0, [0, 1]), (2, [0, 1, 2]), (0, [0, 1, 2]), (1, [0, 1, 2, 1])):
        assert kept.of([batch * BATCH_TEXTS])[0][1] == rows[batch * BATCH_TEXTS].text
        assert decoded == expected and kept.cached_bytes <= kept.cache_bytes
    none = Texts(tmp_path, cache_bytes=0)
    assert none.of([3, 3]) == kept.of([3, 3]) and none.cached_bytes == 0


def test_threads_share_the_decoded_batches(tmp_path: Path) -> None:
    rows = many(12 * BATCH_TEXTS)
    written(tmp_path, rows)
    kept = Texts(tmp_path, cache_bytes=20_000)

    def reads(seed: int) -> bool:
        asked = random.Random(seed).sample(range(len(rows)), 60)
        return [text for _, text in kept.of(asked)] == [rows[row].text for row in asked]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(reads, range(40)))
    assert 0 < kept.cached_bytes <= 20_000
    assert kept.cached_bytes == sum(batch.nbytes for batch in kept._cached.values())


def test_values_are_encoded_and_stay_themselves(tmp_path: Path) -> None:
    rows = [Row(licence=None), *many(120), Row(licence="none", package="ü\n")]
    written(tmp_path, rows)
    table = pa.ipc.open_file(tmp_path / "rows.arrow").read_all()
    assert table.schema.equals(INDEX_ROWS)
    for name in ("package", "licence", "language", "path", "kind"):
        assert table.column(name).to_pylist() == [getattr(row, name) for row in rows]


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    writer = written(tmp_path, [Row(text="é" * 30), Row(text="é" * 20), Row(kind="text", text="short")], 20)
    assert writer.n_cut == 1 and [text for _, text in Texts(tmp_path).of([0, 1, 2])] == ["é" * 20, "é" * 20, "short"]


def test_an_index_may_keep_no_texts(tmp_path: Path) -> None:
    written(tmp_path, many(3), 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.arrow"]


def test_no_changed_byte_is_read(tmp_path: Path) -> None:
    rows = many(6000)
    written(tmp_path, rows)
    path = tmp_path / "texts.arrow"
    good = path.read_bytes()
    assert len(good) > 65_536
    expected = Texts(tmp_path).of(range(len(rows)))
    for at in range(0, len(good), len(good) // 60):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        try:
            assert Texts(tmp_path).of(range(len(rows))) == expected, at
        except CorruptArtifact:
            continue
        pytest.fail(f"byte {at} was read")
    for changed in (good[:-1], good + b"x", good[:70_000], b""):
        path.write_bytes(changed)
        with pytest.raises(CorruptArtifact, match=r"texts\.arrow"):
            Texts(tmp_path).of([0])
    path.unlink()
    with pytest.raises(CorruptArtifact, match="no such file"):
        Texts(tmp_path)


def test_a_hit_reads_a_small_part_of_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    written(tmp_path, [Row(text=f"{i} " + os.urandom(400).hex()) for i in range(6000)])
    read = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read.append(1) or whole(*args))
    assert Texts(tmp_path).of([3000])[0][1].startswith("3000 ")
    assert len(read) * 65_536 < (tmp_path / "texts.arrow").stat().st_size / 4


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a,\n      b: dict[str, int] = {},\n) -> int:\n    return 1", "def f(a, b: dict[str, int] = {}) -> int"),
        ("async def g(self, sep='('):\n    pass", "async def g(self, sep='(')"),
        ("def h(x): return {1: x}", "def h(x)"),
        ("class A(B):\n    x = 1", "class A(B)"),
        ("function foo(a, b) {\n return 1 }", "function foo(a, b)"),
        ("function f({a, b}) {\n}", "function f({a, b})"),
        ("const f = (a) => {\n}", "const f = (a)"),
        ("public static <T> List<T> of(T... xs) throws E {\n", "public static <T> List<T> of(T... xs) throws E"),
        ("func (s *Server) Serve(l net.Listener) error {\n\treturn nil\n}", "func (s *Server) Serve(l net.Listener) error"),
        ("def each(&block)\n  yield\nend", "def each(&block)"),
        ("function getX(array $a = ['x' => '{'])\n{\n", "function getX(array $a = ['x' => '{'])"),
        ("fn f<'a>(x: &'a str) -> &'a str {\n    x\n}", "fn f<'a>(x: &'a str) -> &'a str"),
        ("", ""),
    ],
)
def test_a_signature_is_the_head_in_one_line(source: str, expected: str) -> None:
    assert signature(source) == expected


def test_a_name_that_its_pair_left_out_is_put_back() -> None:
    assert signature("def _(self, _x):\n    return _x", "close") == "def close(self, _x)"
    assert signature("func (s *S) _(l L) error {", "Serve") == "func (s *S) Serve(l L) error"
    assert signature("def close(_):\n    pass", "close") == "def close(_)"


def test_a_signature_is_short_whatever_the_text() -> None:
    assert len(signature("def f(" + "x, " * 5000)) <= 240
    assert signature("def f(\n" + "x,\n" * 500) == "def f("
