"""The fused last-token forward against the backbone's own, pooling, padding, and what is saved. B rows, L tokens, D width."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    Qwen3Config,
)

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder, clamp_temperature, set_temperature

VOCABULARY = SimpleNamespace(vocab_size=97, x_open=0, x_close=1, y_open=2, y_close=3, pad=4, appended=())
L_MAX = 24


def small_encoder(layers: int = 3, dropout: float = 0.0, seed: int = 5) -> Encoder:
    config = ModelConfig(layers=layers, width=32, heads=4, inner=64, positions=L_MAX, dropout=dropout)
    encoder = Encoder.build(config, VOCABULARY, seed)
    with torch.no_grad():  # biases and norms start at 0 and 1, where mistakes in them do not show
        generator = torch.Generator().manual_seed(seed)
        for parameter in encoder.backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder


def random_rows(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids_BL = torch.randint(5, VOCABULARY.vocab_size, (len(lengths), max(lengths)), generator=generator)
    lengths_B = torch.tensor(lengths)
    return ids_BL.masked_fill(torch.arange(max(lengths)) >= lengths_B[:, None], VOCABULARY.pad), lengths_B


def plain_embeddings(backbone: torch.nn.Module, ids_BL: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """What transformers alone gives: mask, forward, state at the last token."""
    mask_BL = (torch.arange(ids_BL.shape[1]) < lengths_B[:, None]).long()
    states_BLD = backbone(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
    return normalize(states_BLD[torch.arange(len(ids_BL)), lengths_B - 1], dim=-1)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_lean_path_equals_automodel_at_every_length(layers: int) -> None:
    encoder = small_encoder(layers).eval()
    assert encoder.fused
    ids_BL, lengths_B = random_rows(list(range(1, L_MAX + 1)))
    with torch.no_grad():
        emb_BD, plain_BD = encoder(ids_BL, lengths_B), plain_embeddings(encoder.backbone, ids_BL, lengths_B)
    torch.testing.assert_close(emb_BD, plain_BD, atol=1e-6, rtol=0)
    torch.testing.assert_close(emb_BD.norm(dim=1), torch.ones(L_MAX), atol=1e-6, rtol=0)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("by_layer", [False, True])
def test_lean_path_follows_the_checkpoints_config(activation: str, by_layer: bool) -> None:
    config = GPT2Config(vocab_size=97, n_positions=L_MAX, n_embd=32, n_layer=2, n_head=2, activation_function=activation)
    config.scale_attn_by_inverse_layer_idx = by_layer
    encoder = Encoder(AutoModel.from_config(config)).double().eval()
    ids_BL, lengths_B = random_rows([2, 9, L_MAX])
    torch.testing.assert_close(
        encoder(ids_BL, lengths_B), plain_embeddings(encoder.backbone, ids_BL, lengths_B), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_lean_gradients_equal_automodels_for_every_parameter(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = small_encoder().to(dtype).eval(), small_encoder().to(dtype).eval()
    ids_BL, lengths_B = random_rows([2, 3, 7, 16, L_MAX])
    weights_BD = torch.randn(5, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    (ours(ids_BL, lengths_B) * weights_BD).sum().backward()
    (plain_embeddings(theirs.backbone, ids_BL, lengths_B) * weights_BD).sum().backward()
    for (name, mine), other in zip(ours.backbone.named_parameters(), theirs.backbone.parameters(), strict=True):
        assert mine.grad is not None, name
        scale = float(other.grad.abs().max()) + 1e-3
        torch.testing.assert_close(mine.grad / scale, other.grad / scale, atol=tolerance, rtol=0, msg=name)


def test_looked_up_tokens_give_the_same_embeddings() -> None:
    encoder = small_encoder().eval()
    ids_BL, lengths_B = random_rows([4, 11])
    with torch.no_grad():
        apart = encoder(ids_BL, lengths_B, encoder.look_up(ids_BL.flatten()))
        torch.testing.assert_close(apart, encoder(ids_BL, lengths_B), atol=0, rtol=0)


def test_what_padding_holds_does_not_matter() -> None:
    encoder = small_encoder().eval()
    ids_BL, lengths_B = random_rows([3, 8, 20])
    other_BL = ids_BL.masked_fill(torch.arange(20) >= lengths_B[:, None], 50)
    wider_BL = torch.nn.functional.pad(other_BL, (0, 4), value=60)
    with torch.no_grad():
        emb_BD = encoder(ids_BL, lengths_B)
        torch.testing.assert_close(encoder(other_BL, lengths_B), emb_BD, atol=1e-6, rtol=0)
        torch.testing.assert_close(encoder(wider_BL, lengths_B), emb_BD, atol=1e-6, rtol=0)


def test_pools_at_the_length_even_where_the_closing_id_stands_earlier() -> None:
    encoder = small_encoder().eval()
    ids_BL = torch.tensor([[2, 10, 3, 11, 3]])
    with torch.no_grad():
        whole, cut = encoder(ids_BL, torch.tensor([5])), encoder(ids_BL[:, :3], torch.tensor([3]))
        torch.testing.assert_close(whole, plain_embeddings(encoder.backbone, ids_BL, torch.tensor([5])))
    assert not torch.allclose(whole, cut, atol=1e-3)


def test_dropout_is_drawn_in_training_only_and_centred_on_the_full_model() -> None:
    encoder = small_encoder(layers=2, dropout=0.1)
    ids_BL, lengths_B = random_rows([12])
    many_BL, many_B = ids_BL.expand(4000, -1), lengths_B.expand(4000)
    with torch.no_grad():
        torch.manual_seed(0)
        lean_D = encoder.train()(many_BL, many_B).mean(dim=0)
        encoder.fused = False
        plain_D = encoder(many_BL, many_B).mean(dim=0)
        still_D = encoder.eval()(ids_BL, lengths_B)[0]
        encoder.fused = True
        torch.testing.assert_close(encoder(ids_BL, lengths_B)[0], still_D, atol=1e-6, rtol=0)
    assert (lean_D - plain_D).norm() < 0.03
    assert (lean_D - still_D).norm() > 0.03


def test_bfloat16_products_keep_the_direction() -> None:
    encoder = small_encoder().eval()
    ids_BL, lengths_B = random_rows([2, 8, L_MAX])
    with torch.no_grad():
        exact_BD = encoder(ids_BL, lengths_B)
        encoder.precision = "bfloat16"
        rounded_BD = encoder(ids_BL, lengths_B)
    assert rounded_BD.dtype == torch.float32
    assert not torch.equal(rounded_BD, exact_BD)
    assert float((rounded_BD * exact_BD).sum(dim=1).min()) >= 0.999


def tiny_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=L_MAX,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("fused", [True, False])
def test_rows_of_another_architecture_do_not_see_each_other(fused: bool, tmp_path: Path) -> None:
    encoder = Encoder.build(ModelConfig(init=str(tiny_llama(tmp_path))), VOCABULARY, seed=1).eval()
    assert encoder.fused
    encoder.fused = fused
    ids_BL, lengths_B = random_rows([2, 5, L_MAX])
    with torch.no_grad():
        emb_BD = encoder(ids_BL, lengths_B)
        alone = [encoder(ids_BL[i : i + 1, :n], lengths_B[i : i + 1]) for i, n in enumerate(lengths_B.tolist())]
    torch.testing.assert_close(emb_BD, torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_left_padding_of_the_backbone_agrees(architecture: str, tmp_path: Path) -> None:
    encoder = small_encoder() if architecture == "gpt2" else Encoder.load(tiny_llama(tmp_path))
    encoder.eval()
    ids_BL, lengths_B = random_rows([2, 9, 17])
    left_BL = torch.stack([row.roll(17 - n) for row, n in zip(ids_BL, lengths_B.tolist(), strict=True)])
    mask_BL = torch.arange(17) >= (17 - lengths_B)[:, None]
    positions_BL = (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        states_BLD = encoder.backbone(
            input_ids=left_BL, attention_mask=mask_BL.long(), position_ids=positions_BL
        ).last_hidden_state
        torch.testing.assert_close(encoder(ids_BL, lengths_B), normalize(states_BLD[:, -1], dim=-1), atol=1e-5, rtol=0)


def test_saved_folder_is_plain_transformers_and_reproducible(tmp_path: Path) -> None:
    encoder = small_encoder().eval()
    encoder.save(tmp_path / "one")
    Encoder.load(tmp_path / "one").save(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    plain = AutoModel.from_pretrained(tmp_path / "one").eval()
    assert isinstance(plain, GPT2Model)
    assert (plain.config.pad_token_id, plain.config.eos_token_id) == (VOCABULARY.pad, VOCABULARY.y_close)
    ids_BL, lengths_B = random_rows([3, 12])
    with torch.no_grad():
        emb_BD = encoder(ids_BL, lengths_B)
        torch.testing.assert_close(plain_embeddings(plain, ids_BL, lengths_B), emb_BD, atol=1e-6, rtol=0)
        torch.testing.assert_close(Encoder.load(tmp_path / "two")(ids_BL, lengths_B), emb_BD, atol=0, rtol=0)


def test_a_language_models_folder_is_a_start(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=97, n_positions=L_MAX, n_embd=32, n_layer=2, n_head=2, embd_pdrop=0.1)
    language_model = AutoModelForCausalLM.from_config(config)
    language_model.save_pretrained(tmp_path)
    encoder = Encoder.build(ModelConfig(init=str(tmp_path), dropout=0.05), VOCABULARY, seed=1)
    torch.testing.assert_close(encoder.backbone.wte.weight, language_model.transformer.wte.weight)
    assert encoder.backbone.drop.p == 0.05


def test_delimiters_past_the_vocabulary_get_rows_that_are_saved(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "given")
    tokenizer = SimpleNamespace(
        vocab_size=102, x_open=97, x_close=98, y_open=99, y_close=100, pad=101, appended=(97, 98, 99, 100)
    )
    config = ModelConfig(init=str(tmp_path / "given"))
    one, same = (Encoder.build(config, tokenizer, seed=1) for _ in range(2))
    table = one.backbone.get_input_embeddings().weight
    assert table.shape == (102, 32)
    assert torch.equal(table, same.backbone.get_input_embeddings().weight)
    words_VD = table[:97].detach()
    typical = (2 * words_VD.var(dim=0).sum()).sqrt()
    assert torch.pdist(table[97:101].detach()).min() > 0.5 * typical
    assert (table[97:101] - words_VD.mean(dim=0)).norm(dim=1).max() < 1.5 * typical
    rows_BL = torch.tensor([[97, 10, 11, 98], [99, 10, 11, 100]])
    x, y = one.eval()(rows_BL, torch.tensor([4, 4])).detach()
    assert float((x * y).sum()) < 0.99, "x and y of one text begin as one vector"
    one.save(tmp_path / "saved")
    ids_BL, lengths_B = torch.tensor([[97, 10, 98, 101]]), torch.tensor([3])
    with torch.no_grad():
        torch.testing.assert_close(
            Encoder.load(tmp_path / "saved")(ids_BL, lengths_B), one.eval()(ids_BL, lengths_B), atol=1e-6, rtol=0
        )


def test_rows_that_a_table_has_for_delimiters_stay_where_they_are_apart(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    tokenizer = SimpleNamespace(vocab_size=97, appended=(90, 91, 92, 93))
    config = ModelConfig(init=str(tmp_path))
    given = Encoder.load(tmp_path).backbone
    table = given.get_input_embeddings().weight
    kept = Encoder.build(config, tokenizer, seed=1).backbone.get_input_embeddings().weight
    assert torch.equal(kept, table)
    with torch.no_grad():
        table[90:94] = table[:90].mean(dim=0)  # the padding of a vocabulary, which nothing was trained on
    given.save_pretrained(tmp_path)
    drawn = Encoder.build(config, tokenizer, seed=1).backbone.get_input_embeddings().weight
    assert torch.equal(drawn[:90], table[:90]) and torch.pdist(drawn[90:94].detach()).min() > 0.1


@pytest.mark.parametrize("n_kept", [1, 2, 3])
def test_the_first_blocks_of_a_model_are_the_whole_model_of_as_many(tmp_path: Path, n_kept: int) -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    sizes |= {"num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(4)
    config = Qwen3Config(**sizes, layer_types=kinds, sliding_window=4, use_sliding_window=True)
    whole = AutoModel.from_config(config)
    whole.save_pretrained(tmp_path / "given")
    encoder = Encoder.build(ModelConfig(init=str(tmp_path / "given"), keep_layers=n_kept), VOCABULARY, seed=1).eval()
    encoder.save(tmp_path / "cut")
    fields = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (fields["num_hidden_layers"], fields["layer_types"]) == (n_kept, kinds[:n_kept])
    ids_BL, lengths_B = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.tensor([6])
    whole.layers = whole.layers[:n_kept]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(whole.eval()(ids_BL).last_hidden_state[:, -1], dim=-1)
        torch.testing.assert_close(encoder(ids_BL, lengths_B), expected)
        torch.testing.assert_close(Encoder.load(tmp_path / "cut")(ids_BL, lengths_B), expected)


def test_a_cut_gpt2_keeps_its_names_and_loads_again(tmp_path: Path) -> None:
    AutoModel.from_config(GPT2Config(vocab_size=97, n_embd=32, n_layer=4, n_head=2)).save_pretrained(tmp_path / "given")
    cut = Encoder.build(ModelConfig(init=str(tmp_path / "given"), keep_layers=3), VOCABULARY, seed=1)
    cut.save(tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["n_layer"] == 3
    assert len(Encoder.load(tmp_path / "cut").backbone.h) == 3


def test_more_blocks_than_there_are_and_blocks_of_no_model_are_refused(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    with pytest.raises(UserError, match=r"^model\.keep_layers is 3, .* has 2 blocks; lower it"):
        Encoder.build(ModelConfig(init=str(tmp_path), keep_layers=3), VOCABULARY, seed=1)
    with pytest.raises(UserError, match=r"model\.keep_layers cuts a given model, and none is given"):
        Encoder.build(ModelConfig(keep_layers=3), VOCABULARY, seed=1)
    assert "keep_layers" not in ModelConfig().key_fields() and ModelConfig(keep_layers=1).key_fields()["keep_layers"] == 1


def test_weights_are_a_function_of_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, same, other = (small_encoder(seed=seed).backbone.wte.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(3), expected)


def test_wrong_use_is_answered_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file"):
        Encoder.load(tmp_path)
    with pytest.raises(UserError, match="no multiple of"):
        Encoder.build(ModelConfig(width=30, heads=4), VOCABULARY, seed=1)
    with pytest.raises(UserError, match="25 tokens for a model of 24 positions"):
        small_encoder()(*random_rows([25]))
    AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="vocabulary of 50 ids, the tokenizer has 97"):
        Encoder.build(ModelConfig(init=str(tmp_path)), VOCABULARY, seed=1)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "all rows of its token table are the same"),
        (torch.arange(32.0), "all rows of its token table are the same"),
        (math.nan, r"1 tensors hold values that are no finite numbers \(\['wte.weight'\]\)"),
        (math.inf, "1 tensors hold values"),
    ],
)
def test_damaged_weights_are_no_start(tmp_path: Path, value: float | torch.Tensor, told: str) -> None:
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    model.get_input_embeddings().weight.data[:] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=told):
        Encoder.build(ModelConfig(init=str(tmp_path)), VOCABULARY, seed=1)


def test_temperature_is_set_and_clamped() -> None:
    encoder = small_encoder(layers=1)
    set_temperature(encoder, 0.05)
    assert float((-encoder.log_scale.detach()).exp()) == pytest.approx(0.05)
    clamp_temperature(encoder, 0.01)
    assert float((-encoder.log_scale.detach()).exp()) == pytest.approx(0.05)
    set_temperature(encoder, 0.001)
    clamp_temperature(encoder, 0.01)
    assert float((-encoder.log_scale.detach()).exp()) == pytest.approx(0.01)


def test_token_gradients_land_where_autograd_puts_them() -> None:
    encoder = small_encoder(layers=1)
    table = encoder.backbone.wte.weight
    ids_T = torch.tensor([5, 9, 5, 5, 96])
    grad_TD = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    torch.nn.functional.embedding(ids_T, table).backward(grad_TD)
    expected, table.grad = table.grad, None
    for _ in range(2):  # the second time onto what is there
        encoder.add_token_gradients(ids_T, grad_TD)
    torch.testing.assert_close(table.grad, 2 * expected)
    table.requires_grad_(False)
    assert not encoder.look_up(ids_T).requires_grad


def test_attention_dropout_takes_the_general_path() -> None:
    config = GPT2Config(vocab_size=97, n_positions=L_MAX, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.1)
    assert not Encoder(AutoModel.from_config(config)).fused
