"""Each searchable text comes once, under its best name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pyarrow.parquet as pq
import pytest

from pipeline_lib.index import pieces
from pipeline_lib.index.pieces import choose_pieces, read_pieces
from pipeline_lib.store.artifact import Artifact


def pieces_of(curated: Artifact) -> list[pieces.Piece]:
    paths = curated.paths("pairs.parquet")
    return list(read_pieces(paths, choose_pieces(paths)))


def test_every_text_once_code_first(curate: Callable[..., Artifact]) -> None:
    pieces = pieces_of(curate())
    assert [piece.kind for piece in pieces] == ["code"] * 3 + ["text"] * 3
    assert len({piece.text for piece in pieces}) == len(pieces)


def test_the_id_of_a_piece_is_that_of_a_pair_that_holds_it(curate: Callable[..., Artifact]) -> None:
    curated = curate()
    pairs = {row["id"]: row for path in curated.paths("pairs.parquet") for row in pq.read_table(path).to_pylist()}
    for piece in pieces_of(curated):
        assert piece.text in (pairs[piece.id]["x"], pairs[piece.id]["y"])


def test_a_function_speaks_through_its_docstring(curate: Callable[..., Artifact]) -> None:
    [piece] = [piece for piece in pieces_of(curate()) if "read_lines" in piece.text]
    assert (piece.name, piece.line, piece.doc) == ("planted.code_3", 13, "Read all lines of a file.")


def test_a_passage_takes_the_line_of_the_pair_whose_y_it_is(curate: Callable[..., Artifact]) -> None:
    lines = {piece.text: piece.line for piece in pieces_of(curate()) if piece.kind == "text"}
    assert lines["The second passage speaks of pears."] == 14


def test_counts_every_candidate(curate: Callable[..., Artifact]) -> None:
    choice = choose_pieces(curate().paths("pairs.parquet"))
    assert (choice.n_seen, choice.n_code, choice.n_text) == (4 + 2 * 2, 3, 3)


def test_long_docs_are_cut() -> None:
    assert pieces._first_words("word " * 20) == "word " * 12 + "…"
    assert len(pieces._first_line("x" * 500)) == pieces.DOC_CHARACTERS
    assert pieces._first_line("\n  two   words \nmore") == "two words"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_ROWS", 3)


@pytest.mark.usefixtures("small_batches")
def test_is_the_set_of_distinct_texts_across_batches(curate: Callable[..., Artifact]) -> None:
    letters = "abcdefghij"
    pairs = [(kind, "docstring", f"{x} says", f"{y} says") for kind in ("code", "text") for x, y in pairwise(letters * 2)]
    curated = curate(pairs)
    pieces = pieces_of(curated)
    table = pq.read_table(curated.paths("pairs.parquet"))
    rows_of = {kind: table.filter([k == kind for k in table["kind"].to_pylist()]) for kind in ("code", "text")}
    assert {p.text for p in pieces if p.kind == "code"} == set(rows_of["code"]["y"].to_pylist())
    expected = set(rows_of["text"]["x"].to_pylist()) | set(rows_of["text"]["y"].to_pylist())
    assert {p.text for p in pieces if p.kind == "text"} == expected
    assert len(pieces) == len(letters) * 2
