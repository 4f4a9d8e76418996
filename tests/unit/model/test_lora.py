"""Adapters: what peft computes, by every forward, merged and apart; and targets and ranks that no model has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.pytorch_utils import Conv1D

from pipeline_lib.config.lora import LoraConfig, chosen_matrices
from pipeline_lib.config.model import ModelConfig, Shape
from pipeline_lib.config.presets import preset
from pipeline_lib.errors import UserError
from pipeline_lib.model.adapter import Adapter, adapter_of, dropped_inputs, merge, rows_of
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.lora import attach
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.model.outline import blocks_of
from pipeline_lib.train.memory import check_lora

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0),
    "gpt_neox": GPTNeoXConfig(**SIZES, hidden_dropout=0.0, attention_dropout=0.0),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=1),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16),
    "bert": BertConfig(**SIZES),
}
LORA = LoraConfig(rank=3, alpha=6.0)
TEXTS = [[5, 6, 7], [9, 5, 8, 30, 31, 2, 60, 4, 11], [3]]


def build(name: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(AutoModel.from_config(CONFIGS[name], attn_implementation="sdpa"))


def adapted(name: str, config: LoraConfig = LORA, appended: tuple[int, ...] = ()) -> Encoder:
    """With adapters that are away from zero, as training leaves them."""
    encoder = build(name)
    attach(encoder, config, appended, seed=1)
    for part in encoder.modules():
        if isinstance(part, Adapter):
            nn.init.normal_(part.up_OK, std=0.2)
    if rows := rows_of(encoder.backbone.get_input_embeddings()):
        nn.init.normal_(rows.weight)
    return encoder.eval()


def vectors(encoder: Encoder, fused: bool = False) -> np.ndarray:
    encoder.fused = fused
    return embed_ids(encoder, TEXTS, 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_plan_knows_the_matrices_that_a_model_has(name: str) -> None:
    block = blocks_of(build(name).backbone)[0]
    layers = {path: layer for path, layer in block.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    found = {path: tuple(layer.weight.shape)[:: 1 if isinstance(layer, Conv1D) else -1] for path, layer in layers.items()}
    assert Shape.of(CONFIGS[name].to_dict(), name).matrices == found


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bert"])
def test_every_forward_and_the_sum_give_the_same_vectors(name: str) -> None:
    start, encoder = vectors(build(name).eval()), adapted(name, appended=(5, 30))
    expected = vectors(encoder)
    np.testing.assert_allclose(vectors(encoder, fused=True), expected, atol=1e-5)
    assert np.abs(start - expected).max() > 0.05, "the adapters do something"
    names = [path for path, _ in build(name).backbone.named_parameters()]
    merge(encoder.backbone)
    assert [path for path, _ in encoder.backbone.named_parameters()] == names
    for fused in (False, True):
        np.testing.assert_allclose(vectors(encoder, fused), expected, atol=1e-5)


def test_step_0_is_the_start_and_adapters_alone_are_trained() -> None:
    encoder = build("llama")
    expected = vectors(encoder.eval())
    attach(encoder, LORA, (), seed=1)
    np.testing.assert_array_equal(vectors(encoder), expected)
    trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert len(trained) == 1 + 2 * 2 * 7 and all("lora" in name for name in trained - {"log_scale"})


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_peft_computes_the_same(name: str) -> None:
    peft = pytest.importorskip("peft")
    encoder, theirs = adapted(name), build(name)
    names = {path for path, layer in encoder.backbone.named_modules() if adapter_of(layer)}
    kinds = sorted({path.split(".", 2)[2] if name != "bert" else path.split(".", 3)[3] for path in names})
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=kinds, fan_in_fan_out=name == "gpt2")
    theirs.backbone = peft.get_peft_model(theirs.backbone, config)
    own = dict(encoder.backbone.named_modules())
    with torch.no_grad():
        for path, layer in theirs.backbone.named_modules():
            if hasattr(layer, "lora_A"):
                adapter = adapter_of(own[path.removeprefix("base_model.model.")])
                assert adapter is not None, path
                layer.lora_A["default"].weight.copy_(adapter.down_KD)
                layer.lora_B["default"].weight.copy_(adapter.up_OK)
    found = sum(hasattr(layer, "lora_A") for layer in theirs.backbone.modules())
    assert found == len(names)
    np.testing.assert_allclose(vectors(theirs.eval()), vectors(encoder), atol=1e-5)


def test_dropout_takes_the_own_forward_and_is_drawn_in_training_alone() -> None:
    encoder = adapted("llama", LoraConfig(rank=3, alpha=6.0, dropout=0.5))
    assert not encoder.fused
    still = embed_ids(encoder, TEXTS, 64)
    np.testing.assert_array_equal(still, embed_ids(encoder, TEXTS, 64))
    assert dropped_inputs(encoder.backbone) == sum(
        n_in for n_in, _ in Shape.of(CONFIGS["llama"].to_dict(), "").matrices.values()
    )
    assert dropped_inputs(adapted("llama").backbone) == 0
    encoder.train()
    ids, lengths = torch.tensor([TEXTS[1]]), torch.tensor([len(TEXTS[1])])
    assert not torch.equal(encoder(ids, lengths), encoder(ids, lengths))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("attention",), {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        (("mlp",), {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        (("q_proj", "mlp.up_proj"), {"self_attn.q_proj", "mlp.up_proj"}),
    ],
)
def test_targets_are_groups_or_names(targets: tuple[str, ...], expected: set[str]) -> None:
    encoder = build("llama")
    attach(encoder, LoraConfig(rank=2, targets=targets), (), seed=1)
    found = {path.split(".", 2)[2] for path, layer in encoder.backbone.named_modules() if adapter_of(layer)}
    assert found == expected


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"targets": ("q_prj",)}, "'q_prj' names no matrix"),
        ({"targets": ("attention", "proj")}, "'proj' names no matrix"),
        ({"rank": 17}, "above the full rank of self_attn.k_proj, 16"),
    ],
)
def test_what_no_model_has_is_refused_in_one_line(fields: dict[str, Any], says: str) -> None:
    config = LoraConfig(**{"rank": 2, **fields})
    with pytest.raises(UserError, match=says) as caught:
        attach(build("llama"), config, (), seed=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=says):  # by the sizes alone, before a model is loaded
        chosen_matrices(config, Shape.of(CONFIGS["llama"].to_dict(), "llama").matrices)


def test_a_run_is_refused_before_anything_is_made(tmp_path: Any) -> None:
    smoke = preset("smoke")

    def asked(**changes: Any) -> Any:
        return smoke.model_copy(update={"model": ModelConfig(**{"lora": {"rank": 4}, **changes})})

    CONFIGS["llama"].save_pretrained(tmp_path)
    check_lora(smoke, "")
    check_lora(asked(), str(tmp_path))
    with pytest.raises(UserError, match="none is given"):
        check_lora(asked(), "")
    with pytest.raises(UserError, match="above the full rank"):
        check_lora(asked(lora={"rank": 100}), str(tmp_path))
    with pytest.raises(UserError, match="names no matrix"):
        check_lora(asked(lora={"rank": 4, "targets": ["c_attn"]}), str(tmp_path))
    dropped = asked(lora={"rank": 4, "dropout": 0.1})
    check_lora(dropped, str(tmp_path))
    for name, value in (("compile", "on"), ("attention", "packed")):
        train = smoke.train.model_copy(update={name: value})
        check_lora(asked().model_copy(update={"train": train}), str(tmp_path))
        with pytest.raises(
            UserError, match=rf"train\.{name} is {value}, and model\.lora\.dropout is 0\.1, .* set train\.{name} to"
        ):
            check_lora(dropped.model_copy(update={"train": train}), str(tmp_path))
    muon = asked().model_copy(update={"train": smoke.train.model_copy(update={"optimizer": "muon"})})
    with pytest.raises(UserError, match="muon"):
        check_lora(muon, str(tmp_path))


def test_keys_without_adapters_are_as_they_were() -> None:
    assert "lora" not in ModelConfig().key_fields()
    assert ModelConfig.model_validate({"lora": {"rank": 0}}).key_fields() == ModelConfig().key_fields()
    assert ModelConfig.model_validate({"lora": {"rank": 8}}).key_fields()["lora"]["rank"] == 8
