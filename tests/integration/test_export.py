"""The exported folder gives the encoder's own vectors in every library that loads it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_models import (
    LABEL,
    SHARDS,
    TEXTS,
    code_blocks,
    run_sentence_transformers,
    tiny_checkpoint,
    vectors_of,
)

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.export.card import CardFacts, Cost, Metric, model_folder, with_measured_cost, write_card
from pipeline_lib.export.export import SIDES, export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.export.onnx import pad, run_onnx, write_onnx
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return tiny_checkpoint(store)


@pytest.fixture(scope="module")
def exported(store: Store, checkpoint: Checkpoint) -> Artifact:
    return export(store, checkpoint, ExportConfig())


@pytest.fixture(scope="module")
def card(store: Store, checkpoint: Checkpoint, exported: Artifact) -> Artifact:
    facts = CardFacts(
        counts={"code pairs": 48_123},
        licences={"MIT": 30_000} | {f"licence {n:02}": 900 - n for n in range(21)},
        metrics=(
            Metric(task="code_search_1k", metric="MRR", value=0.61, low=0.6, high=0.62, n=3000, baselines={"bm25": 0.57}),
        ),
        notes=("Measured on documents.",),
        bias=(Metric(task="bias-coreference", metric="effect_size", value=-0.28, low=-0.69, high=0.11, n=24),),
        licence="numpy: BSD-3-Clause",
        decontamination="pairs that hold a text of these were dropped: sts-b (10 texts, 1 found, 2 pairs dropped).",
        command="cpt run --preset demo --steps 3",
    )
    return write_card(store, exported, checkpoint, facts)


@pytest.fixture(scope="module")
def folder(exported: Artifact, card: Artifact) -> Path:
    """The model and its card, as a run's report names them."""
    return model_folder(exported, card)


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return vectors_of(checkpoint)


@pytest.fixture(scope="module")
def by_sentence_transformers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_sentence_transformers(folder, tmp_path_factory.mktemp("elsewhere"))


def test_sentence_transformers_gives_the_encoders_vectors(
    by_sentence_transformers: dict[str, Any], expected: dict[str, np.ndarray]
) -> None:
    for name in SIDES:
        np.testing.assert_allclose(by_sentence_transformers[name], expected[name], atol=1e-5)
    np.testing.assert_allclose(by_sentence_transformers["plain"], expected["query"], atol=1e-5)
    gap = np.abs(expected["query"] - expected["document"]).max()
    assert gap > 0.01, "the two sides' delimiters make no difference, so that this test would not see them swapped"


def test_a_mean_that_weighs_tokens_is_the_same_in_every_library(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    checkpoint = tiny_checkpoint(store, pooling="idf_mean")
    exported = export(store, checkpoint, ExportConfig())
    assert exported.manifest.facts["onnx"], exported.manifest.facts.get("no_onnx")
    folder = model_folder(exported, write_card(store, exported, checkpoint, CardFacts()))
    expected = vectors_of(checkpoint)
    theirs = run_sentence_transformers(folder, tmp_path)
    for name, side in SIDES.items():
        np.testing.assert_allclose(theirs[name], expected[name], atol=1e-5)
        np.testing.assert_allclose(ExportedModel(folder).embed(TEXTS, side), expected[name], atol=1e-5)
        np.testing.assert_allclose(OnnxEncoder(folder).embed(TEXTS, name), expected[name], atol=1e-4)
    np.testing.assert_allclose(theirs["recipe"][1], expected["query"][TEXTS.index("")], atol=1e-5)
    plain = vectors_of(tiny_checkpoint(Store(tmp_path / "plain"), pooling="mean"))
    assert np.abs(plain["query"] - expected["query"]).max() > 0.01, "the weights make no difference"
    path = folder / "encoder" / "token_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\x41")  # of the last id, which none of the self-test's texts has
    with pytest.raises(CorruptArtifact, match="sha256"):
        ExportedModel(folder)


