"""Gradients of micro-batches against one forward pass over the whole batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.grad_cache import activation_bytes, batch_gradients
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import MicroBatch, cut_micro_batches

VOCABULARY = SimpleNamespace(vocab_size=97, x_open=0, x_close=1, y_open=2, y_close=3, pad=4)
PAIRS = 8
HASHES = PairHashes(torch.tensor([1, 2, 3, 4, 5, 6, 1, 8]), torch.arange(11, 19))


def build(dropout: float = 0.0, dtype: torch.dtype = torch.float32, fused: bool = True) -> Encoder:
    config = ModelConfig(layers=2, width=32, heads=4, inner=64, positions=32, dropout=dropout)
    encoder = Encoder.build(config, VOCABULARY, seed=2).to(dtype).train()
    encoder.fused = fused
    return encoder


def sequences() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    lengths = generator.permutation(np.arange(2, 2 + 2 * PAIRS))
    return [generator.integers(5, 97, length).astype(np.int32) for length in lengths]


def by_rows(rows: int) -> list[MicroBatch]:
    """Micro-batches of a fixed number of rows, in the input's order."""
    texts = sequences()
    cuts = []
    for begin in range(0, len(texts), rows):
        cut = cut_micro_batches(texts[begin : begin + rows], 10**6)[0]
        cuts.append(MicroBatch(cut.ids_BL, cut.lengths_B, cut.rows_B + begin))
    return cuts


def loss_and_gradients(encoder: Encoder, batches: list[MicroBatch], cached: bool) -> tuple[float, dict[str, torch.Tensor]]:
    def loss_of(emb_ND: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(emb_ND[:PAIRS], emb_ND[PAIRS:], encoder.log_scale, HASHES)

    torch.manual_seed(9)
    loss = batch_gradients(encoder, batches, loss_of, cached)
    return float(loss), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("rows", [1, 2, 4, 2 * PAIRS])
@pytest.mark.parametrize("cached", [False, True])
def test_micro_batches_give_the_gradients_of_the_whole(dtype: torch.dtype, tolerance: float, rows: int, cached: bool) -> None:
    loss, grads = loss_and_gradients(build(dtype=dtype), by_rows(rows), cached)
    # the oracle: transformers' own forward over one padded batch
    whole_loss, whole = loss_and_gradients(build(dtype=dtype, fused=False), by_rows(2 * PAIRS), cached=False)
    assert loss == pytest.approx(whole_loss, rel=tolerance)
    assert grads.keys() == whole.keys()
    assert "log_scale" in grads
    for name, grad in grads.items():
        scale = float(whole[name].abs().max()) + 1e-3
        torch.testing.assert_close(grad / scale, whole[name] / scale, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("fused", [True, False])
def test_cached_replays_dropout(fused: bool) -> None:
    loss, grads = loss_and_gradients(build(0.2, torch.float64, fused), by_rows(4), cached=True)
    direct_loss, direct = loss_and_gradients(build(0.2, torch.float64, fused), by_rows(4), cached=False)
    still_loss, _ = loss_and_gradients(build(0.0, torch.float64, fused), by_rows(4), cached=False)
    assert loss == pytest.approx(direct_loss, rel=1e-10)
    assert abs(loss - still_loss) > 1e-3  # dropout was drawn at all
    for name, grad in grads.items():
        torch.testing.assert_close(grad, direct[name], atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_checkpointed_layers_give_the_same_gradients_with_dropout(fused: bool, cached: bool) -> None:
    loss, grads = loss_and_gradients(build(0.2, fused=fused), by_rows(4), cached)
    encoder = build(0.2, fused=fused)
    encoder.checkpoint_activations()
    again_loss, again = loss_and_gradients(encoder, by_rows(4), cached)
    assert again_loss == loss
    assert all(torch.equal(again[name], grad) for name, grad in grads.items()), "not to the bit"


@pytest.mark.parametrize("fused", [True, False])
def test_checkpointed_layers_keep_little(fused: bool) -> None:
    kept = {}
    for checkpointed in (False, True):
        encoder = Encoder.build(ModelConfig(layers=6, width=32, heads=4, inner=128, positions=32), VOCABULARY, seed=2).train()
        encoder.fused = fused
        if checkpointed:
            encoder.checkpoint_activations()
        own = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, own: set[int] = own, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = by_rows(2 * PAIRS)[0]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            emb_BD = encoder(batch.ids_BL, batch.lengths_B)
        kept[checkpointed] = sum(sizes.values())
        assert emb_BD.requires_grad
        config = encoder.backbone.config
        assert kept[checkpointed] < 1.5 * activation_bytes(config, batch.ids_BL.numel(), fused, checkpointed)
    assert kept[True] < kept[False] / 3


def test_cached_without_replay_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    _, grads = loss_and_gradients(build(0.2, torch.float64), by_rows(4), cached=True)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    _, wrong = loss_and_gradients(build(0.2, torch.float64), by_rows(4), cached=True)
    assert any(not torch.allclose(grads[name], wrong[name], atol=1e-6) for name in grads)


def test_random_numbers_after_a_cached_step_are_those_after_a_direct_one() -> None:
    drawn = []
    for cached in (False, True):
        loss_and_gradients(build(0.2), by_rows(4), cached)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_gradients_add_up_over_calls() -> None:
    encoder = build(dtype=torch.float64)
    _, once = loss_and_gradients(encoder, by_rows(4), cached=False)
    once = {name: grad.clone() for name, grad in once.items()}
    _, twice = loss_and_gradients(encoder, by_rows(4), cached=True)
    for name, grad in twice.items():
        torch.testing.assert_close(grad, 2 * once[name], atol=1e-12, rtol=1e-9)


def test_bfloat16_gradients_keep_their_direction() -> None:
    encoder = build()
    _, exact = loss_and_gradients(build(), by_rows(4), cached=True)
    encoder.precision = "bfloat16"
    _, rounded = loss_and_gradients(encoder, by_rows(4), cached=True)
    flat = [torch.cat([grads[name].flatten() for name in sorted(exact)]) for grads in (exact, rounded)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) >= 0.999


def test_activations_grow_with_tokens_and_with_a_whole_last_layer() -> None:
    config = build().backbone.config
    assert activation_bytes(config, 2000) == 2 * activation_bytes(config, 1000)
    assert activation_bytes(config, 1000, fused=False) > activation_bytes(config, 1000)
