"""Overlap and recall of answers, against figures counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from exported_models import Exported

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.index.index import build_index
from pipeline_lib.search.answers import indexed_vectors, overlap, recall
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate, as_pair
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

Make = Callable[..., Artifact]
QUERIES = ("parse a date", "apples and pears", "close the socket", "read lines", "plums")


FIRST = ("code", "docstring", "parse an iso date from a string", "def parse_date(text):\n    return text.split('-')")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def opened(store: Store, exported: Artifact, curated: Artifact, factory: str = "Flat") -> Searcher:
    index = build_index(store, exported, curated, IndexConfig(factory=factory, least_recall=0), Exported(exported))
    return Searcher(as_pair(Candidate(exported, index)))


def test_the_share_of_answers_in_common(store: Store, curate: Make, export_model: Make) -> None:
    exported, curated = export_model(), curate()
    whole, part = opened(store, exported, curated), opened(store, exported, curate([FIRST] * 3))
    assert overlap(whole, whole, QUERIES) == 1 and overlap(whole, part, ()) == 1
    assert overlap(whole, part, QUERIES) == pytest.approx(1 / 6), "one function of six texts, which is all that the other has"
    other = overlap(whole, opened(store, export_model(1), curated), QUERIES, k=2)
    assert 0 <= other < 1


def test_an_exact_index_finds_all_and_a_coarse_one_what_its_lists_hold(store: Store, curate: Make, export_model: Make) -> None:
    exported, curated = export_model(), curate()
    fingerprint = Exported(exported).fingerprint
    flat = opened(store, exported, curated)
    vectors_ND = np.concatenate(list(indexed_vectors(store, curated, fingerprint, 2)))
    index = faiss.read_index(str(flat.current.index / "index.faiss"))
    assert np.array_equal(vectors_ND, index.reconstruct_n(0, index.ntotal))
    assert recall(flat, indexed_vectors(store, curated, fingerprint, 2), QUERIES, k=3) == 1
    assert recall(flat, indexed_vectors(store, curated, fingerprint, 100), QUERIES, k=100) == 1, "fewer rows than k"
    coarse = opened(store, exported, curated, "IVF3,Flat")
    found = recall(coarse, indexed_vectors(store, curated, fingerprint, 2), QUERIES, k=1)
    asked_QD = np.concatenate([flat.encoder.embed([query], "query") for query in QUERIES])
    lists = faiss.read_index(str(coarse.current.index / "index.faiss"))
    _, visited_Q1 = lists.search(asked_QD, 1)  # one list is visited, as FAISS has it
    right_Q1 = np.argsort(-(asked_QD @ vectors_ND.T), axis=1, kind="stable")[:, :1]
    assert found == pytest.approx(float(np.mean(visited_Q1 == right_Q1)))
    assert recall(flat, iter(()), ()) == 1
