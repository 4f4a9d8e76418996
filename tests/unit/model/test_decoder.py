"""The lean forward of each family against the backbone's own, and what is left to that one."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pipeline_lib.model import encoder as encoder_module
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.families import FAMILIES, family_of
from pipeline_lib.model.grad_cache import batch_gradients
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import cut_micro_batches, embed_ids, in_input_order
from pipeline_lib.model.pooling import Pooling

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
TWO_GROUPS = {"num_key_value_heads": 2}
NEOX = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        **{"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 1},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "llama": LlamaConfig(**SIZES),
    "llama, grouped, biases, tanh": LlamaConfig(
        **SIZES, **TWO_GROUPS, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"
    ),
    "llama, one group of wide heads": LlamaConfig(**SIZES, num_key_value_heads=1, head_dim=16),
    "llama, rotation of llama 3": LlamaConfig(
        **SIZES, rope_parameters={**LLAMA3, "rope_theta": 10_000.0, "original_max_position_embeddings": 32}
    ),
    "one block": LlamaConfig(**{**SIZES, "num_hidden_layers": 1}, **TWO_GROUPS),
    "mistral": MistralConfig(**SIZES, **TWO_GROUPS, sliding_window=None),
    "mistral, all within its window": MistralConfig(**SIZES, **TWO_GROUPS, sliding_window=40),
    "qwen2": Qwen2Config(**SIZES, **TWO_GROUPS),
    "qwen3": Qwen3Config(**SIZES, **TWO_GROUPS, head_dim=16),
    "neox": GPTNeoXConfig(**SIZES, **NEOX),
    "neox, one after the other": GPTNeoXConfig(
        **SIZES,
        **NEOX,
        use_parallel_residual=False,
        attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    ),
}
LENGTHS = (3, 5, 5, 9, 20, 21, 22, 40, 1, 2)


def build(config: PreTrainedConfig, pooling: Pooling = "last") -> Encoder:
    """Weights that are not those of the start: norms' gains and biases count."""
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for weight in backbone.parameters():
            weight += 0.05 * torch.randn(weight.shape)
    encoder = Encoder(backbone, pooling).train()
    if encoder.lacks_token_weights:
        encoder.token_weights_V = 0.1 + 3 * torch.rand(config.vocab_size)
    return encoder


def texts() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(5, 97, length) for length in LENGTHS]


def vectors_and_gradients(encoder: Encoder, packed: bool, max_tokens: int = 60) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    encoder.zero_grad()
    batches = cut_micro_batches(texts(), max_tokens, packed=packed)
    emb_ND = in_input_order([encoder(batch.ids_BL, batch.lengths_B) for batch in batches], batches)
    weights_ND = torch.randn(emb_ND.shape, generator=torch.Generator().manual_seed(1))
    (emb_ND * weights_ND).sum().backward()
    return emb_ND.detach(), {name: p.grad.clone() for name, p in encoder.backbone.named_parameters() if p.grad is not None}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp(min=1e-3))


