"""A text is embedded once by the same weights: growth, another card, another path and another run embed nothing again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import write_artifact
from exported_models import LABEL, Trained, tiny_checkpoint

from data_contracts.schemas import PAIRS, row_id, text_hash
from pipeline_lib.config.run import ExportConfig, IndexConfig
from pipeline_lib.evaluation.suites.cached import CachedEncoder
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.export.card import CardFacts, model_folder, write_card
from pipeline_lib.export.export import export
from pipeline_lib.index.index import build_index
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

CONFIG = IndexConfig(rows_per_slice=64)


class CountingEncoder(CheckpointEncoder):
    """The real model; it notes which texts it is given."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], *args: Any) -> np.ndarray:
        self.asked += texts
        return super().encode(texts, *args)


def corpus(store: Store, documents: Sequence[str]) -> Artifact:
    """Curated pairs in this order, one function a document."""
    rows = [_pair(f"what {name} does", f"def {name}():\n    return {name!r}", at) for at, name in enumerate(documents)]

    def write(folder: Path) -> None:
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), folder / "pairs.parquet")

    return write_artifact(
        store, "curate", ["train"], lambda folder, _: write(folder), Trained(config={"documents": len(documents)})
    )


def _pair(x: str, y: str, position: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(("document_id", "source", "group", "path", "name"), y.split("(", maxsplit=1)[0]),
        **{"id": row_id(x, y), "kind": "code", "view": "docstring", "x": x, "y": y, "x_hash": text_hash(x)},
        **{"y_hash": text_hash(y), "line": 1, "position": position, "language": "python", "licence": None, "generation": 0},
    }


def index(checkpoint: Checkpoint, curated: Artifact, exported: Artifact) -> tuple[Artifact, list[str]]:
    """The index, and the texts that were embedded for it."""
    encoder = CountingEncoder(checkpoint)
    store = Store(exported.root)
    return build_index(store, exported, curated, CONFIG, encoder), encoder.asked


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Checkpoint, Artifact]:
    store = Store(tmp_path / "home")
    checkpoint = tiny_checkpoint(store)
    return store, checkpoint, export(store, checkpoint, ExportConfig())


DOCUMENTS = [f"does_{n}" for n in range(300)]


def test_one_new_document_early_in_the_order_embeds_one_text(made: tuple[Store, Checkpoint, Artifact]) -> None:
    store, checkpoint, exported = made
    _, asked = index(checkpoint, corpus(store, DOCUMENTS), exported)
    assert len(asked) == 300
    grown, asked = index(checkpoint, corpus(store, ["newcomer", *DOCUMENTS]), exported)
    assert asked == ["def newcomer():\n    return 'newcomer'"]
    encoder = CheckpointEncoder(checkpoint)
    found = faiss.read_index(str(grown.part_folder() / "index.faiss")).reconstruct_n(0, 301)
    texts = [f"def {name}():\n    return {name!r}" for name in ["newcomer", *DOCUMENTS]]
    assert np.abs(found - encoder.encode(texts, "y")).max() < 1e-6, "each row at the vector of its text"


def test_a_generation_with_one_in_a_hundred_new_embeds_those(made: tuple[Store, Checkpoint, Artifact]) -> None:
    store, checkpoint, exported = made
    index(checkpoint, corpus(store, DOCUMENTS), exported)
    new = {50: "a_new", 150: "b_new", 250: "c_new"}
    grown = [name for n, old in enumerate(DOCUMENTS) for name in ([new[n], old] if n in new else [old])]
    _, asked = index(checkpoint, corpus(store, grown), exported)
    assert sorted(text.split("(")[0] for text in asked) == [f"def {name}" for name in new.values()]
    assert len(list((store.root / "vectors" / "parts").glob("*.json"))) == 300 // 64 + 1 + 1, "one part for all that is new"


def test_the_index_evaluations_and_mining_share_vectors(made: tuple[Store, Checkpoint, Artifact]) -> None:
    store, checkpoint, exported = made
    index(checkpoint, corpus(store, DOCUMENTS), exported)
    cached = CachedEncoder(CheckpointEncoder(checkpoint), store)
    cached.encode([f"def {name}():\n    return {name!r}" for name in reversed(DOCUMENTS)], "y")
    assert cached.computed == 0
    cached.encode(["def does_0():\n    return 'does_0'"], "x")
    assert cached.computed == 1, "a query is another vector"


