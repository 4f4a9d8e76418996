"""The start computes a weighted bag of words, from the training split alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from training_runs import write_inputs
from transformers import GPT2Config, GPT2Model

from pipeline_lib.config.model import LexicalStartConfig, ModelConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.lexical_start import lexical_start, set_bag_of_words, word_vectors
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.frequency import inverse_document_frequency, texts_with

WIDTH, VOCAB = 64, 200
DELIMITERS = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """300 pairs of 5 to 20 words, the low ids common and the high ones rare."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(5, 20, 300)
    ids = 5 + np.minimum(chance.geometric(0.02, lengths.sum()), VOCAB - 6)
    return ids.astype(np.int64), np.cumsum(lengths)


def test_idf_counts_each_pair_once() -> None:
    ids, ends = np.array([7, 7, 8, 7, 9]), np.array([3, 5])
    idf_V = inverse_document_frequency(texts_with(ids, ends, 10), len(ends))
    assert idf_V[7] == pytest.approx(np.log(3 / 3) + 0.3)
    assert idf_V[8] == pytest.approx(np.log(3 / 2) + 0.3)
    assert idf_V[9] == idf_V[8]
    assert idf_V[0] == pytest.approx(np.log(3) + 0.3)


def model_config(width: int = WIDTH, **lexical: float) -> ModelConfig:
    return ModelConfig(width=width, heads=4, inner=32, lexical=LexicalStartConfig(**lexical))  # type: ignore[arg-type]


def test_word_vectors_are_the_same_each_time_and_bring_words_of_the_same_pairs_together(rows) -> None:
    ids, ends = rows
    together = np.concatenate([ids, np.tile([190, 191, 192], 40)])  # three words that only ever come together
    all_ends = np.concatenate([ends, ends[-1] + 3 * np.arange(1, 41)])
    idf_V = inverse_document_frequency(texts_with(together, all_ends, VOCAB), len(all_ends))
    vectors_VD = word_vectors(together, all_ends, idf_V, model_config(latent_share=1.0))
    assert np.array_equal(vectors_VD, word_vectors(together, all_ends, idf_V, model_config(latent_share=1.0)))
    similarity = vectors_VD @ vectors_VD.T
    assert similarity[190, 191] > 0.95 > similarity[190, 20]


def test_word_vectors_are_the_same_bits_with_one_thread_and_with_several() -> None:
    chance = np.random.default_rng(1)
    ids, ends = 5 + chance.integers(0, 1_995, 60_000), 20 * np.arange(1, 3_001)
    idf_V = inverse_document_frequency(texts_with(ids, ends, 2_000), len(ends))
    several = word_vectors(ids, ends, idf_V, model_config(width=256))
    with threadpool_limits(1):
        assert np.array_equal(several, word_vectors(ids, ends, idf_V, model_config(width=256)))


def test_a_start_is_the_same_to_the_byte_each_time_it_is_made(tmp_path: Path) -> None:
    _, made = write_inputs(tmp_path / "inputs")
    config = model_config(width=32)
    starts = []
    for number in (1, 2):
        torch.manual_seed(number)  # what ran before in the process must not show
        starts.append(lexical_start(Store(tmp_path / str(number)), made.shards, made.tokenizer, config))
    assert starts[0].digest == starts[1].digest


def test_of_fewer_pairs_than_dimensions_there_are_fewer_latent_ones(rows) -> None:
    """A small source has a start too: a word's own random vector fills what cannot be counted."""
    ids, ends = rows
    few = word_vectors(ids[: ends[9]], ends[:10], np.ones(VOCAB), model_config(latent_share=1.0))
    assert few.shape == (VOCAB, WIDTH) and not few[:, 10:].any()
    seen = np.unique(ids[: ends[9]])
    assert np.linalg.norm(few[seen], axis=1) == pytest.approx(1)
    mixed = word_vectors(ids[: ends[9]], ends[:10], np.ones(VOCAB), model_config())
    assert np.linalg.matrix_rank(mixed) == WIDTH, "every word keeps its identity"


def test_pairs_without_words_are_named() -> None:
    with pytest.raises(UserError, match="got 3 pairs, expected some of 3 words and more; give a larger source"):
        word_vectors(np.array([7, 8, 9]), np.array([1, 2, 3]), np.ones(VOCAB), model_config())


@pytest.mark.parametrize("layers", [1, 3])
def test_the_encoder_at_step_0_is_the_weighted_mean_of_its_words(layers: int) -> None:
    chance = np.random.default_rng(1)
    vectors_VD = chance.standard_normal((VOCAB, WIDTH))
    idf_V = chance.uniform(0.5, 5.0, VOCAB)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=WIDTH, n_layer=layers, n_head=4, n_inner=32, embd_pdrop=0.0, resid_pdrop=0.0
    )
    backbone = GPT2Model(config)
    set_bag_of_words(backbone, vectors_VD, idf_V, DELIMITERS, seed=1)
    words = np.array([17, 60, 150, 60])
    emb_D = Encoder(backbone).eval()(torch.tensor([[0, *words, 1]]), torch.tensor([len(words) + 2]))[0].detach().numpy()
    table_VD = backbone.wte.weight.detach().numpy()
    expected_D = (idf_V[words, None] * table_VD[words]).sum(0)
    expected_D[0] = 0.0  # it carries the weights
    expected_D -= expected_D.mean()  # the final norm
    cosine = emb_D @ expected_D / np.linalg.norm(expected_D)
    assert cosine > 0.97
    doubled = Encoder(backbone).eval()(torch.tensor([[0, *words, *words, 1]]), torch.tensor([len(words) * 2 + 2]))[0]
    assert emb_D @ doubled.detach().numpy() > 0.999, "a mean does not change when its words come twice"
