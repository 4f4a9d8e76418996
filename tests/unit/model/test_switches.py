"""What an ablation switches: pooling, delimiters, directions of the loss, a fixed temperature. B pairs, L tokens, D width."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from training_runs import tiny_config, write_inputs, write_job
from transformers import LlamaConfig, LlamaModel

from pipeline_lib.config.data import AdoptedTokenizerConfig, TokenizerConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.export.card import CardFacts, model_card
from pipeline_lib.export.onnx import run_onnx, write_onnx
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.pooling import save_token_weights
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.tokenizer import train_bpe
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks

VOCABULARY = SimpleNamespace(vocab_size=97, x_open=0, x_close=1, y_open=2, y_close=3, pad=4, appended=())
SIZES = ModelConfig(layers=2, width=32, heads=4, inner=64, positions=24, pooling="mean")


def random_encoder(architecture: str) -> Encoder:
    torch.manual_seed(0)
    if architecture == "gpt2":
        encoder = Encoder.build(SIZES, VOCABULARY, seed=1).eval()
    else:
        config = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
        encoder = Encoder(LlamaModel(config), "mean").eval()
    with torch.no_grad():
        for weight in encoder.backbone.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return encoder


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_mean_pooling_is_the_mean_everywhere_and_survives_saving(architecture: str, tmp_path: Path) -> None:
    encoder = random_encoder(architecture)
    rows = [np.random.default_rng(n).integers(5, 97, n).tolist() for n in (2, 9, 24)]
    ids_BL = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=4)
    lengths_B = torch.tensor(list(map(len, rows)))
    with torch.no_grad():
        plain = [encoder.backbone(torch.tensor([row])).last_hidden_state[0].mean(dim=0) for row in rows]
        expected_BD = normalize(torch.stack(plain), dim=1)
        torch.testing.assert_close(encoder(ids_BL, lengths_B), expected_BD, atol=1e-5, rtol=0)
        encoder.save(tmp_path)
        loaded = Encoder.load(tmp_path)
        torch.testing.assert_close(loaded(ids_BL, lengths_B), expected_BD, atol=1e-5, rtol=0)
    assert loaded.pooling == "mean" and loaded.fused
    write_onnx(loaded.backbone, tmp_path / "model.onnx")
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", rows), expected_BD, atol=1e-4)


def test_weights_of_tokens_are_kept_with_the_model(tmp_path: Path) -> None:
    sizes = SIZES.model_copy(update={"pooling": "idf_mean"})
    encoder = Encoder.build(sizes, VOCABULARY, seed=1).eval()
    assert encoder.lacks_token_weights
    encoder.token_weights_V = torch.linspace(0.1, 2.0, 97)
    encoder.save(tmp_path)
    ids_BL, lengths_B = torch.arange(5, 25).view(2, 10), torch.tensor([10, 4])
    for other in (Encoder.load(tmp_path), Encoder.build(sizes.model_copy(update={"init": str(tmp_path)}), VOCABULARY, seed=2)):
        assert not other.lacks_token_weights
        torch.testing.assert_close(other(ids_BL, lengths_B), encoder(ids_BL, lengths_B))
    assert Encoder.build(SIZES.model_copy(update={"init": str(tmp_path)}), VOCABULARY, seed=2).token_weights_V is None
    save_token_weights(tmp_path, torch.ones(96))
    with pytest.raises(CorruptArtifact, match="96 weights for 97 tokens"):
        Encoder.load(tmp_path)
    save_token_weights(tmp_path, torch.zeros(97))
    with pytest.raises(CorruptArtifact, match="above 0"):
        Encoder.load(tmp_path)
    (tmp_path / "token_weights.safetensors").write_bytes(b"{}")
    with pytest.raises(CorruptArtifact, match="no readable safetensors"):
        Encoder.load(tmp_path)
    (tmp_path / "token_weights.safetensors").unlink()
    with pytest.raises(CorruptArtifact, match=r"no token_weights\.safetensors, which its pooling needs"):
        Encoder.load(tmp_path)


def test_a_folder_of_mean_pooling_starts_a_run_of_last_token_pooling(tmp_path: Path) -> None:
    random_encoder("gpt2").save(tmp_path)
    assert Encoder.build(ModelConfig(init=str(tmp_path)), VOCABULARY, seed=1).pooling == "last"
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"cpt_pooling": "mean"', '"cpt_pooling": "max"'))
    with pytest.raises(UserError, match="'max', expected one of last, mean, idf_mean"):
        Encoder.load(tmp_path)


@pytest.mark.parametrize("tile", [1 << 24, 14])
def test_each_direction_is_torchs_cross_entropy(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.model.loss.TILE_LOGITS", tile)
    torch.manual_seed(0)
    x_BD, y_BD = (normalize(torch.randn(7, 5, dtype=torch.float64), dim=1).requires_grad_() for _ in "xy")
    log_scale = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    hashes = PairHashes(torch.arange(7), torch.arange(7, 14))
    leaves = [x_BD, y_BD, log_scale]
    logits_BB = x_BD @ y_BD.T * log_scale.exp()
    for directions, theirs_BB in (("x_to_y", logits_BB), ("y_to_x", logits_BB.T)):
        theirs = cross_entropy(theirs_BB, torch.arange(7))
        ours = contrastive_loss(x_BD, y_BD, log_scale, hashes, directions=directions)
        torch.testing.assert_close(ours, theirs)
        expected = torch.autograd.grad(theirs, leaves, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(ours, leaves), expected)
        halves = [contrastive_loss(x_BD, y_BD, log_scale, hashes, rows, directions) for rows in (slice(0, 3), slice(3, 7))]
        torch.testing.assert_close(sum(halves), theirs)


def test_a_fixed_temperature_stays_even_below_the_floor_and_directions_reach_the_loss(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path)
    losses = {}
    for directions in ("both", "x_to_y", "y_to_x"):
        config = tiny_config(temperature=0.005, train_temperature=False, directions=directions)
        job = write_job(store, inputs, config)
        objective = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
        losses[directions] = float(objective.gradients(0).loss)
        objective.after_step()
        assert objective.temperature() == pytest.approx(0.005) and objective.module.log_scale.grad is None
    assert losses["x_to_y"] != losses["y_to_x"]
    assert (losses["x_to_y"] + losses["y_to_x"]) / 2 == pytest.approx(losses["both"], rel=1e-5)


def test_shared_delimiters_wrap_both_sides_alike_and_are_saved(tmp_path: Path) -> None:
    shared = train_bpe(iter(["some words of text"] * 4), TokenizerConfig(vocab_size=300, delimiters="shared"))
    shared.save(tmp_path)
    loaded = PairTokenizer.load(tmp_path)
    assert loaded.encode(["some words"], "x", 16) == loaded.encode(["some words"], "y", 16)
    assert (loaded.y_open, loaded.y_close, loaded.pad) == (0, 1, 4)
    assert loaded.decode(loaded.encode(["some words"], "y", 16)[0]) == "some words"


def test_the_card_says_what_was_switched() -> None:
    figures = {"dim": 8, "parameters": 1, "layers": 1, "vocab_size": 9, "max_x_tokens": 4, "max_y_tokens": 4, "label": "a"}
    figures |= {"onnx": True, "lineage": {}, "training": {"config": {"directions": "x_to_y", "train_temperature": False}}}
    card = model_card(CardFacts(), figures | {"pooling": "mean", "distinct": False})
    assert "Every text is wrapped in `[` `]`; the mean of the last layer's states, normalised" in card
    assert "Cross entropy of each x over in-batch negatives, fixed temperature" in card
    assert "(states * mask).sum(1)" in card and "closing" not in card.split("## Training")[0]


@pytest.mark.parametrize("config", [TrainConfig(), ModelConfig(), TokenizerConfig(), AdoptedTokenizerConfig()])
def test_switches_at_their_defaults_name_no_other_artifact(config: TrainConfig) -> None:
    switches = {"directions": "x_to_y", "train_temperature": False, "pooling": "mean", "delimiters": "shared"}
    own = {name: value for name, value in switches.items() if name in type(config).model_fields}
    assert own and not set(own) & set(config.key_fields())
    assert own.items() <= config.model_copy(update=own).key_fields().items()


def test_another_batch_size_sees_the_same_pairs() -> None:
    config = TrainConfig(steps=240, batch_size=1024, warmup_steps=20)
    small = config.at_batch_size(256)
    assert (small.steps, small.batch_size, small.warmup_steps) == (960, 256, 80)
    assert config.at_batch_size(10**6).steps == 1 and config.at_batch_size(1024) == config
