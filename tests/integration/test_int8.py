"""Queries by 8-bit weights: near to the model's own, verified before they answer, and told in card and report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import pair_row, write_pairs
from exported_models import TEXTS, Exported, tiny_checkpoint
from pydantic import ValidationError
from search_homes import ask

from pipeline_lib.config.run import ExportConfig, IndexConfig, RunConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.export import quantized
from pipeline_lib.export.card import CardFacts, write_card
from pipeline_lib.export.export import ExportKey, export
from pipeline_lib.export.int8_loss import SPEED_ELSEWHERE
from pipeline_lib.index.index import build_index
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate, as_pair, in_use, promote
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.server import Service
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.int8 import int8_loss, int8_told

INT8 = ExportConfig(quantize="int8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return tiny_checkpoint(store)


@pytest.fixture(scope="module")
def exported(store: Store, checkpoint: Checkpoint) -> Artifact:
    """With its table of embeddings in 8 bits too, small as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "LEAST_TABLE_VALUES", 1000)
        return export(store, checkpoint, INT8)


@pytest.fixture(scope="module")
def curated(store: Store) -> Artifact:
    """A validation split of 120 functions and 120 passages in 12 documents."""
    rows = []
    for i in range(120):
        where = {
            "document_id": f"{i % 12:032}",
            "group": f"group{i % 12}",
            "position": i // 12,
            "path": f"package/f{i % 12}.py",
        }
        rows.append(pair_row(f"open socket number {i} of the queue", f"def open_{i}(x):\n    return x + {i}", **where))
        rows.append(pair_row(f"Chapter {i} of apples and trees.", f"Chapter {i + 1} of pears and dates.", "text", **where))
    return write_pairs(store, "curate", {"validation": rows, "train": rows[:2], "test": rows[:2]})


def test_the_choice_leaves_earlier_keys_as_they_are() -> None:
    key = ExportKey(export=ExportConfig(), label="step-000002", max_x_tokens=20, max_y_tokens=32)
    assert key.key_fields()["export"] == {"onnx": True}
    assert ExportKey(export=INT8, label="", max_x_tokens=20, max_y_tokens=32).key_fields()["export"]["quantize"] == "int8"
    with pytest.raises(ValidationError, match=r"needs export\.onnx"):
        ExportConfig(onnx=False, quantize="int8")


def test_weights_of_8_bits_give_nearly_the_same_vectors(exported: Artifact) -> None:
    folder, told = exported.part_folder(), exported.manifest.facts["int8"]
    graph = onnx.load(str(folder / "model.int8.onnx"))
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert kinds["backbone.wte.weight_int8"] == onnx.TensorProto.INT8 and "backbone.wte.weight" not in kinds
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {node.op_type for node in graph.graph.node}
    assert told["bytes"] == (folder / "model.int8.onnx").stat().st_size < told["float_bytes"]
    own, int8 = OnnxEncoder(folder), OnnxEncoder(folder, int8=True)
    for side in ("query", "document"):
        cosines_N = (own.embed(TEXTS, side) * int8.embed(TEXTS, side)).sum(axis=1)
        assert 0.9 < cosines_N.min() < 0.999999, cosines_N
        assert 0.9 < told["least_cosine"][side] <= 1


def test_a_vector_does_not_depend_on_its_neighbours(exported: Artifact) -> None:
    int8 = OnnxEncoder(exported.part_folder(), sides=("query",), int8=True)
    alone = np.concatenate([int8.embed([text], "query") for text in TEXTS])
    assert np.array_equal(int8.embed(TEXTS, "query"), alone)


