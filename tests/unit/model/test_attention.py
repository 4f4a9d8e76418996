"""Packed rows against padded ones: embeddings, gradients, cutting, and what decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model import attention
from pipeline_lib.model.attention import Layout, attend, attend_rows, kernel_obstacle, takes_kernel, use_short_rows
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.grad_cache import batch_gradients
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import MicroBatch, cut_micro_batches, embed_ids, in_input_order, padding_share

VOCABULARY = SimpleNamespace(vocab_size=97, x_open=0, x_close=1, y_open=2, y_close=3, pad=4)
LONGEST = 24
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=12)


def build(layers: int = 2, dropout: float = 0.0) -> Encoder:
    config = ModelConfig(layers=layers, width=32, heads=4, inner=64, positions=LONGEST, dropout=dropout)
    return Encoder.build(config, VOCABULARY, seed=2).double().train()


def texts(lengths: Sequence[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(5, 97, length).astype(np.int32) for length in lengths]


def embeddings_and_gradients(encoder: Encoder, batches: list[MicroBatch]) -> dict[str, torch.Tensor]:
    emb_ND = in_input_order([encoder(batch.ids_BL, batch.lengths_B) for batch in batches], batches)
    weights_ND = torch.randn(emb_ND.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (emb_ND * weights_ND).sum().backward()
    gradients = {name: weight.grad for name, weight in encoder.backbone.named_parameters()}
    return {"embeddings": emb_ND.detach(), **gradients}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-10, rtol=1e-10, msg=name)


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 80))
def test_packed_equals_padded_at_any_lengths(lengths: list[int], layers: int, max_tokens: int) -> None:
    packed = cut_micro_batches(texts(lengths), max_tokens, packed=True)
    padded = cut_micro_batches(texts(lengths), 10**6)
    assert_same(embeddings_and_gradients(build(layers), packed), embeddings_and_gradients(build(layers), padded))


def test_packed_equals_transformers_in_any_order_of_lengths() -> None:
    lengths = [7, 2, 2, 24, 7, 1]
    ids_T = torch.from_numpy(np.concatenate(texts(lengths))).long()
    unsorted = [MicroBatch(ids_T, torch.tensor(lengths), torch.arange(6))]
    plain = build()
    plain.fused = False
    padded = cut_micro_batches(texts(lengths), 10**6)
    assert_same(embeddings_and_gradients(build(), unsorted), embeddings_and_gradients(plain, padded))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 400))
def test_packed_micro_batches_hold_each_text_once_and_no_padding(lengths: list[int], max_tokens: int) -> None:
    sequences = texts(lengths)
    batches = cut_micro_batches(sequences, max_tokens, packed=True)
    found: dict[int, list[int]] = {}
    for batch in batches:
        assert len(batch.rows_B) == 1 or batch.padded_tokens <= max_tokens
        for row, ids in zip(batch.rows_B.tolist(), batch.ids_BL.split(batch.lengths_B.tolist()), strict=True):
            assert row not in found
            found[row] = ids.tolist()
    assert [found[row] for row in range(len(sequences))] == [ids.tolist() for ids in sequences]
    assert padding_share(batches) == 0.0


def test_packed_micro_batches_are_cut_by_real_tokens_alone() -> None:
    lengths = [*range(1, 25)]
    assert len(cut_micro_batches(texts(lengths), 300, packed=True)) == 1
    assert len(cut_micro_batches(texts(lengths), 299, packed=True)) == 2
    assert len(cut_micro_batches(texts(lengths), 300)) > 2


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradient_caching_of_packed_rows_replays_dropout(checkpointed: bool) -> None:
    hashes = PairHashes(torch.arange(8), torch.arange(10, 18))
    batches = cut_micro_batches(texts([*range(2, 18)]), 40, packed=True)
    assert len(batches) > 3
    found = {}
    for cached in (False, True):
        encoder = build(dropout=0.2)
        if checkpointed and cached:
            encoder.checkpoint_activations()

        def loss_of(emb_ND: torch.Tensor, encoder: Encoder = encoder) -> torch.Tensor:
            return contrastive_loss(emb_ND[:8], emb_ND[8:], encoder.log_scale, hashes)

        torch.manual_seed(9)
        loss = batch_gradients(encoder, batches, loss_of, cached)
        found[cached] = {"loss": loss, **{name: p.grad for name, p in encoder.named_parameters()}}
    assert_same(found[True], found[False])
    still = build()
    still_loss = batch_gradients(still, batches, lambda e: contrastive_loss(e[:8], e[8:], still.log_scale, hashes), False)
    assert abs(still_loss - found[True]["loss"]) > 1e-3, "no dropout was drawn"


def test_attention_stays_inside_its_own_sequence() -> None:
    layout = Layout.of(torch.tensor([3, 3, 5]))
    assert layout.positions_T.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4]
    assert layout.cu_lengths.tolist() == [0, 3, 6, 11] and layout.cu_lengths.dtype == torch.int32
    q, k, v = torch.randn(3, 11, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    out = attend(q, k, v, layout, 0.5)
    v[4] += 1.0  # the second sequence's second token
    moved = (attend(q, k, v, layout, 0.5) - out).abs().amax(dim=(1, 2)) > 0
    assert moved.tolist() == [False] * 4 + [True] * 2 + [False] * 5


def test_last_queries_see_what_they_see_among_all() -> None:
    layout = Layout.of(torch.tensor([3, 1, 5]))
    q, k, v = torch.randn(3, 9, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    all_THE = attend(q, k, v, layout, 0.5)
    torch.testing.assert_close(attend(q[layout.last_B], k, v, layout, 0.5), all_THE[layout.last_B])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.booleans(), st.sampled_from([1, 2, 4]))
def test_buckets_hold_each_sequence_once_with_little_padding(lengths: list[int], ascending: bool, groups: int) -> None:
    lengths = sorted(lengths) if ascending else lengths
    layout = Layout.of(torch.tensor(lengths))
    assert [row for bucket in layout.buckets for row in range(bucket.begin, bucket.end)] == [*range(len(lengths))]
    for bucket in layout.buckets:
        real, padded = sum(lengths[bucket.begin : bucket.end]), bucket.longest * (bucket.end - bucket.begin)
        assert padded - real <= attention.MOST_PADDING * padded
    generator = torch.Generator().manual_seed(0)
    n_tokens = sum(lengths)
    leaves = [
        torch.randn(n_tokens, h, 8, dtype=torch.float64, generator=generator).requires_grad_() for h in (4, groups, groups)
    ]
    alone = [
        attend_rows(*(part[None] for part in row), 0.5)[0]
        for row in zip(*(leaf.split(lengths) for leaf in leaves), strict=True)
    ]
    weights = torch.randn(n_tokens, 4, 8, dtype=torch.float64, generator=generator)
    found, expected = attend(*leaves, layout, 0.5), torch.cat(alone)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad((out * weights).sum(), leaves) for out in (found, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck_of_attention_by_products(groups: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KERNEL_TYPES", (torch.float64,))
    generator = torch.Generator().manual_seed(0)
    n_queries = 5 if causal else 1
    shapes = [(3, n_queries, 6, 4), (3, 5, groups, 4), (3, 5, groups, 4)]
    leaves = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    beyond = None if causal else torch.arange(5) >= torch.tensor([[2], [5], [1]])
    assert attention.takes_products(leaves[0], 5)
    assert torch.autograd.gradcheck(lambda *qkv: attend_rows(*qkv, 0.5, beyond, causal), leaves)
    by_products = attend_rows(*leaves, 0.5, beyond, causal)
    monkeypatch.setattr(attention, "KERNEL_TYPES", ())
    torch.testing.assert_close(by_products, attend_rows(*leaves, 0.5, beyond, causal))


def test_embedding_of_texts_is_the_same_packed() -> None:
    encoder, sequences = build(), texts([5, 2, 24, 9])
    padded_ND = embed_ids(encoder, sequences)
    encoder.packed = True
    np.testing.assert_allclose(embed_ids(encoder, sequences), padded_ND, atol=1e-7)


def test_a_packed_row_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(UserError, match="positions"):
        build()(torch.zeros(27, dtype=torch.int64), torch.tensor([2, 25]))


def test_the_kernel_is_for_gpus_in_16_bits_and_heads_that_it_has() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert takes_kernel(gpu, torch.bfloat16, 64)
    for device, dtype, width in [(cpu, torch.bfloat16, 64), (gpu, torch.float32, 64), (gpu, torch.bfloat16, 20)]:
        assert not takes_kernel(device, dtype, width)
    assert "needs a GPU" in kernel_obstacle(cpu, 64)


@pytest.mark.parametrize("n_queries", [9, 3])
def test_the_kernel_takes_what_it_is_given_and_has_gradients_of_its_shape(n_queries: int) -> None:
    """On torch's meta device: shapes and types alone; what it computes, tests/gpu asserts."""
    shapes = [(n_queries, 4, 8), (9, 2, 8), (9, 2, 8)]
    leaves = [torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True) for shape in shapes]
    layout = Layout.of(torch.tensor([5, 1, 3]), torch.device("meta"), by_kernel=True)
    out = attend(*leaves, layout, 0.5)
    assert out.shape == shapes[0] and out.dtype == torch.bfloat16
    assert [grad.shape for grad in torch.autograd.grad(out.sum(), leaves)] == shapes


