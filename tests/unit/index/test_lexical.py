"""BM25 beside an index: the scores of bm25s, from texts that are read once, however small its chunks are."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.index import lexical
from pipeline_lib.index.lexical import FILES, Bm25, Bm25Writer, words

SYLLABLES = ("ka", "lo", "mi", "tu", "re", "Parse", "HTTP", "date_", "é", "x1")


def texts_of(n: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join("".join(random.choice(SYLLABLES, 2)) for _ in range(random.integers(0, 30))) for _ in range(n)]


def written(folder: Path, texts: list[str], slice_: int = 64) -> Bm25:
    folder.mkdir()
    writer = Bm25Writer(folder)
    for at in range(0, len(texts), slice_):
        writer.add(texts[at : at + slice_])
    facts = writer.close()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES), "runs are gone"
    distinct = {word for text in texts for word in words(text)}
    assert facts == {"words": len(distinct), "postings": sum(len(set(words(text))) for text in texts)}
    return Bm25(folder, len(texts))


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_the_scores_are_those_of_bm25s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(lexical, "CHUNK_POSTINGS", chunk)
    monkeypatch.setattr(lexical, "PENDING_TERMS", 100)
    monkeypatch.setattr(lexical, "TEXTS_PER_RUN", 40)
    texts, queries = texts_of(300), [*texts_of(20, seed=1), "parse parse http", "nothing of this kind", "", "ka lo \udce9"]
    index = written(tmp_path / "index", texts)
    [expected_QC] = Bm25Model().scores(queries, texts)
    for query, expected_C in zip(queries, expected_QC, strict=True):
        np.testing.assert_allclose(index.scores(query), expected_C, rtol=2e-6, atol=1e-6)
    assert index.scores(queries[0]).any() and not index.scores("").any()


def test_equal_texts_give_equal_bytes_however_they_are_dealt(tmp_path: Path) -> None:
    texts = texts_of(200)
    written(tmp_path / "one", texts, slice_=7)
    written(tmp_path / "other", texts, slice_=200)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("texts", [[], [""], ["", "?!", "  "]])
def test_texts_without_a_word_are_found_by_none(tmp_path: Path, texts: list[str]) -> None:
    assert written(tmp_path / "index", texts).scores("any word").tolist() == [0] * len(texts)


def test_files_of_two_indexes_are_told_apart(tmp_path: Path) -> None:
    written(tmp_path / "one", texts_of(20))
    written(tmp_path / "other", texts_of(40))
    (tmp_path / "one" / lexical.ROWS).write_bytes((tmp_path / "other" / lexical.ROWS).read_bytes())
    with pytest.raises(ValueError, match="not of one index"):
        Bm25(tmp_path / "one", 20)


def test_memory_is_that_of_a_run_and_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "CHUNK_POSTINGS", 20_000)
    texts = texts_of(1000)
    peaks = []
    for slices in (2, 12):
        folder = tmp_path / str(slices)
        folder.mkdir()
        tracemalloc.start()
        writer = Bm25Writer(folder)
        for _ in range(slices):
            writer.add(texts)
        writer.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (folder / lexical.SCORES).stat().st_size > slices * 10_000 * 4
    assert peaks[1] < 1.3 * peaks[0], peaks


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_rows_of_another_index_give_the_bytes_that_their_texts_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lexical, "CHUNK_POSTINGS", chunk)
    monkeypatch.setattr(lexical, "TEXTS_PER_RUN", 40)
    before = [
        *texts_of(150),
        "",
        "ka " * 5_000 + "once",
        " ".join(texts_of(900, seed=3)),
    ]  # the mean length is a fiftieth of the longest
    written(tmp_path / "before", before)
    random = np.random.default_rng(4)
    before_N = random.permutation([*random.permutation(len(before))[:-20], *[-1] * 30])
    new = iter(texts_of(30, seed=5))
    now = [before[row] if row >= 0 else next(new) for row in before_N.tolist()]
    written(tmp_path / "fresh", now)
    added = folder_of(tmp_path / "added")
    writer = Bm25Writer(added)
    assert writer.add_base(tmp_path / "before", before_N, len(before))
    rows = np.flatnonzero(before_N < 0)
    writer.add([now[row] for row in rows.tolist()], rows)
    writer.close()
    for name in FILES:
        assert (added / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("before", "is_told"),
    [
        (["ka " * 50_000], False),  # as a table of zeros: float32 gives 49,999 times the same score
        (["ka " * 50_000, "ka re mi"], False),
        ([*texts_of(60), "ka " * 6_000 + "re " * 5_000, "mi " * 7_000], False),
        ([*texts_of(60), "ka " * 5_000 + "once"], True),
        (["!!!", "..."], True),
    ],
)
def test_times_that_scores_do_not_tell_are_counted_again(tmp_path: Path, before: list[str], is_told: bool) -> None:
    written(tmp_path / "before", before)
    now, kept = [*before, "ka mi so"], np.arange(len(before))
    written(tmp_path / "fresh", now)
    writer = Bm25Writer(folder_of(tmp_path / "added"))
    assert writer.add_base(tmp_path / "before", np.append(kept, -1), len(before)) == is_told
    new = [len(before)] if is_told else range(len(now))
    writer.add([now[row] for row in new], np.array(new))
    writer.close()
    for name in FILES:
        assert (tmp_path / "added" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


def test_a_delta_of_texts_without_a_word_is_an_index_without_words(tmp_path: Path) -> None:
    written(tmp_path / "before", ["!!!", "..."])
    writer = Bm25Writer(folder_of(tmp_path / "added"))
    assert writer.add_base(tmp_path / "before", np.array([0]), 2) and writer.close() == {"words": 0, "postings": 0}


@pytest.mark.parametrize("factor", [0.999, 1e6])
def test_scores_that_no_counts_give_are_refused_and_texts_can_be_added(tmp_path: Path, factor: float) -> None:
    texts = texts_of(60)
    written(tmp_path / "before", texts)
    scores = np.load(tmp_path / "before" / lexical.SCORES)
    np.save(tmp_path / "before" / lexical.SCORES, scores * np.float32(factor))
    added = folder_of(tmp_path / "added")
    writer = Bm25Writer(added)
    assert not writer.add_base(tmp_path / "before", np.arange(60), 60)
    assert not writer.add_base(tmp_path / "of an earlier version", np.arange(60), 60)
    writer.add(texts)
    assert writer.close() == {
        "words": len({word for text in texts for word in words(text)}),
        "postings": len(scores),
    }


def folder_of(place: Path) -> Path:
    place.mkdir()
    return place