def test_the_same_weights_give_the_same_bytes(exported: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "LEAST_TABLE_VALUES", 1000)
    quantized.write_int8(exported.part_folder() / "model.onnx", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (exported.part_folder() / "model.int8.onnx").read_bytes()


def test_a_search_uses_them_where_it_is_told_to(
    store: Store, checkpoint: Checkpoint, exported: Artifact, curated: Artifact
) -> None:
    pair = as_pair(Candidate(exported, build_index(store, exported, curated, IndexConfig(), Exported(exported))))
    own, int8 = Searcher(pair), Searcher(pair, int8=True)
    query = "open a socket"
    assert not np.array_equal(own.encoder.embed([query], "query"), int8.encoder.embed([query], "query"))
    mine, theirs = ({hit.id for hit in searcher.search(query, k=20)} for searcher in (own, int8))
    assert len(mine & theirs) >= 15
    assert int8.embed_documents(["def f(x):\n    return x"]).shape == (1, 32), "the other side is tested by its own cosine"
    plain = export(store, checkpoint, ExportConfig())
    without = as_pair(Candidate(plain, build_index(store, plain, curated, IndexConfig(), Exported(plain))))
    with pytest.raises(UserError, match=r"export\.quantize=int8"):
        Searcher(without, int8=True)


def test_a_service_embeds_by_them_where_it_is_told_to(
    store: Store, checkpoint: Checkpoint, exported: Artifact, curated: Artifact
) -> None:
    plain = export(store, checkpoint, ExportConfig())
    for name, model in (("with", exported), ("without", plain)):
        promote(store.root, name, Candidate(model, build_index(store, model, curated, IndexConfig(), Exported(model))))
    with pytest.raises(UserError, match=r"publish it with --set export\.quantize=int8, or leave --int8 out"):
        Service(ServeConfig(port=0, name="without", int8=True), store.root)
    expected = OnnxEncoder(exported.part_folder(), int8=True)
    service = Service(ServeConfig(port=0, name="with", int8=True), store.root)
    with service.in_thread():
        for side in ("document", "query"):
            asked = {"input": TEXTS[0], "input_type": side, "encoding_format": "float"}
            _, _, body = ask(service, "/v1/embeddings", asked)
            assert json.loads(body)["data"][0]["embedding"] == pytest.approx(
                expected.embed(TEXTS[:1], side)[0].tolist(), abs=1e-6
            )
        hits = Searcher(in_use(store.root, "with"), int8=True).search("open a socket", k=5)
        found = json.loads(ask(service, "/search?q=open+a+socket&k=5")[2])["hits"]
        assert [(hit["id"], hit["score"]) for hit in found] == [(hit.id, hit.score) for hit in hits]
        status, _, body = ask(service, "/v1/embeddings", {"input": "x", "model": "without"})
        assert status == 400 and "export.quantize=int8" in body.decode() and str(store.root) not in body.decode()
        assert ask(service, "/v1/embeddings", {"input": "x", "model": "none"})[0] == 404


def test_another_graph_is_refused(exported: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported.part_folder(), folder)
    graph = onnx.load(str(folder / "model.int8.onnx"))
    (table,) = (tensor for tensor in graph.graph.initializer if tensor.name == "backbone.wte.weight_int8")
    values = onnx.numpy_helper.to_array(table)
    table.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 7, axis=0), table.name))
    (folder / "model.int8.onnx").write_bytes(graph.SerializeToString())
    OnnxEncoder(folder, sides=("query",))
    with pytest.raises(CorruptArtifact, match="not the graph that was exported"):
        OnnxEncoder(folder, sides=("query",), int8=True)


def test_card_and_report_say_what_is_lost(store: Store, checkpoint: Checkpoint, exported: Artifact, curated: Artifact) -> None:
    config = RunConfig(name="int8")
    loss = int8_loss(store, exported, curated, checkpoint, config)
    assert loss.queries == 240 and 0.9 < loss.least_cosine <= loss.cosine < 1
    assert {figure.task.rpartition("_")[0] for figure in loss.figures} >= {"code_search", "text_search"}
    for figure in loss.figures:
        assert (
            figure.low <= round(figure.int8 - figure.float32, 3) + 1e-3 and figure.high >= figure.int8 - figure.float32 - 1e-3
        )
    card = write_card(store, exported, checkpoint, CardFacts(int8=loss))
    text = (card.part_folder() / "README.md").read_text()
    assert "## int8" in text and f"| {loss.figures[0].task} | {loss.figures[0].metric} |" in text and SPEED_ELSEWHERE in text
    told = int8_told({"export": exported, "card": card, "curate": curated}, config)
    assert told["milliseconds"].keys() == {"float32", "int8"} and min(told["milliseconds"].values()) > 0
    assert f"cosine {loss.cosine:.4f}" in told["sentence"] and "ms to embed" in told["sentence"]
    json.dumps(told)


def test_without_8_bit_weights_nothing_is_told(store: Store, checkpoint: Checkpoint) -> None:
    plain = export(store, checkpoint, ExportConfig())
    assert "int8" not in plain.manifest.facts and not (plain.part_folder() / "model.int8.onnx").exists()
    assert int8_told({"export": plain}, RunConfig(name="plain")) == {}
    assert "int8" not in (write_card(store, plain, checkpoint, CardFacts()).part_folder() / "README.md").read_text()
    assert CardFacts().key_fields() == {name: value for name, value in CardFacts().key_fields().items() if name != "int8"}
