"""An export of fewer dimensions: the first ones, of length 1 again, in every library and in the index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import TEXTS, tiny_checkpoint
from sentence_transformer_folders import write_sentence_transformer

from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.evaluation.suites.variants import TruncatedModel
from pipeline_lib.export.card import CardFacts, model_card
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.given import truncated_head
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

DIM = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Checkpoint]:
    store = Store(tmp_path_factory.mktemp("home"))
    return store, tiny_checkpoint(store)


@pytest.fixture(scope="module")
def exported(checkpoint: tuple[Store, Checkpoint]) -> Artifact:
    return export(*checkpoint, ExportConfig(truncate_dim=DIM))


@pytest.fixture(scope="module")
def expected(checkpoint: tuple[Store, Checkpoint]) -> dict[str, np.ndarray]:
    """The whole vectors' first dimensions, by numpy."""
    whole = CheckpointEncoder(checkpoint[1], precision="float32")
    cut = {name: whole.encode(TEXTS, side)[:, :DIM] for name, side in (("query", "x"), ("document", "y"))}
    return {name: vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for name, vectors in cut.items()}


@pytest.mark.slow
def test_our_loaders_give_the_first_dimensions(exported: Artifact, expected: dict[str, np.ndarray]) -> None:
    folder = exported.part_folder()
    by_torch, by_onnx = ExportedModel(folder), OnnxEncoder(folder)
    assert (by_torch.width, by_onnx.dim, exported.manifest.facts["dim"]) == (DIM, DIM, DIM)
    assert exported.manifest.facts["whole_dim"] == 32
    for side, name in (("x", "query"), ("y", "document")):
        assert by_torch.embed(TEXTS, side) == pytest.approx(expected[name], abs=1e-5)
        assert by_onnx.embed(TEXTS, name) == pytest.approx(expected[name], abs=1e-4)


@pytest.mark.slow
def test_sentence_transformers_gives_them_and_fewer(
    checkpoint: tuple[Store, Checkpoint], exported: Artifact, expected: dict[str, np.ndarray]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(exported.part_folder()), device="cpu", local_files_only=True)
    assert model.get_embedding_dimension() == DIM == model.truncate_dim
    assert model.encode_query(TEXTS) == pytest.approx(expected["query"], abs=1e-5)
    assert model.encode_document(TEXTS) == pytest.approx(expected["document"], abs=1e-5)
    whole = export(*checkpoint, ExportConfig(onnx=False)).part_folder()
    cut = library.SentenceTransformer(str(whole), device="cpu", local_files_only=True, truncate_dim=DIM)
    assert cut.encode_document(TEXTS, normalize_embeddings=True) == pytest.approx(expected["document"], abs=1e-5)


def test_an_evaluation_cuts_as_the_export_does(checkpoint: tuple[Store, Checkpoint], expected: dict[str, np.ndarray]) -> None:
    whole = CheckpointEncoder(checkpoint[1], precision="float32")
    model = TruncatedModel(whole, DIM)
    assert model.encode(TEXTS, "y") == pytest.approx(expected["document"], abs=1e-6)
    assert model.id.name == f"{whole.id.name}@{DIM}"
    assert model.id.fingerprint not in (whole.id.fingerprint, TruncatedModel(whole, DIM + 1).id.fingerprint)
    assert model.id.step == -1, "it is no point of a run's curve"
    with pytest.raises(UserError, match="33 dimensions of a vector that has 32"):
        TruncatedModel(whole, 33).encode(TEXTS, "y")


def test_more_dimensions_than_there_are_are_refused(checkpoint: tuple[Store, Checkpoint]) -> None:
    with pytest.raises(UserError, match=r"export.truncate_dim: 33 dimensions of a vector that has 32"):
        export(*checkpoint, ExportConfig(truncate_dim=33, onnx=False))


@pytest.mark.slow
def test_the_cards_recipe_cuts_too(exported: Artifact, expected: dict[str, np.ndarray]) -> None:
    folder, facts = exported.part_folder(), exported.manifest.parts[0].facts
    figures = {**facts, "label": "step", "max_x_tokens": 20, "max_y_tokens": 32, "training": {}, "lineage": {}}
    card = model_card(CardFacts(), figures)
    assert "12, the first of 32" in card
    recipe = card.split("With transformers alone:")[1].split("```python\n")[1].split("```")[0]
    said: dict[str, torch.Tensor] = {}
    exec(recipe.replace("path/to/this/folder", str(folder)).replace('["parse an ISO 8601 date", ""]', repr(TEXTS)), said)
    assert said["vectors"].numpy() == pytest.approx(expected["query"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert-mean", "t5-dense"])
def test_a_start_with_modules_of_its_own_is_cut_behind_them(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = write_sentence_transformer(tmp_path / "start", kind)
    encoder = Encoder.load(folder)
    assert encoder.head is not None
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = theirs.encode(["red cats", "a date"], truncate_dim=5, normalize_embeddings=True)
    encoder.head = truncated_head(encoder.head, 5)
    encoder.head.save(folder)
    again = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert again.encode(["red cats", "a date"], normalize_embeddings=True) == pytest.approx(expected, abs=1e-5)
    assert Encoder.load(folder).width == 5
    assert json.loads((folder / "modules.json").read_text())[-1]["type"].endswith(("Dense", "Normalize"))
