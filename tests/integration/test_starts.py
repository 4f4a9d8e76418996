"""From the folder of any causal language model to search: tokenizer, shards, training, checkpoint, export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from causal_lms import FAMILIES, write_causal_lm
from exported_models import TEXTS
from gguf_files import write_gguf
from tokenizers import Tokenizer
from training_runs import tiny_config, write_curated, write_job
from transformers import AutoModel

from data_contracts.check_shards import check_shards, read_limits
from pipeline_lib.config.data import ContractConfig, ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.export.card import CardFacts, write_card
from pipeline_lib.export.export import SIDES, export
from pipeline_lib.export.exported import ExportedModel, TorchQueries
from pipeline_lib.model.checkpoint import Checkpoint, find_start, start_weights
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import adopt_tokenizer
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import TRAIN, Events, Job, part_key
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import Trainer

SHARDS = ShardConfig(max_x_tokens=20, max_y_tokens=32, splits=("train",))
BRACKETS = " a[0] ] {x} }"


def train_from(root: Path, family: str) -> tuple[Checkpoint, list[float]]:
    """Twelve contrastive steps from a tiny model of the family: the last checkpoint, and the losses."""
    return train(root, write_causal_lm(root / "lm", family), ModelConfig())


def train(root: Path, folder: Path, model: ModelConfig) -> tuple[Checkpoint, list[float]]:
    """Twelve contrastive steps from a folder."""
    store = Store(root / "store")
    tokenizer = adopt_tokenizer(store, folder)
    shards = write_shards(store, write_curated(store, suffix=BRACKETS), tokenizer, SHARDS)
    check_shards(store, shards, tokenizer, ContractConfig())
    job = write_job(store, TrainInputs(shards, tokenizer), tiny_config(learning_rate=3e-3, weight_average=0.0))
    job = Job.model_validate({**job.model_dump(), "start": str(folder), "start_digest": "0" * 64, "model": model})
    objective = ContrastiveObjective.build(job, shards, tokenizer, Ranks())
    trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
    losses = [trainer.take_step(step).loss for step in range(12)]
    scratch = store.scratch("train")
    objective.save(scratch)
    return Checkpoint(_artifact(store, scratch), "step-000012", tokenizer, SHARDS), losses


def _artifact(store: Store, scratch: Path) -> Artifact:
    def make(_: str) -> Outcome:
        key = part_key("tiny", "step-000012")
        return Outcome(parts=(store.commit_part(draft_part(TRAIN, key, "step-000012"), scratch),))

    return store.build(TRAIN, ExportConfig(), {}, make)


def oracle(folder: Path, ids: list[list[int]]) -> np.ndarray:
    """What transformers alone gives for each row by itself: the state at its last id."""
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        states = [model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


BY_SENTENCE_TRANSFORMERS = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.load(sys.stdin)
np.savez(sys.argv[2], query=model.encode_query(texts), document=model.encode_document(texts, batch_size=3))
"""