@pytest.mark.parametrize("pooling", ["last", "mean", "idf_mean"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_vectors_and_gradients_are_the_own_forwards(name: str, packed: bool, pooling: Pooling) -> None:
    encoder = build(CONFIGS[name], pooling)
    assert encoder.fused
    found_ND, found = vectors_and_gradients(encoder, packed)
    encoder.fused = False
    expected_ND, expected = vectors_and_gradients(encoder, packed=False, max_tokens=10**6)
    torch.testing.assert_close(found_ND, expected_ND, atol=1e-5, rtol=0)
    assert found.keys() == expected.keys()
    assert max(relative(found[key], expected[key]) for key in expected) < 2e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_keeps_the_direction(name: str) -> None:
    encoder = build(CONFIGS[name])
    _, exact = vectors_and_gradients(encoder, packed=True)
    encoder.precision = "bfloat16"
    _, rounded = vectors_and_gradients(encoder, packed=True)
    flat = [torch.cat([found[key].flatten() for key in sorted(exact)]) for found in (exact, rounded)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.999


@pytest.mark.parametrize("name", CONFIGS)
def test_no_attention_mask_is_needed_to_the_bit(name: str) -> None:
    """Causal and right-padded: the own forward without a mask is the own forward with one."""
    encoder = build(CONFIGS[name]).eval()
    encoder.fused = False
    (batch,) = cut_micro_batches(texts(), 10**6)
    with torch.no_grad():
        without = encoder(batch.ids_BL, batch.lengths_B)
        encoder._is_causal = False
        torch.testing.assert_close(without, encoder(batch.ids_BL, batch.lengths_B), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "idf_mean"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_mean_leaves_prompts_out(name: str, packed: bool, pooling: Pooling) -> None:
    """The row that begins with it, not those that are as long, nor one that ends within it."""
    encoder = build(CONFIGS[name], pooling).eval()
    prompt = tuple(texts()[4][:3].tolist())
    rows = [*texts(), np.array([*prompt, 9, 8]), np.array(prompt), np.array(prompt[:2])]
    encoder.prompts = ((prompt, 2),)
    found_ND = []
    for encoder.fused, encoder.packed in ((True, packed), (False, False)):
        found_ND.append(embed_ids(encoder, rows, batch_tokens=60))
    np.testing.assert_allclose(found_ND[0], found_ND[1], atol=1e-5)
    encoder.prompts = ()
    changed = np.abs(embed_ids(encoder, rows) - found_ND[0]).max(axis=1) > 1e-3
    assert np.flatnonzero(changed).tolist() == [4, 10, 11]


def test_what_stands_in_padding_is_not_read() -> None:
    encoder = build(CONFIGS["qwen3"]).eval()
    ids_BL, lengths_B = torch.tensor([[7, 8, 9, 96], [7, 8, 9, 10]]), torch.tensor([3, 4])
    with torch.no_grad():
        first = encoder(ids_BL, lengths_B)
        ids_BL[0, 3] = 5
        assert torch.equal(first, encoder(ids_BL, lengths_B))


@pytest.mark.parametrize("pooling", ["last", "mean", "idf_mean"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", ["llama, grouped, biases, tanh", "qwen3", "neox"])
def test_gradient_caching_and_checkpointing_change_nothing(name: str, checkpointed: bool, pooling: Pooling) -> None:
    hashes = PairHashes(torch.arange(5), torch.arange(10, 15))
    found = []
    for cached in (False, True):
        encoder = build(CONFIGS[name], pooling)
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        if cached and checkpointed:
            encoder.checkpoint_activations()

        def loss_of(emb_ND: torch.Tensor, encoder: Encoder = encoder) -> torch.Tensor:
            return contrastive_loss(emb_ND[:5], emb_ND[5:], encoder.log_scale, hashes)

        torch.manual_seed(3)
        loss = batch_gradients(encoder, cut_micro_batches(texts(), 40, packed=True), loss_of, cached)
        found.append({"loss": loss, **{key: p.grad for key, p in encoder.named_parameters() if p.grad is not None}})
    for key, direct in found[0].items():
        torch.testing.assert_close(found[1][key], direct, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_beyond_a_sliding_window_take_the_own_forward(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(MistralConfig(**SIZES, **TWO_GROUPS, sliding_window=8)).eval()
    encoder.packed = packed
    found_ND = embed_ids(encoder, texts(), batch_tokens=60)
    encoder.packed, encoder.fused = False, False
    np.testing.assert_allclose(found_ND, embed_ids(encoder, texts()), atol=1e-5)
    encoder.fused = True
    monkeypatch.setattr(encoder_module, "longest_row", lambda backbone: None)
    assert np.abs(embed_ids(encoder, texts()) - found_ND).max() > 1e-3, "the window changes nothing"


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SIZES, residual_multiplier=0.2),
        LlamaConfig(**SIZES, attention_dropout=0.1),
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}),
        GPT2Config(vocab_size=97, n_embd=48, n_layer=1, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1),
    ],
    ids=["another class", "attention dropout", "a rotation of the batch", "attention dropout of a GPT-2"],
)
def test_what_no_description_fits_takes_the_own_forward(config: PreTrainedConfig) -> None:
    encoder = build(config)
    assert family_of(encoder.backbone) is None and not encoder.fused
    assert torch.isfinite(encoder(torch.tensor([[5, 6, 7]]), torch.tensor([3]))).all()


def test_layers_that_are_not_plain_take_the_own_forward() -> None:
    encoder = build(CONFIGS["llama"])
    block = encoder.backbone.layers[1]

    class Adapted(torch.nn.Linear):
        """As what an adapter puts in a linear layer's place."""

    block.mlp.up_proj = Adapted(48, 80, bias=False)
    assert family_of(encoder.backbone) is None


def test_descriptions_have_different_classes_for_each_known_model_type() -> None:
    types = {kind.config_class.model_type for kind in FAMILIES}  # type: ignore[attr-defined]
    assert types == {"gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler, which torch.compile needs here")
@pytest.mark.parametrize("name", ["qwen3", "neox", "gpt2"])
def test_compiled_regions_are_the_same(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    encoder = build(CONFIGS[name])
    eager_ND, eager = vectors_and_gradients(encoder, packed=True)
    encoder.compile_layers()
    compiled_ND, compiled = vectors_and_gradients(encoder, packed=True)
    torch.testing.assert_close(compiled_ND, eager_ND, atol=1e-5, rtol=0)
    assert max(relative(compiled[key], eager[key]) for key in eager) < 2e-5
