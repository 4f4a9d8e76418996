"""The index holds every row at the vector of its text, and says which model made it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.schemas import INDEX_ROWS, text_hash
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation, UserError
from pipeline_lib.index.filled import filled_index
from pipeline_lib.index.index import build_index
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

DIM = 16


class Named:
    """A model as the index sees it: what its vectors depend on, and a function."""

    precision = "float32"

    def __init__(self, embed: Callable[..., np.ndarray], fingerprint: str = "planted") -> None:
        self.id, self.fingerprint, self.embed = self, fingerprint, embed

    def encode(self, texts: Sequence[str], side: str, progress: Progress = silent) -> np.ndarray:
        assert side in ("x", "y")
        return self.embed(texts, progress)


def by_hash(texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
    """A unit vector that is a pure function of the text."""
    vectors_ND = np.stack([np.random.default_rng(text_hash(text) % 2**32).standard_normal(DIM) for text in texts])
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def many(n: int) -> list[tuple[str, str, str, str]]:
    return [("code" if i % 2 else "text", "docstring", f"says {i}", f"does {i}") for i in range(n)]


def test_a_row_stands_at_the_vector_of_its_text(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    indexed = build_index(store, export_model(), curate(), IndexConfig(rows_per_slice=2), Named(by_hash))
    folder = indexed.part_folder()
    index = faiss.read_index(str(folder / "index.faiss"))
    rows = pa.ipc.open_file(folder / "rows.arrow").read_all()
    assert rows.schema.equals(INDEX_ROWS)
    body = "def close(sock):\n    sock.close()\n    return None"
    score, row = index.search(by_hash([body]), 1)
    assert score[0, 0] == pytest.approx(1, abs=1e-6)
    assert rows.slice(row[0, 0], 1).to_pylist()[0]["doc"] == "close the socket quietly"


def test_manifest_ties_it_to_the_model(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    exported = export_model()
    indexed = build_index(store, exported, curate(), IndexConfig(), Named(by_hash))
    record = json.loads((indexed.part_folder() / "index.json").read_text())
    assert record["model_digest"] == exported.digest
    assert (record["count"], record["code"], record["text"], record["dim"]) == (6, 3, 3, DIM)
    assert indexed.manifest.counts.dropped == {"duplicate": 2}


def test_flat_is_exact(store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]) -> None:
    indexed = build_index(store, export_model(), curate(many(300)), IndexConfig(rows_per_slice=70), Named(by_hash))
    index = faiss.read_index(str(indexed.part_folder() / "index.faiss"))
    corpus_ND = index.reconstruct_n(0, index.ntotal)
    queries_QD = by_hash([f"query {i}" for i in range(20)])
    _, found_QK = index.search(queries_QD, 10)
    assert (found_QK == np.argsort(-(queries_QD @ corpus_ND.T), axis=1, kind="stable")[:, :10]).all()


@pytest.mark.parametrize("factory", ["IVF4,Flat", "HNSW16", "PCA8,L2norm,Flat"])
def test_other_factories_are_trained_and_repeatable(
    factory: str, store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact], tmp_path
) -> None:
    curated, exported = curate(many(400)), export_model()
    digests = {
        build_index(
            Store(tmp_path / name), exported, curated, IndexConfig(factory=factory, least_recall=0), Named(by_hash)
        ).digest
        for name in "ab"
    }
    assert len(digests) == 1


def test_a_killed_build_goes_on_with_the_slices_it_has(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    curated, exported, config = curate(many(60)), export_model(), IndexConfig(rows_per_slice=20)
    calls = []

    def killed_at_third(texts: Sequence[str], progress: Progress) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return by_hash(texts)

    with pytest.raises(KeyboardInterrupt):
        build_index(store, exported, curated, config, Named(killed_at_third))
    build_index(store, exported, curated, config, Named(killed_at_third))
    assert calls == [20, 20, 20, 20, 20, 10, 10], "the last are queries of validation"
    assert sum(calls[:-1]) == 20 + 90  # the third slice twice, no other


def test_progress_counts_texts(store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]) -> None:
    said: list[tuple[float, float]] = []
    build_index(
        store, export_model(), curate(), IndexConfig(rows_per_slice=4), Named(by_hash), lambda d, t, n="": said.append((d, t))
    )
    assert said == [(4, 6), (6, 6)]


def test_a_broken_model_is_refused(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    with pytest.raises(ContractViolation, match="not of length 1"):
        build_index(store, export_model(), curate(), IndexConfig(), Named(lambda texts, _: np.full((len(texts), DIM), np.nan)))


def test_nothing_to_index_and_unknown_factory_are_said(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact], tmp_path
) -> None:
    with pytest.raises(UserError, match="FAISS does not take it"):
        build_index(store, export_model(), curate(), IndexConfig(factory="Flatt"), Named(by_hash))
    with pytest.raises(UserError, match="nothing to index"):
        build_index(Store(tmp_path / "other"), export_model(1), empty(tmp_path), IndexConfig(), Named(by_hash))


def empty(tmp_path) -> Artifact:
    import pyarrow.parquet as pq

    from data_contracts.schemas import PAIRS
    from pipeline_lib.config.base import StageConfig
    from pipeline_lib.store.records import Outcome, Stage, draft_part

    store, stage = Store(tmp_path / "empty"), Stage(name="curate", version=1)

    def make(key: str) -> Outcome:
        scratch = store.scratch("curate")
        pq.write_table(PAIRS.empty_table(), scratch / "pairs.parquet")
        return Outcome(parts=(store.commit_part(draft_part(stage, key, "train"), scratch),))

    return store.build(stage, StageConfig(), {}, make)


def test_filling_an_index_leaves_the_process_its_threads() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before + 1)  # so that it is not one on any machine
    try:
        filled_index(lambda _: np.eye(8, dtype=np.float32), range(0, 8, 8), "Flat")
        assert faiss.omp_get_max_threads() == before + 1
        with pytest.raises(UserError, match=r"index\.factory"):
            filled_index(lambda _: np.eye(8, dtype=np.float32), range(0, 8, 8), "Nothing")
        assert faiss.omp_get_max_threads() == before + 1
    finally:
        faiss.omp_set_num_threads(before)


def test_recall_is_measured_by_queries_of_validation_where_there_are_enough(
    store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    asked: list[tuple[str, ...]] = []

    class Watched(Named):
        def encode(self, texts: Sequence[str], side: str, progress: Progress = silent) -> np.ndarray:
            if side == "x":
                asked.append(tuple(texts))
            return self.embed(texts, progress)

    exported, config = export_model(), IndexConfig(kind="sq8", workers=1, bm25=False)
    few = build_index(store, exported, curate(many(60)), config, Watched(by_hash))
    curated = curate(many(600))
    indexed = build_index(store, exported, curated, config, Watched(by_hash))
    records = [json.loads((made.part_folder() / "index.json").read_text())["recall"] for made in (few, indexed)]
    assert [record["of"] for record in records] == ["vectors of documents, moved at random", "queries of validation"]
    assert records[1]["queries"] == len(asked[0])
    validation = pq.read_table(curated.part_folder("validation") / "pairs.parquet")["x"].to_pylist()
    assert len(asked) == 1 and set(asked[0]) == set(validation) and len(validation) == 200
    assert min(record["at_10"] for record in records) >= 0.95
    build_index(store, exported, curated, config.model_copy(update={"refine": 4}), Watched(by_hash))
    assert len(asked) == 1, "queries are embedded once"