def test_weights_are_loaded_once(by_sentence_transformers: dict[str, Any], exported: Artifact) -> None:
    ours = exported.manifest.facts["parameters"]
    tiny = by_sentence_transformers["parameters"] - ours
    vocab_size = json.loads((exported.part_folder() / "encoder" / "config.json").read_text())["vocab_size"]
    assert tiny == 2 * vocab_size + SHARDS.max_x_tokens + SHARDS.max_y_tokens + 2 * 2
    assert by_sentence_transformers["width"] == 32


def test_auto_model_and_auto_tokenizer_load_the_subfolders(folder: Path, expected: dict[str, np.ndarray]) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder / "encoder", local_files_only=True).eval()
    for name in SIDES:
        tokenizer = AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
        batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        last = batch["attention_mask"].sum(1) - 1
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        vectors = torch.nn.functional.normalize(states[torch.arange(len(last)), last], dim=-1)
        np.testing.assert_allclose(vectors.numpy(), expected[name], atol=1e-5)


def test_the_cards_code_runs_in_a_fresh_process(
    by_sentence_transformers: dict[str, Any], expected: dict[str, np.ndarray], folder: Path
) -> None:
    """All of its Python blocks ran with the vectors; the recipe without our library is of ten lines."""
    recipe = next(block for block in code_blocks(folder) if "AutoModel" in block)
    assert len(recipe.split("\n")) <= 12 and "cpt" not in recipe.replace("path/to/this/folder", "")
    np.testing.assert_allclose(by_sentence_transformers["recipe"][1], expected["query"][TEXTS.index("")], atol=1e-5)


def test_both_tokenizers_give_our_ids_and_only_they_give_delimiters(folder: Path, checkpoint: Checkpoint) -> None:
    from transformers import AutoTokenizer

    ours = PairTokenizer.load(checkpoint.tokenizer.part_folder())
    reserved = {ours.x_open, ours.x_close, ours.y_open, ours.y_close, ours.pad}
    onnx_encoder = OnnxEncoder(folder)
    for name, side in SIDES.items():
        expected_ids = ours.encode(TEXTS, side, checkpoint.max_tokens(side))
        theirs = AutoTokenizer.from_pretrained(folder / name)(TEXTS, truncation=True)["input_ids"]
        assert theirs == expected_ids
        assert onnx_encoder.token_ids(TEXTS, name) == expected_ids
        assert all(not reserved & set(ids[1:-1]) for ids in theirs)
        assert {ids[-1] for ids in theirs} == {ours.delimiters.of(side)[1][-1]}
        assert max(map(len, theirs)) == checkpoint.max_tokens(side)


def test_onnx_agrees_with_the_encoder_at_every_length(folder: Path, checkpoint: Checkpoint) -> None:
    encoder = Encoder.load(checkpoint.trained.part_folder(LABEL))
    random = np.random.default_rng(0)
    vocab_size = encoder.backbone.config.vocab_size
    for lengths in ([1], [2], [32], list(range(1, 33)), [32, 1, 17], [5] * 9):
        ids = [random.integers(0, vocab_size, n).tolist() for n in lengths]
        ids_BL, lengths_B = map(torch.from_numpy, pad(ids))
        with torch.no_grad():
            expected_BD = encoder(ids_BL, lengths_B).numpy()
        np.testing.assert_allclose(run_onnx(folder / "model.onnx", ids), expected_BD, atol=1e-5)


def test_the_graph_tells_nothing_of_the_exporter(folder: Path) -> None:
    """Its source lines and versions would change the bytes of a model whose weights did not change."""
    graph = onnx.load(folder / "model.onnx")
    assert (graph.producer_name, graph.producer_version) == ("cpt-factory", "")
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert b"stack_trace" not in (folder / "model.onnx").read_bytes()


def test_the_torch_free_encoder_agrees(folder: Path, expected: dict[str, np.ndarray]) -> None:
    encoder = OnnxEncoder(folder)
    for name in SIDES:
        np.testing.assert_allclose(encoder.embed(TEXTS, name, batch_tokens=64), expected[name], atol=1e-5)


