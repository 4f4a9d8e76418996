"""The same hits, however a corpus is cut into blocks and whatever searches it."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.cached import CachedEncoder
from pipeline_lib.evaluation.suites.models import Hits, HybridModel, ModelId
from pipeline_lib.evaluation.suites.registry import open_model
from pipeline_lib.evaluation.suites.searching import NO_ROW, Document, ids_at, ranked_ids, search
from pipeline_lib.index.fusion import Fusion, fused_scores
from pipeline_lib.runtime.progress import silent
from pipeline_lib.store.store import Store

DOCUMENTS = [Document(f"d{n}", f"word{n % 17} other{n % 5} number{n % 41}") for n in range(500)]
QUERIES = ["word3 number3", "other1", "word16 other4", "nothing of it"]
CORPUS = partial(iter, DOCUMENTS)


def hits(model, corpus=CORPUS, **options):
    return search(model, QUERIES, corpus, SuiteConfig(depth=100, bootstrap=10, **options))


def oracle(encoder):
    scores = np.round(encoder.embed(QUERIES) @ encoder.embed([d.text for d in DOCUMENTS]).T, 6)
    return np.argsort(-scores, axis=1, kind="stable")[:, :100], -np.sort(-scores, axis=1)[:, :100]


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_blocks_change_nothing(encoder, block):
    found = hits(encoder, block_texts=block)
    rows, scores = oracle(encoder)
    assert np.array_equal(found.hits.rows_QK, rows) and np.array_equal(found.hits.scores_QK, np.float64(scores))
    assert found.documents == 500 and found.how == "matrix product, exact"


def test_faiss_finds_the_same_scores(encoder):
    found = hits(encoder, block_texts=64, faiss_from_rows=500)
    assert found.how == "FAISS Flat, exact"
    assert np.allclose(found.hits.scores_QK, oracle(encoder)[1], atol=2e-6)
    assert hits(encoder, faiss_from_rows=501).how == "matrix product, exact"


def test_an_approximate_index_says_so(encoder):
    found = hits(encoder, faiss_from_rows=1, faiss_factory="IVF4,Flat", faiss_probes=4)
    assert found.how == "FAISS IVF4,Flat, approximate"
    assert np.allclose(found.hits.scores_QK, oracle(encoder)[1], atol=2e-6)  # all of its lists are visited
    few = hits(encoder, faiss_from_rows=1, faiss_factory="IVF16,Flat", faiss_probes=1)
    assert (few.hits.rows_QK == -1).any() and all(
        len(row) < 100 for row in ranked_ids(few.hits, {row: document.id for row, document in enumerate(DOCUMENTS)})[:1]
    )
    with pytest.raises(UserError, match="faiss_factory 'Nonsense'"):
        hits(encoder, faiss_from_rows=1, faiss_factory="Nonsense")


@pytest.mark.parametrize("factory", ["L2norm,IVF4,Flat", "IVF4,Flat,RFlat"])
def test_lists_are_visited_behind_a_transform_too(encoder, factory):
    found = hits(encoder, faiss_from_rows=1, faiss_factory=factory, faiss_probes=4)
    assert np.allclose(found.hits.scores_QK, oracle(encoder)[1], atol=2e-6)


def test_more_hits_than_documents(encoder):
    found = hits(encoder, partial(iter, DOCUMENTS[:3]))
    assert found.hits.rows_QK.shape == (4, 3) and sorted(found.hits.rows_QK[0]) == [0, 1, 2]


def test_word_models_return_only_documents_that_share_a_word():
    for name in ("bm25", "tfidf"):
        found = hits(open_model(name))
        ranked = ranked_ids(found.hits, ids_at(CORPUS, found.hits))
        assert ranked[3] == [] and len(ranked[1]) == 100
        assert all("other1" in DOCUMENTS[int(document[1:])].text for document, _ in ranked[1])


@pytest.mark.parametrize("faiss_from_rows", [1, 100_000])
def test_vectors_and_bm25_are_fused_as_a_search_fuses_them(encoder, faiss_from_rows):
    depth, share = len(DOCUMENTS), 0.4  # the documents tie, and a shorter list would hold any of those
    model = HybridModel(encoder, Fusion("scores", {"text": share}, depth))
    found = hits(model, faiss_from_rows=faiss_from_rows)
    assert found.how.endswith("exact; fused with words") and found.documents == len(DOCUMENTS)
    texts = [document.text for document in DOCUMENTS]
    cosines_QC = encoder.encode(QUERIES, "x") @ encoder.encode(texts, "y").T
    [bm25_QC] = open_model("bm25").scores(QUERIES, texts)
    for rows, scores, cosines_C, bm25_C in zip(*found.hits, np.round(cosines_QC, 6), bm25_QC, strict=True):
        right_C = fused_scores(cosines_C, bm25_C, "text", model.fusion)
        assert np.allclose(scores, np.sort(right_C)[::-1][:100], atol=1e-3)  # cosines of a query without a word are tiny
        assert np.allclose(scores, right_C[rows], atol=1e-3)
        assert len(set(rows.tolist())) == 100


class Noise:
    """Embeds in no time: vectors depend on the number of texts alone."""

    id = ModelId("noise", "noise")

    def encode(self, texts, side, progress=None):
        vectors_ND = np.random.default_rng(len(texts)).standard_normal((len(texts), 8)).astype(np.float32)
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("faiss_from_rows", [1, 100_000])
def test_memory_is_bounded_by_the_block_whatever_is_hit(faiss_from_rows):
    """Most documents are somebody's hit, and the corpus would fill 80 MB."""
    config = SuiteConfig(depth=200, block_texts=200, faiss_from_rows=faiss_from_rows)

    def corpus():
        return (Document(f"d{row}", f"{row} " + "x" * 20_000) for row in range(4000))

    def run():
        found = search(Noise(), ["query"] * 300, corpus, config)
        return ids_at(corpus, found.hits)

    run()  # what is imported on the way is no part of it
    tracemalloc.start()
    ids = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ids) > 3000 and peak < 20e6