def test_a_kernel_that_fails_or_errs_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for index, (agreement, said) in enumerate([(RuntimeError("no kernel image"), "no kernel image"), (0.9, "wrong")]):

        def found(device: torch.device, head_width: int, agreement: object = agreement) -> object:
            if isinstance(agreement, Exception):
                raise agreement
            return agreement

        monkeypatch.setattr(attention, "kernel_agreement", found)
        assert said in kernel_obstacle(gpu, 8 * (index + 1))
    kernel_obstacle.cache_clear()


def test_the_probe_agrees_where_both_sides_are_computed_by_buckets() -> None:
    assert attention.kernel_agreement(torch.device("cpu"), 16) >= 0.999


@pytest.mark.parametrize("masked", [False, True])
def test_an_encoder_of_both_ways_attends_short_rows_by_products(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits on a CPU, and as its own attention does: states and gradients; in float32 it is its own attention."""
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=50, initializer_range=0.3, **sizes)  # so that what is attended to shows in the states
    model = BertModel(config, add_pooling_layer=False).eval()
    ids_BL, mask_BL = torch.randint(0, 50, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    if masked:
        mask_BL[0, 4:] = 0
    direction_BLD = torch.randn(3, 9, 32)
    products = []
    apply = attention._Products.apply
    monkeypatch.setattr(attention._Products, "apply", lambda *given: (products.append(1), apply(*given))[1])

    def computed(low: bool) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            states_BLD = model(ids_BL, attention_mask=mask_BL).last_hidden_state.float() * mask_BL[..., None]
        (states_BLD * direction_BLD).sum().backward()
        return torch.cat([states_BLD.detach().flatten(), *(weight.grad.flatten() for weight in model.parameters())])

    expected = {low: computed(low) for low in (False, True)}
    assert not products
    use_short_rows(model)
    assert torch.equal(computed(False), expected[False]) and not products
    found = computed(True)
    assert len(products) == 2
    assert float(torch.nn.functional.cosine_similarity(found, expected[True], dim=0)) > 0.9995, "of gradients, within rounding"
    n_states = 3 * 9 * 32
    assert float((found - expected[True])[:n_states].abs().max()) < 0.1, "of states whose deviation is 1"
    model.train()  # dropout on attention weights is its own attention's
    computed(True)
    assert len(products) == 2