def test_another_architecture_goes_through_the_exporter(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(vocab_size=90, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    encoder = Encoder(LlamaModel(config)).eval()
    write_onnx(encoder.backbone, tmp_path / "model.onnx")
    for lengths in ([1], [4, 9, 2], [20] * 3):
        ids = [np.random.default_rng(n).integers(0, 90, n).tolist() for n in lengths]
        with torch.no_grad():
            expected_BD = encoder(*map(torch.from_numpy, pad(ids))).numpy()
        np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", ids), expected_BD, atol=1e-4)


def test_the_same_bytes_each_time_and_nothing_of_the_place(
    exported: Artifact, card: Artifact, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    store, facts = Store(tmp_path), CardFacts.model_validate(card.manifest.config["facts"])
    again = export(store, checkpoint, ExportConfig())
    another_card = write_card(store, again, checkpoint, facts)
    assert (again.digest, another_card.digest) == (exported.digest, card.digest)
    for path in model_folder(again, another_card).rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_no_sentence_of_a_card_names_the_model_and_no_card_tells_of_anothers_run(
    store: Store, checkpoint: Checkpoint, exported: Artifact, card: Artifact, folder: Path
) -> None:
    before = exported.digest, sorted(path.name for path in exported.part_folder().iterdir())
    other = write_card(
        store, exported, checkpoint, CardFacts(data="The folder other.", command="cpt run --preset demo --steps 4")
    )
    theirs = model_folder(exported, other)
    assert other.manifest.key != card.manifest.key and theirs != folder
    assert "--steps 4" in (theirs / "README.md").read_text() and "--steps 3" in (folder / "README.md").read_text()
    assert (exported.digest, sorted(path.name for path in exported.part_folder().iterdir())) == before
    assert "card" not in exported.manifest.config and not (exported.part_folder() / "README.md").exists()
    for file in exported.manifest.parts[0].files:
        assert (theirs / file.name).samefile(folder / file.name), "linked, not copied"
    weights = theirs / "encoder" / "model.safetensors"
    weights.unlink()
    assert model_folder(exported, other) == theirs and weights.is_file(), "what is gone is linked again"


def test_other_lengths_are_another_export(store: Store, checkpoint: Checkpoint, exported: Artifact) -> None:
    other = Checkpoint(checkpoint.trained, LABEL, checkpoint.tokenizer, ShardConfig(max_x_tokens=10, max_y_tokens=32))
    plain = export(store, other, ExportConfig(onnx=False))
    assert plain.manifest.key != exported.manifest.key
    assert not (plain.part_folder() / "model.onnx").exists()
    assert json.loads((plain.part_folder() / "query" / "tokenizer_config.json").read_text())["model_max_length"] == 10


def test_wrong_use_is_answered_in_one_line(store: Store, checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="no part 'step-9'; there are: step-000002"):
        export(store, Checkpoint(checkpoint.trained, "step-9", checkpoint.tokenizer, SHARDS), ExportConfig())
    longer = Checkpoint(checkpoint.trained, LABEL, checkpoint.tokenizer, ShardConfig(max_y_tokens=500))
    with pytest.raises(UserError, match="32 positions, but texts of 500 tokens"):
        export(store, longer, ExportConfig())


def test_the_card_says_figures_data_and_lineage(folder: Path, checkpoint: Checkpoint) -> None:
    card = (folder / "README.md").read_text()
    for words in (
        "## Evaluation\n\nMeasured on documents.\n\n| task",
        "| code_search_1k | MRR | 0.610 | 0.600 to 0.620 | 3,000 | 0.570 |",
        "48,123",
        checkpoint.trained.digest,
        checkpoint.tokenizer.digest,
        f"| weights | `{sha256_file(folder / 'encoder' / 'model.safetensors')}` |",
        """| config | `{"batch_size": 8, "learning_rate": 0.001, "steps": 2}` |""",
        "16 pairs in 2 steps were seen",
        "| bias-coreference | effect_size | -0.280 | -0.690 to 0.110 | 24 |",
        "numpy: BSD-3-Clause",
        "| MIT | 30,000 |\n| licence 00 | 900 |",
        "| licence 18 | 882 |\n| 2 others | 1,761 |",
        "sts-b (10 texts, 1 found, 2 pairs dropped)",
        "## Intended use and limits",
        "cpt run --preset demo --steps 3",
        "`model_card.md` beside the run's report",
    ):
        assert words in card, words
    measured = with_measured_cost(card, Cost(cpu_seconds=7200, training_cpu_seconds=3600, gpu_seconds=0))
    assert "2 CPU-hours (1 of them training) and 0 GPU-hours: about 0.02 kWh" in measured
    assert "beside the run's report" not in measured and "started" not in measured
    assert "started 3 times" in with_measured_cost(card, Cost(7200, 3600, 0, attempts=3))
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")


IN_ANOTHER = """
import socket, sys
from pathlib import Path
import numpy as np, torch
from pipeline_lib.export.exported import ExportedModel
folder, out, threads = sys.argv[1:]
socket.socket.connect = None
torch.set_num_threads(int(threads))
texts = np.load(out + ".texts.npy").tolist()
model = ExportedModel(Path(folder))
np.savez(out, query=model.embed(texts, "x"), document=model.embed(texts, "y"))
"""


def test_a_fresh_process_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """Row A02: exported, copied elsewhere, loaded by our own loader without network."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    out = tmp_path / "vectors.npz"
    np.save(f"{out}.texts.npy", TEXTS)
    subprocess.run([sys.executable, "-c", IN_ANOTHER, copy, out, str(torch.get_num_threads())], check=True)
    here = ExportedModel(folder)
    with np.load(out) as there:
        np.testing.assert_array_equal(there["query"], here.embed(TEXTS, "x"))
        np.testing.assert_array_equal(there["document"], here.embed(TEXTS, "y"))


def test_our_loader_gives_the_encoders_vectors(folder: Path, expected: dict[str, np.ndarray]) -> None:
    model = ExportedModel(folder)
    for name, side in SIDES.items():
        np.testing.assert_allclose(model.embed(TEXTS, side), expected[name], atol=1e-5)


def swap_sides(folder: Path) -> None:
    (folder / "query").rename(folder / "q")
    (folder / "document").rename(folder / "query")
    (folder / "q").rename(folder / "document")


def change_weights(folder: Path) -> None:
    path = folder / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")


def change_config(folder: Path) -> None:
    path = folder / "encoder" / "config.json"
    path.write_text(path.read_text().replace('"n_head": 2', '"n_head": 4'))


def change_record(folder: Path) -> None:
    path = folder / "self_test.json"
    record = json.loads(path.read_text())
    record["sides"]["document"]["vectors"][2][31] += 0.001
    path.write_text(json.dumps(record))


def remove_record(folder: Path) -> None:
    (folder / "self_test.json").unlink()


@pytest.mark.parametrize("damage", [swap_sides, change_weights, change_config, change_record, remove_record])
def test_a_changed_export_is_refused_on_load(folder: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(CorruptArtifact):
        ExportedModel(copy)
    if damage not in (change_weights, change_config):  # which onnxruntime does not read
        with pytest.raises(CorruptArtifact):
            OnnxEncoder(copy)


@pytest.mark.parametrize("side", ["query", "document"])
def test_padding_on_the_left_changes_nothing(folder: Path, expected: dict[str, np.ndarray], side: str) -> None:
    """Row C06, through the ecosystem's classes: the closing delimiter then stands at the end of every row."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / side, padding_side="left")
    model = AutoModel.from_pretrained(folder / "encoder", local_files_only=True).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(model(**batch, position_ids=places).last_hidden_state[:, -1], dim=-1)
    np.testing.assert_allclose(vectors.numpy(), expected[side], atol=1e-5)
