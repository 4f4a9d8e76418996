"""A delta of an index answers as a fresh one does, embeds nothing twice, and is there whole or not at all."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import pair_row, write_artifact, write_pairs

from data_contracts.schemas import row_id, text_hash
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import UserError
from pipeline_lib.index.delta import same_rows
from pipeline_lib.index.factories import exact_nearest, nearest, open_index, recall_of
from pipeline_lib.index.hybrid import Hybrid
from pipeline_lib.index.index import build_index, update_index, why_whole
from pipeline_lib.index.recipes import KINDS
from pipeline_lib.index.rows import ROWS
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.search.explain import delta_sentence
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.prune import BASE, find_unneeded, remove
from pipeline_lib.store.store import Store

D, K, TOPICS, VOCABULARY = 16, 10, 30, 120
AS_FRESH = ("bm25_terms.npy", "bm25_starts.npy", "bm25_rows.npy", "bm25_scores.npy", "sample.npy", ROWS, "texts.arrow")


def embedded(text: str) -> np.ndarray:
    """A unit vector around that of the text's topic, a pure function of the text."""
    topic = int(text.partition("topic")[2].partition(" ")[0] or 0)
    own_D = np.random.default_rng(text_hash(text) % 2**32).standard_normal(D)
    vector_D = np.random.default_rng(topic).standard_normal(D) + 0.7 * own_D
    return (vector_D / np.linalg.norm(vector_D)).astype(np.float32)


class Model:
    """An encoder that counts each text that it embeds."""

    precision = "float32"

    def __init__(self, fingerprint: str = "planted") -> None:
        self.id, self.fingerprint = self, fingerprint
        self.embedded: Counter[tuple[str, str]] = Counter()

    def encode(self, texts: Sequence[str], side: str, progress: Progress = silent) -> np.ndarray:
        self.embedded.update((side, text) for text in texts)
        return np.stack([embedded(text) for text in texts])

    @property
    def documents(self) -> int:
        """Texts of documents that were embedded."""
        return sum(times for (side, _), times in self.embedded.items() if side == "y")


def exported_in(store: Store, name: str = "a") -> Artifact:
    return write_artifact(store, f"export-{name}", ["model"], lambda folder, _: (folder / "weights").write_text(name))