def test_ids_are_those_of_the_rows_that_were_hit():
    rows = np.array([[499, NO_ROW, 0], [7, 8, 499]])
    assert ids_at(CORPUS, Hits(rows, rows.astype(float))) == {0: "d0", 7: "d7", 8: "d8", 499: "d499"}


def test_nothing_to_search_is_an_error(encoder):
    with pytest.raises(UserError, match="4 queries, 0 documents"):
        hits(encoder, partial(iter, []))


class Heard:
    """Remembers how far the work said it was."""

    def __init__(self):
        self.shares, self.notes = [], []

    def __call__(self, done, total, note=""):
        self.shares.append(done / total)
        self.notes.append(note)


def test_a_search_says_how_far_it_is_within_a_block_and_over_all_of_them(encoder, tmp_path):
    """One call of an encoder may take minutes: what it says itself must come through, in the units of the whole search."""

    class SlowEncoder:
        id = encoder.id

        def encode(self, texts, side, progress=silent):
            for at in range(0, len(texts), 100):
                progress(min(at + 100, len(texts)), len(texts), "texts")
            return encoder.encode(texts, side)

    heard = Heard()
    cached = CachedEncoder(SlowEncoder(), Store(tmp_path), block_texts=200)
    search(cached, QUERIES, CORPUS, SuiteConfig(block_texts=200), "y", heard)
    assert {done / 504 for done in (104, 204, 304, 404, 504)} <= set(heard.shares)  # 104 and 304 lie within a block of 200
    assert heard.shares == sorted(heard.shares)
    assert heard.shares[0] < 0.01 and heard.shares[-1] == 1.0 and heard.notes[-1] == "504 of 504 texts embedded"
    again = Heard()
    search(cached, QUERIES, CORPUS, SuiteConfig(block_texts=200), "y", again)
    assert len(again.shares) == 3 and again.shares[-1] == 1.0  # a block each, from the cache