def vectors_by_sentence_transformers(folder: Path, out: Path) -> dict[str, np.ndarray]:
    script = [sys.executable, "-c", BY_SENTENCE_TRANSFORMERS, str(folder), str(out)]
    subprocess.run(script, input=json.dumps(TEXTS), text=True, check=True, capture_output=True)
    return dict(np.load(out))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_given_model_goes_to_search(tmp_path: Path, family: str) -> None:
    folder, expected = follow(tmp_path, family)
    assert (folder / "model.onnx").is_file() and set(expected) == set(SIDES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_given_model_goes_all_the_way(tmp_path: Path, family: str) -> None:
    folder, expected = follow(tmp_path, family)
    for name, vectors in vectors_by_sentence_transformers(folder, tmp_path / "st.npz").items():
        np.testing.assert_allclose(vectors, expected[name], atol=1e-4)


@pytest.mark.parametrize("bos", [False, True])
def test_a_gguf_file_goes_to_search_with_its_first_blocks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bos: bool
) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    write_gguf(tmp_path / "tiny.gguf", quantised=True, **{"tokenizer.ggml.add_bos_token": bos})
    start = Path(find_start(str(tmp_path / "tiny.gguf")))
    trained = train(tmp_path, start, ModelConfig(keep_layers=2))
    folder, expected = check_export(tmp_path, *trained)
    config = json.loads((folder / "encoder" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    weights = sum(weight.numel() for weight in AutoModel.from_pretrained(folder / "encoder").parameters())
    assert weights == start_weights(str(start), 2)
    tokenizer = PairTokenizer.load(trained[0].tokenizer.part_folder())
    assert tokenizer.delimiters.around == {"x": (1 + bos, 1), "y": (1 + bos, 1)}
    for name, side in SIDES.items():
        theirs = Tokenizer.from_file(str(folder / name / "tokenizer.json")).encode("anchor basket").ids
        assert theirs == tokenizer.encode(["anchor basket"], side, 20)[0] and (theirs[0] == 0) == bos
    if bos:  # the other kind is every other model's
        for name, vectors in vectors_by_sentence_transformers(folder, tmp_path / "st.npz").items():
            np.testing.assert_allclose(vectors, expected[name], atol=1e-4)


def follow(tmp_path: Path, family: str) -> tuple[Path, dict[str, np.ndarray]]:
    """Train and export; our loaders must agree with the oracle. The export, and the oracle's vectors by side."""
    return check_export(tmp_path, *train_from(tmp_path, family))


def check_export(tmp_path: Path, checkpoint: Checkpoint, losses: list[float]) -> tuple[Path, dict[str, np.ndarray]]:
    """As `follow`, of a checkpoint and the losses that led to it."""
    assert np.mean(losses[-3:]) < np.mean(losses[:3]), losses
    tokenizer = PairTokenizer.load(checkpoint.tokenizer.part_folder())
    exported = export(Store(tmp_path / "store"), checkpoint, ExportConfig())
    folder = exported.part_folder("model")
    assert "no_onnx" not in exported.manifest.facts, exported.manifest.facts
    plain, light = ExportedModel(folder), OnnxEncoder(folder)
    expected = {}
    for name, side in SIDES.items():
        ids = tokenizer.encode(TEXTS, side, checkpoint.max_tokens(side))
        prefix, suffix = tokenizer.delimiters.of(side)
        assert {(*row[: len(prefix)], *row[-len(suffix) :]) for row in ids} == {prefix + suffix}
        expected[name] = oracle(checkpoint.trained.part_folder(checkpoint.label), ids)
        np.testing.assert_allclose(plain.embed(TEXTS, side), expected[name], atol=1e-5)
        np.testing.assert_allclose(light.embed(TEXTS, name), expected[name], atol=1e-4)
    return folder, expected


@pytest.mark.parametrize("family", FAMILIES)
def test_its_tokenizer_lends_brackets_or_gets_new_ids_and_the_contract_knows(tmp_path: Path, family: str) -> None:
    folder = write_causal_lm(tmp_path / "lm", family)
    store = Store(tmp_path / "store")
    tokenizer = adopt_tokenizer(store, folder)
    pairs = PairTokenizer.load(tokenizer.part_folder())
    opened = [pairs.name_of(id_) for id_ in (pairs.x_open, pairs.x_close, pairs.y_open, pairs.y_close)]
    if family == "gpt_neox":
        assert opened == ["<x open>", "<x close>", "<y open>", "<y close>"] and len(pairs.reserved) == 5
    else:
        assert [name.strip("▁") for name in opened] == ["[", "]", "{", "}"] and pairs.reserved == ()
    for row in pairs.encode(TEXTS, "y", 16):
        prefix = [pairs.tokenizer.token_to_id("<s>"), pairs.y_open] if family in ("llama", "gpt_neox") else [pairs.y_open]
        assert len(row) <= 16 and (row[: len(prefix)], row[-1]) == (prefix, pairs.y_close)
        assert not set(pairs.reserved) & set(row[len(prefix) : -1])
    limits = read_limits(write_shards(store, write_curated(store, suffix=BRACKETS), tokenizer, SHARDS), tokenizer)
    assert (limits.reserved, limits.vocab_size) == (pairs.reserved, pairs.vocab_size)


def test_an_export_without_onnx_says_why_and_is_searched_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.export.onnx.MAX_BYTES", 10_000)
    checkpoint, _ = train_from(tmp_path, "llama")
    exported = export(Store(tmp_path / "store"), checkpoint, ExportConfig())
    folder = exported.part_folder("model")
    assert "at most 10,000 fit one file" in exported.manifest.facts["no_onnx"]
    card = (write_card(Store(tmp_path / "store"), exported, checkpoint, CardFacts()).part_folder() / "README.md").read_text()
    assert not (folder / "model.onnx").exists() and "There is no model.onnx" in card and "cpt search" not in card
    queries = TorchQueries(folder)
    assert queries.embed(["a query"], "query").shape == (1, queries.dim) == (1, 32)