def test_another_card_exports_and_embeds_nothing(made: tuple[Store, Checkpoint, Artifact]) -> None:
    store, checkpoint, exported = made
    curated = corpus(store, DOCUMENTS)
    first, _ = index(checkpoint, curated, exported)
    for command in ("cpt run --preset demo", "cpt run --preset demo --scheduler tcp://10.0.0.1:8786 --download"):
        card = write_card(store, exported, checkpoint, CardFacts(title=command.upper(), command=command))
        folder = model_folder(exported, card)
        assert command in (folder / "README.md").read_text() and (folder / "encoder" / "model.safetensors").is_file()
        again = export(store, checkpoint, ExportConfig())
        assert again.digest == exported.digest and again.manifest.key == exported.manifest.key
        indexed, asked = index(checkpoint, curated, again)
        assert indexed.digest == first.digest and not asked
    assert len(store.artifacts("card")) == 2 and len(store.artifacts("export")) == 1


def test_another_path_and_a_run_that_came_to_the_same_weights_embed_nothing(
    made: tuple[Store, Checkpoint, Artifact], tmp_path: Path
) -> None:
    store, checkpoint, exported = made
    index(checkpoint, corpus(store, DOCUMENTS), exported)
    moved = Store(shutil.copytree(store.root, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("locks")))
    weights = moved.root / checkpoint.trained.part_folder(LABEL).relative_to(store.root)

    def write(folder: Path) -> None:
        shutil.copytree(weights, folder, dirs_exist_ok=True)
        (folder / "state.json").write_text('{"seconds": 2}')

    rerun = write_artifact(
        moved,
        "train",
        [LABEL],
        lambda folder, _: write(folder),
        Trained(config={"steps": 3, "batch_size": 8, "learning_rate": 0.001}),
    )
    tokenizer = moved.open("tokenizer", checkpoint.tokenizer.manifest.key)
    same = replace(checkpoint, trained=rerun, tokenizer=tokenizer)
    assert rerun.digest != checkpoint.trained.digest
    again = export(moved, same, ExportConfig())
    assert again.digest == exported.digest
    _, asked = index(same, corpus(moved, ["newcomer", *DOCUMENTS]), again)
    assert asked == ["def newcomer():\n    return 'newcomer'"]
    longer = replace(same, shards=same.shards.model_copy(update={"max_y_tokens": 31}))
    _, asked = index(longer, corpus(moved, DOCUMENTS), export(moved, longer, ExportConfig()))
    assert len(asked) == 300, "other lengths are other vectors"


def test_vectors_of_another_precision_have_a_place_and_an_index_of_their_own(made: tuple[Store, Checkpoint, Artifact]) -> None:
    store, checkpoint, exported = made
    curated = corpus(store, DOCUMENTS[:20])
    in_float32, in_bfloat16 = (CheckpointEncoder(checkpoint, precision=name) for name in ("float32", "bfloat16"))
    assert CheckpointEncoder(checkpoint).precision == "float32", "auto, of a model that is too small to gain"
    first = build_index(store, exported, curated, IndexConfig(), in_float32)
    second = build_index(store, exported, curated, IndexConfig(), in_bfloat16)
    assert first.manifest.config == {"factory": "Flat"}, "as it was named before there was a choice"
    assert second.manifest.config == {"factory": "Flat", "precision": "bfloat16"}
    vectors = [faiss.read_index(str(made.part_folder() / "index.faiss")).reconstruct_n(0, 20) for made in (first, second)]
    gap = np.abs(vectors[0] - vectors[1]).max()
    assert 1e-5 < gap < 5e-2, f"near to each other, and not the same: {gap}"
    assert build_index(store, exported, curated, IndexConfig(precision="float32"), in_float32).digest == first.digest
    for encoder in (in_float32, in_bfloat16):
        cached = CachedEncoder(encoder, store)
        cached.encode(["def does_0():\n    return 'does_0'"], "y")
        assert cached.computed == 0, encoder.precision
