"""An index holds BM25 beside its vectors, says on validation which ranks better, and answers by either or by both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from exported_models import Exported

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.index.fusion import SHARES
from pipeline_lib.index.hybrid import FILES, fusion_in
from pipeline_lib.index.index import build_index
from pipeline_lib.search.query import MODES, Searcher
from pipeline_lib.search.registry import Candidate, in_use, promote
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

Make = Callable[..., Artifact]
WORDS = ("apple", "bread", "candle", "door", "engine", "fire", "garden", "house", "island", "juice", "kettle", "lamp")


def pairs(n: int) -> list[tuple[str, str, str, str]]:
    """Functions and passages whose three words their queries share, so that BM25 finds them and random vectors do not."""
    random = np.random.default_rng(0)
    found = []
    for i in range(n):
        a, b, c = random.choice(WORDS, 3, replace=False)
        found.append(("code", "docstring", f"{a} with {b} of {c} {i}", f"def {a}_{b}_{i}():\n    return {c}"))
        found.append(("text", "neighbour", f"About the {a} {i} and the {b}.", f"More of {a} {i}, {b} and {c}."))
    return found


@pytest.fixture
def home(store: Store, curate: Make, export_model: Make) -> Path:
    exported = export_model()
    index = build_index(store, exported, curate(pairs(90)), IndexConfig(), Exported(exported))
    promote(store.root, "planted", Candidate(exported, index))
    return store.root


def test_the_index_says_on_validation_what_ranks_each_kind_better(home: Path) -> None:
    current = in_use(home)
    record = json.loads((current.index / "index.json").read_text())
    assert record["bm25"]["files"] == list(FILES) and record["bm25"]["words"] > len(WORDS)
    for kind, row in record["fusion"]["kinds"].items():
        assert row["queries"] == 30, kind
        figures = {name: row[name] for name in ("vectors", "bm25", "hybrid")}
        assert row["auto"] == max(figures, key=lambda name: figures[name]) and row["auto"] != "vectors"
        assert set(row["tried"]["scores"]) == set(row["tried"]["ranks"]) == {f"{share:g}" for share in SHARES}
    fusion = fusion_in(current.index)
    assert fusion is not None and dict(fusion.shares) == {kind: row["share"] for kind, row in record["fusion"]["kinds"].items()}


def test_each_mode_ranks_as_it_says(home: Path) -> None:
    searcher, query = Searcher(in_use(home)), "apple with bread of door 7"
    assert len(searcher.search(query, k=1000, mode="vectors")) == searcher.index.ntotal, "vectors rank every row"
    vectors, words, hybrid = (searcher.ranked(query, 20, None, mode) for mode in ("vectors", "bm25", "hybrid"))
    cosines = searcher.index.reconstruct_n(0, searcher.index.ntotal) @ searcher.encoder.embed([query], "query")[0]
    assert [found.row for found in vectors] == np.argsort(-cosines, kind="stable")[:20].tolist()
    assert all(found.score == found.vector_score and found.bm25_rank is None for found in vectors)
    assert [found.bm25_rank for found in words] == list(range(1, 21)) and words[0].vector_rank is None
    assert [found.score for found in words] == sorted((found.score for found in words), reverse=True)
    assert len({found.row for found in hybrid}) == 20 and {found.row for found in hybrid} & {found.row for found in words}
    for found in hybrid:
        if found.vector_rank is not None:
            assert found.vector_score == pytest.approx(cosines[found.row], abs=1e-5)
    assert any(found.vector_rank and found.bm25_rank for found in hybrid)
    by_row = {found.row: found for found in searcher.ranked(query, 1000, None, "bm25")}
    assert all(found.bm25_score == (by_row[found.row].score if found.row in by_row else None) for found in hybrid)


def test_bm25_of_the_index_is_that_of_the_evaluations(home: Path, curate: Make) -> None:
    searcher, query = Searcher(in_use(home)), "candle with fire of lamp 11"
    assert searcher.texts is not None
    texts = [text for _, text in searcher.texts.of(range(searcher.index.ntotal))]
    [[expected_N]] = Bm25Model().scores([query], texts)
    for found in searcher.ranked(query, 50, None, "bm25"):
        assert found.score == pytest.approx(expected_N[found.row], rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_masks_kinds_and_batches_hold_in_every_mode(home: Path, mode: str) -> None:
    searcher, queries = Searcher(in_use(home)), ["apple with bread", "More of juice and kettle", "no such word zzz"]
    for kind in ("code", "text"):
        many = searcher.search_many(queries, kind, 5, None, mode)  # type: ignore[arg-type]
        for query, hits in zip(queries, many, strict=True):  # embedded together, vectors differ in their last bits
            alone = searcher.search(query, kind, 5, None, mode)  # type: ignore[arg-type]
            assert [hit.id for hit in hits] == [hit.id for hit in alone]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-4)
        assert {hit.kind for hits in many for hit in hits} == {kind}
    allowed_N = np.zeros(searcher.index.ntotal, bool)
    assert searcher.ranked(queries[0], 5, allowed_N, mode) == []  # type: ignore[arg-type]
    allowed_N[[3, searcher.n_code + 2]] = True
    found = searcher.ranked("apple bread candle door engine fire garden house", 5, allowed_N, mode)  # type: ignore[arg-type]
    assert {one.row for one in found} <= {3, searcher.n_code + 2} and found
    unknown = searcher.search("no such word zzz", "code", 5, None, mode)  # type: ignore[arg-type]
    assert len(unknown) == (0 if mode == "bm25" else 5), "where no word is shared, vectors answer"


def test_an_index_without_bm25_answers_by_vectors_and_says_so(store: Store, curate: Make, export_model: Make) -> None:
    exported = export_model()
    index = build_index(store, exported, curate(), IndexConfig(bm25=False), Exported(exported))
    promote(store.root, "planted", Candidate(exported, index))
    assert not any((index.part_folder() / name).exists() for name in FILES) and fusion_in(index.part_folder()) is None
    searcher = Searcher(in_use(store.root))
    assert searcher.search("close it", k=3) == searcher.search("close it", k=3, mode="vectors")
    for mode in ("bm25", "hybrid"):
        with pytest.raises(UserError, match=r"cannot answer mode .*index once more") as error:
            searcher.search("close it", mode=mode)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="mode 'words' is unknown; choose one of: auto, vectors, bm25, hybrid"):
        searcher.search("close it", mode="words")  # type: ignore[arg-type]


def test_with_few_validation_queries_vectors_rank_and_nothing_is_embedded(
    store: Store, curate: Make, export_model: Make
) -> None:
    exported, sides = export_model(), list[str]()

    class Watched(Exported):
        def encode(self, texts: Sequence[str], side: str, *args: object) -> np.ndarray:
            sides.append(side)
            return super().encode(texts, side, *args)

    index = build_index(store, exported, curate(), IndexConfig(), Watched(exported))
    kinds = json.loads((index.part_folder() / "index.json").read_text())["fusion"]["kinds"]
    assert {row["auto"] for row in kinds.values()} == {"vectors"} and set(sides) == {"y"}
    promote(store.root, "planted", Candidate(exported, index))
    assert Searcher(in_use(store.root)).search("read a file", k=1, mode="hybrid")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_before_it_ranks(home: Path, name: str) -> None:
    path = in_use(home).index / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=name):
        Searcher(in_use(home))


def test_what_the_index_is_made_of_does_not_depend_on_its_slices(store: Store, curate: Make, export_model: Make) -> None:
    exported, curated = export_model(), curate(pairs(40))
    made = [
        build_index(Store(store.root / str(rows)), exported, curated, IndexConfig(rows_per_slice=rows), Exported(exported))
        for rows in (7, 1000)
    ]
    for name in FILES[:4]:
        assert len({(index.part_folder() / name).read_bytes() for index in made}) == 1
