"""Every kind of index: its bytes do not depend on shards, its recall holds its floor or it is refused, its filters are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation, CorruptArtifact, UserError
from pipeline_lib.index import build, recall_gate
from pipeline_lib.index.build import Vectors, write_files
from pipeline_lib.index.factories import exact_nearest, nearest, open_index, recall_by_scores, recall_of
from pipeline_lib.index.filled import filled_index, one_thread
from pipeline_lib.index.recall_gate import perturbed, settle
from pipeline_lib.index.recipes import KINDS, RESCORED, Effort
from pipeline_lib.store.store import Store

N, D, K = 2_500, 32, 10


def clustered(n: int = N, d: int = D, seed: int = 1) -> np.ndarray:
    """Unit vectors around a few centres, the same for each seed, as embeddings of texts are."""
    centres, generator = np.random.default_rng(0).standard_normal((50, d)), np.random.default_rng(seed)
    vectors_ND = centres[generator.integers(len(centres), size=n)] + 0.6 * generator.standard_normal((n, d))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def source(vectors_ND: np.ndarray, step: int = 1_000) -> Vectors:
    return Vectors(lambda at: vectors_ND[at : at + step], range(0, len(vectors_ND), step))


def built(folder: Path, config: IndexConfig, vectors_ND: np.ndarray, store: Store) -> dict:
    """The files of an index and what index.json says of them."""
    folder.mkdir()
    facts = write_files(source(vectors_ND), config, folder, store)
    facts |= settle(folder, facts, config, lambda: perturbed(source(vectors_ND)), source(vectors_ND))
    return json.loads(json.dumps(facts))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict, np.ndarray]:
    place = tmp_path_factory.mktemp(request.param)
    vectors_ND = clustered()
    facts = built(place / "index", IndexConfig(kind=request.param, workers=1), vectors_ND, Store(place / "home"))
    return request.param, place / "index", facts, vectors_ND


def test_recall_is_what_is_recorded_and_above_the_floor(made) -> None:
    kind, folder, facts, vectors_ND = made
    index = open_index(folder, facts)
    assert (index.ntotal, index.d, facts["kind"]) == (N, D, kind)
    assert set(facts["files"]) == {path.name for path in folder.iterdir()}
    queries_QD = clustered(200, seed=2)
    right = exact_nearest(source(vectors_ND).slices(), queries_QD, K).tolist()
    assert right == np.argsort(-(queries_QD @ vectors_ND.T), axis=1, kind="stable")[:, :K].tolist()
    found = recall_of(nearest(index, queries_QD, K)[1].tolist(), right)
    assert found >= (1 if kind == "flat" else facts["recall"]["floor"] - 0.08), (
        "it is a little lower for queries that are no document's"
    )
    if kind != "flat":
        last = facts["recall"]["curve"][-1]
        assert facts["recall"]["at_10"] >= facts["recall"]["floor"] and last["recall"] >= facts["recall"]["floor"]
        assert facts["recall"]["of"] == "vectors of documents, moved at random"


def test_scores_are_cosines_and_descend(made) -> None:
    kind, folder, facts, vectors_ND = made
    queries_QD = clustered(20, seed=3)
    scores_QK, rows_QK = nearest(open_index(folder, facts), queries_QD, K)
    for query_D, scores, rows in zip(queries_QD, scores_QK, rows_QK, strict=True):
        assert scores == pytest.approx(vectors_ND[rows] @ query_D, abs=2e-3 if kind in RESCORED else 1e-5)
        assert (np.diff(scores) <= 0).all() and len(set(rows)) == K


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
@pytest.mark.parametrize("few", [0, 20_000])
def test_a_filter_gives_the_best_of_what_it_allows_and_all_of_few(
    made, share: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.index.factories.EXACT_ROWS", few)
    _, folder, facts, vectors_ND = made
    allowed_N = np.random.default_rng(5).random(N) < share
    assert 0 < allowed_N.sum() < N
    queries_QD = clustered(30, seed=2)
    _, rows_QK = nearest(open_index(folder, facts), queries_QD, K, allowed_N)
    assert rows_QK.shape == (30, min(K, allowed_N.sum())) and allowed_N[rows_QK].all()
    right_QK = np.argsort(-np.where(allowed_N, queries_QD @ vectors_ND.T, -9), axis=1)[:, : rows_QK.shape[1]]
    assert recall_of(rows_QK.tolist(), right_QK.tolist()) >= 0.85
    none = nearest(open_index(folder, facts), queries_QD, K, np.zeros(N, bool))
    assert none[0].shape == none[1].shape == (30, 0)


def test_more_rows_than_there_are_gives_each_once(made) -> None:
    _, folder, facts, _ = made
    _, rows_QK = nearest(open_index(folder, facts), clustered(2), N + 5)
    assert [sorted(rows) for rows in rows_QK.tolist()] == [list(range(N))] * 2


def test_shards_change_no_byte(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, folder, _, vectors_ND = made
    before = {**digests(folder)}
    monkeypatch.setattr(build, "ADDED_ROWS", 500)
    built(tmp_path / "one", IndexConfig(kind=kind, workers=1), vectors_ND, Store(tmp_path / "home"))
    monkeypatch.setattr(build, "SHARD_BYTES", 4 * D * 500)
    shards = []
    make = build.make_shard
    monkeypatch.setattr(build, "make_shard", lambda shard: shards.append(shard.rows) or make(shard))
    built(tmp_path / "many", IndexConfig(kind=kind, workers=1), vectors_ND, Store(tmp_path / "home"))
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    assert len(shards) == (0 if kind in ("flat", "hnsw") else 5)
    if kind != "hnsw":  # whose nodes are linked a batch at a time
        assert digests(tmp_path / "one") == before


def test_no_row_of_exact_vectors_is_given_unverified(made, tmp_path: Path) -> None:
    kind, folder, facts, _ = made
    if kind not in RESCORED:
        pytest.skip("the index holds its vectors")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "vectors.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "vectors.bin").write_bytes(content)
    index = open_index(tmp_path, facts)
    assert index.reconstruct_n(0, 5).shape == (5, D), "what is whole is read"
    with pytest.raises(CorruptArtifact, match="is not what was written"):
        nearest(index, clustered(5), N)
    (tmp_path / "vectors.bin").write_bytes(content[:-1])
    with pytest.raises(CorruptArtifact, match="were written"):
        open_index(tmp_path, facts)


def test_flat_is_written_as_faiss_writes_it(tmp_path: Path) -> None:
    vectors_ND = clustered(300)
    built(tmp_path / "flat", IndexConfig(), vectors_ND, Store(tmp_path / "home"))
    index = filled_index(source(vectors_ND).read, source(vectors_ND).starts, "Flat")
    faiss.write_index(index, str(tmp_path / "bare"))
    assert (tmp_path / "flat" / "index.faiss").read_bytes() == (tmp_path / "bare").read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flat"])
def test_below_its_floor_it_is_refused_with_what_to_do(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_ND = np.random.default_rng(0).standard_normal((1_500, 64)).astype(np.float32)
    noise_ND /= np.linalg.norm(noise_ND, axis=1, keepdims=True)
    for limit in ("first_effort", "most_effort"):
        monkeypatch.setattr(recall_gate, limit, lambda _: Effort(1, 1, 1))
    with pytest.raises(ContractViolation, match=rf"index {kind} .*is not published.*index\.kind to flat"):
        built(
            tmp_path / "index", IndexConfig(kind=kind, workers=1, links=4, least_recall=1), noise_ND, Store(tmp_path / "home")
        )
    built(tmp_path / "free", IndexConfig(kind=kind, workers=1, links=4, least_recall=0), noise_ND, Store(tmp_path / "home"))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 9), (2, 7), (5, 1), (39, 33), (300, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_and_odd_widths_are_indexed(kind: str, n: int, d: int, tmp_path: Path) -> None:
    vectors_ND = clustered(n, d)
    facts = built(tmp_path / "index", IndexConfig(kind=kind, workers=1, least_recall=0), vectors_ND, Store(tmp_path / "home"))
    _, rows_QK = nearest(open_index(tmp_path / "index", facts), vectors_ND[:3], K)
    assert rows_QK.shape == (min(3, n), min(K, n)) and (rows_QK >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_equal_vectors_are_equal_answers(kind: str, tmp_path: Path) -> None:
    vectors_ND = clustered(400)
    vectors_ND[:300] = vectors_ND[0]  # as of texts that are the same up to where the model cuts them
    config = IndexConfig(kind=kind, workers=1, least_recall=0.9)
    assert built(tmp_path / "index", config, vectors_ND, Store(tmp_path / "home"))["recall"]["at_10"] >= 0.9
    assert recall_by_scores((np.array([[0.9, 0.8]]), np.array([[7, 8]])), (np.array([[0.9, 0.7]]), np.array([[1, 2]]))) == 0.5
    assert recall_by_scores((np.array([[0.9, 0.9]]), np.array([[7, 2]])), (np.array([[0.9, 0.9]]), np.array([[1, 2]]))) == 1.0


def test_copies_of_a_vector_do_not_trap_the_walks_through_a_graph(tmp_path: Path) -> None:
    vectors_ND = clustered()
    for first in range(10):  # more copies of each than a node has links
        vectors_ND[100 + 100 * first : 200 + 100 * first] = vectors_ND[first]
    facts = built(tmp_path / "index", IndexConfig(kind="hnsw", workers=1), vectors_ND, Store(tmp_path / "home"))
    assert facts["recall"]["at_10"] >= facts["recall"]["floor"] == 0.98
    stored_ND = open_index(tmp_path / "index", facts).vectors(np.arange(N))
    assert stored_ND.tobytes() == vectors_ND.tobytes(), "they are stored as they are"


def test_a_graph_without_many_copies_is_that_of_faiss(tmp_path: Path) -> None:
    vectors_ND = clustered(400)
    vectors_ND[:16] = vectors_ND[0]  # as many as a node has links
    index = faiss.index_factory(D, "HNSW16,Flat", faiss.METRIC_INNER_PRODUCT)
    with one_thread():
        index.add(vectors_ND)
    made = filled_index(source(vectors_ND).read, source(vectors_ND).starts, "HNSW16,Flat")
    assert faiss.serialize_index(made).tobytes() == faiss.serialize_index(index).tobytes()


def test_what_is_given_wins_over_the_rules(tmp_path: Path) -> None:
    vectors_ND, store = clustered(1_500), Store(tmp_path / "home")
    facts = built(tmp_path / "graph", IndexConfig(kind="hnsw", links=8, ef_construction=40, ef_search=50), vectors_ND, store)
    assert facts["parameters"] == {"M": 8, "ef_construction": 40} and facts["recall"]["curve"][0]["ef"] == 50
    assert faiss.read_index(str(tmp_path / "graph" / "index.faiss")).hnsw.efConstruction == 40
    given = IndexConfig(kind="ivf_pq", lists=7, pq_bytes=16, probes=3, refine=5, exact="float32", workers=1)
    facts = built(tmp_path / "lists", given, vectors_ND, store)
    assert facts["parameters"] == {"lists": 7, "pq_bytes": 16} and facts["exact"] == "float32"
    assert (facts["recall"]["curve"][0]["probes"], facts["recall"]["curve"][0]["refine"]) == (3, 5)
    assert open_index(tmp_path / "lists", facts).reconstruct_n(0, 1_500) == pytest.approx(vectors_ND, abs=0)


def test_auto_keeps_within_the_budget_and_says_when_nothing_does(tmp_path: Path) -> None:
    vectors_ND, store = clustered(1_500), Store(tmp_path / "home")
    assert built(tmp_path / "free", IndexConfig(), vectors_ND, store)["kind"] == "flat"
    facts = built(tmp_path / "small", IndexConfig(memory_budget_bytes=1_500 * D + 1, workers=1), vectors_ND, store)
    assert facts["kind"] == "sq8"
    with pytest.raises(UserError, match="no kind of index fits 10 bytes"):
        built(tmp_path / "none", IndexConfig(memory_budget_bytes=10), vectors_ND, store)


@pytest.mark.parametrize("factory", ["PQ8x4", "IVF16,PQ8x4fs,RFlat", "PCA16,L2norm,HNSW16", "SQ8"])
def test_a_given_factory_takes_filters_too(factory: str, tmp_path: Path) -> None:
    vectors_ND = clustered()
    facts = built(tmp_path / "index", IndexConfig(factory=factory, least_recall=0), vectors_ND, Store(tmp_path / "home"))
    allowed_N = np.arange(N) % 2 == 0
    _, rows_QK = nearest(open_index(tmp_path / "index", facts), clustered(5), K, allowed_N)
    assert rows_QK.shape == (5, K) and allowed_N[rows_QK].all()


@pytest.mark.parametrize("factory", ["Flatt", "IDMap,Flat"])
def test_a_factory_that_faiss_cannot_fill_is_said(factory: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="FAISS does not take it"):
        built(tmp_path / "index", IndexConfig(factory=factory), clustered(20), Store(tmp_path / "home"))


def test_shards_are_made_by_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_ND, store = clustered(17_000, 8), Store(tmp_path / "home")
    built(tmp_path / "one", IndexConfig(kind="sq8", workers=1), vectors_ND, store)
    monkeypatch.setattr(build, "SHARD_BYTES", 4 * 8 * 8_192)
    built(tmp_path / "many", IndexConfig(kind="sq8", workers=2), vectors_ND, store)
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    assert not list((store.root / "index" / "scratch").glob("*")), "what was needed for a while is gone"