class Corpus:
    """Documents that are added, changed, removed and moved, a few at a time, the same ones for the same seed."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.random, self.n_made = random.Random(seed), 0
        self.documents: dict[int, dict[str, Any]] = {}
        for _ in range(n):
            self.add()

    def add(self) -> None:
        kind, self.n_made = ("code" if self.random.random() < 0.6 else "text"), self.n_made + 1
        self.documents[self.n_made] = {"kind": kind, "path": f"pkg/{self.n_made // 5}/{self.n_made}", **self._texts(kind)}

    def edit(self, added: int, changed: int, removed: int, moved: int = 0) -> None:
        chosen = self.random.sample(sorted(self.documents), changed + removed + moved)
        for number in chosen[:changed]:
            self.documents[number] |= self._texts(self.documents[number]["kind"])
        for number in chosen[changed : changed + moved]:
            self.documents[number] |= {"path": f"moved/{number}"}
        for number in chosen[changed + moved :]:
            del self.documents[number]
        for _ in range(added):
            self.add()

    def _texts(self, kind: str) -> dict[str, str]:
        topic, version = self.random.randrange(TOPICS), self.random.random()
        one, other = (" ".join(f"word{self.random.randrange(VOCABULARY)}" for _ in range(12)) for _ in range(2))
        body = (
            f"def f():\n    return topic{topic} {other} {version}" if kind == "code" else f"On topic{topic} {other} {version}."
        )
        return {"x": f"What topic{topic} {one} {version}", "y": body}

    def write(self, store: Store) -> Artifact:
        """Their pairs, a third of them of validation."""
        parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        for number, document in self.documents.items():
            own = {
                "id": row_id(str(number)),
                "path": document["path"],
                "name": f"pkg.f{number}",
                "line": 3,
                "group": f"g{number % 40}",
            }
            split = "train" if number % 3 else "validation"
            parts[split].append(pair_row(document["x"], document["y"], document["kind"], **own))
        return write_pairs(store, "curate", parts)


class Life:
    """An index that lives on by deltas."""

    def __init__(self, root: Path, kind: str = "flat", n: int = 60, **settings: Any) -> None:
        self.store, self.model, self.corpus = Store(root), Model(), Corpus(n)
        self.config = IndexConfig(kind=kind, workers=1, fusion_queries=20, precision="float32", **settings)
        self.exported = exported_in(self.store)
        self.index = build_index(self.store, self.exported, self.corpus.write(self.store), self.config, self.model)

    def update(self, **other: Any) -> Artifact:
        inputs = {"exported": other.get("exported", self.exported), "curated": self.corpus.write(self.store)}
        self.index = update_index(self.store, self.index, inputs, other.get("config", self.config), self.model)
        return self.index

    def fresh(self, root: Path) -> Artifact:
        store = Store(root)
        return build_index(store, exported_in(store), self.corpus.write(store), self.config, Model())

    def edit(self, added: int = 0, changed: int = 0, removed: int = 0, moved: int = 0) -> dict[str, Any]:
        """One delta; what index.json says of it."""
        self.corpus.edit(added, changed, removed, moved)
        self.update()
        return facts_of(self.index)["delta"]


def facts_of(index: Artifact) -> dict[str, Any]:
    return json.loads((index.part_folder() / "index.json").read_text())


def check_as_fresh(index: Artifact, fresh: Artifact) -> None:
    """Files that do not depend on how vectors are found are those of a fresh index to the byte, and recall is as good."""
    one, other = index.part_folder(), fresh.part_folder()
    for name in AS_FRESH:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    facts, expected = facts_of(index), facts_of(fresh)
    ways = [(open_index(folder, told), Hybrid(folder, told)) for folder, told in ((one, facts), (other, expected))]
    queries = [f"What topic{number % TOPICS} word{number} word{7 * number % VOCABULARY}" for number in range(300)]
    queries_QD = np.stack([embedded(text) for text in queries])
    assert len({str([hybrid.by_words(text, K, None) for text in queries]) for _, hybrid in ways}) == 1
    if facts["kind"] in ("flat", "sq8", "binary"):
        assert {name: value for name, value in facts.items() if name != "delta"} == expected
        asked = list(zip(queries, queries_QD, strict=True))
        fused = [hybrid.by_both(found, asked, K, None, {"code": 0.5, "text": 0.5}) for found, hybrid in ways]
        assert fused[0] == fused[1]
        assert (one / "index.faiss").read_bytes() == (other / "index.faiss").read_bytes()
        return
    vectors_ND = exact_vectors(index)
    right = exact_nearest([vectors_ND], queries_QD, K).tolist()
    recalls = [recall_of(nearest(found, queries_QD, K)[1].tolist(), right) for found, _ in ways]
    assert recalls[0] >= recalls[1] - 0.01001, f"{recalls}, {facts['delta']}"
    assert len(nearest(ways[0][0], queries_QD[:1], len(vectors_ND))[1][0]) == facts["count"]


def exact_vectors(index: Artifact) -> np.ndarray:
    """The vectors of an index's rows, from the texts that it keeps."""
    import pyarrow as pa

    texts = pa.ipc.open_file(index.part_folder() / "texts.arrow").read_all().column("text").to_pylist()
    return np.stack([embedded(text) for text in texts])


def check_lives(root: Path, kind: str, n: int, deltas: int) -> Life:
    life, each = Life(root / "home", kind, n), max(2, n // 200)
    for _ in range(deltas):
        life.edit(each, each, each, each)
    assert facts_of(life.index)["delta"]["number"] == deltas
    assert max(life.model.embedded.values()) == 1, "a text was embedded twice"
    check_as_fresh(life.index, life.fresh(root / "fresh"))
    return life


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf_pq"])
def test_deltas_answer_as_a_fresh_index_does(tmp_path: Path, kind: str) -> None:
    life = check_lives(tmp_path, kind, n=300, deltas=3)
    delta = facts_of(life.index)["delta"]
    assert delta["how"] == ("written" if kind == "flat" else "grown"), delta
    assert (delta["tombstones"] > 0) == (kind == "hnsw")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_deltas_answer_as_a_fresh_index_does(tmp_path: Path, kind: str) -> None:
    check_lives(tmp_path, kind, n=1_500, deltas=30)


def test_counts_say_what_came_changed_moved_and_went(tmp_path: Path) -> None:
    life = Life(tmp_path)
    before = life.model.documents
    delta = life.edit(moved=5)
    assert life.model.documents == before, "a moved file is embedded again"
    assert delta["moved"] >= 5 and (delta["added"], delta["changed"], delta["removed"]) == (0, 0, 0)
    delta = life.edit(changed=4)
    assert delta["changed"] >= 4 and (delta["added"], delta["removed"], delta["number"]) == (0, 0, 2)
    assert life.model.documents == before + delta["changed"]
    assert "delta 2 of index" in delta_sentence(facts_of(life.index))


def test_nothing_new_and_what_was_before_are_found_at_once(tmp_path: Path) -> None:
    life = Life(tmp_path)
    first, documents = life.index, dict(life.corpus.documents)
    assert life.update().manifest == first.manifest
    life.edit(added=3, removed=3)
    embedded_so_far, second = sum(life.model.embedded.values()), life.index
    assert life.update() is second
    life.corpus.documents = documents  # texts that went come back
    assert life.update().digest == first.digest
    assert sum(life.model.embedded.values()) == embedded_so_far


def test_a_text_of_two_documents_stays_while_one_of_them_does(tmp_path: Path) -> None:
    life = Life(tmp_path)
    documents = life.corpus.documents
    first = next(key for key in documents if documents[key]["kind"] == "code" and key % 3)  # of the files that are read first
    life.corpus.add()
    documents[life.corpus.n_made] = {**documents[first], "path": "twin/of.it"}
    life.update()
    before, count = sum(life.model.embedded.values()), facts_of(life.index)["count"]
    del documents[first]
    life.update()
    delta = facts_of(life.index)["delta"]
    assert sum(life.model.embedded.values()) == before and facts_of(life.index)["count"] == count
    assert (delta["added"], delta["changed"], delta["removed"], delta["moved"]) == (0, 0, 0, 1)


def test_another_model_or_recipe_is_built_whole_and_the_reason_is_told(tmp_path: Path) -> None:
    life = Life(tmp_path)
    base, other = life.index, exported_in(life.store, "b")
    assert why_whole(life.store, base, other, life.config) == "the index before is another model's"
    settings = life.config.model_copy(update={"text_characters": 50, "links": 8})
    assert (
        why_whole(life.store, base, life.exported, settings) == "the index before was made with another links, text_characters"
    )
    life.corpus.edit(1, 1, 1)
    for changed in ({"exported": other}, {"config": settings}):
        life.index = base
        made = life.update(**changed)
        assert BASE not in made.manifest.inputs and "delta" not in facts_of(made)


def test_a_damaged_base_is_built_whole(tmp_path: Path) -> None:
    life = Life(tmp_path)
    path = life.index.part_folder() / "texts.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "is damaged" in why_whole(life.store, life.index, life.exported, life.config)
    life.corpus.edit(1, 0, 0)
    assert "delta" not in facts_of(life.update())


def test_an_index_of_nothing_is_refused(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.corpus.documents.clear()
    with pytest.raises(UserError, match="nothing to index"):
        life.update()


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat"])
def test_too_many_changes_build_anew_from_stored_vectors(tmp_path: Path, kind: str) -> None:
    life = Life(tmp_path, kind, n=120, rebuild_share=0.2)
    assert life.edit(changed=6)["how"] == "grown"
    delta = life.edit(changed=14)
    assert (delta["how"], delta["since_whole"], delta["tombstones"]) == ("written", 0, 0) and "came and went" in delta["why"]
    assert max(life.model.embedded.values()) == 1


def test_recall_below_that_of_the_whole_builds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path, "hnsw", n=120)
    monkeypatch.setattr("pipeline_lib.index.delta.RECALL_LOSS", -0.5)  # more than 1 is asked for
    delta = life.edit(changed=3)
    assert delta["how"] == "written" and "recall@10 is" in delta["why"]
    assert facts_of(life.index)["recall"]["at_10"] >= 0.98


def test_a_delta_outlives_its_base(tmp_path: Path) -> None:
    life = Life(tmp_path, "hnsw", n=80)
    base = life.index
    life.edit(added=2, removed=2)
    unneeded = find_unneeded(life.store, 0, [life.index.digest], idle_hours=0)
    assert base.folder in {found.path for found in unneeded} and life.index.folder not in {found.path for found in unneeded}
    remove(life.store, unneeded)
    assert not base.folder.exists()
    life.index.verify()
    assert life.edit(added=2, removed=2)["number"] == 2


def test_rows_are_the_same_by_hash_and_kind() -> None:
    now = (np.array([5, 3, 9]), np.array([3, 8]))
    before = (np.array([3, 7]), np.array([8, 9, 1]))
    assert same_rows(now, before).tolist() == [-1, 0, -1, -1, 2]
    assert same_rows(now, (np.empty(0, np.int64),) * 2).tolist() == [-1] * 5
