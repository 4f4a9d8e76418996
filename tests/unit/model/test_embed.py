"""Embeddings are a function of the text alone: not of its neighbours, their order or the padding."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.runtime.machine import PRIMITIVES_KEPT, keep_few_primitives


class ByteTokenizer:
    """One id a byte, between reserved delimiters."""

    vocab_size = 261
    x_open, x_close, y_open, y_close, pad = range(5)

    def encode(self, texts: Sequence[str], side: str, max_tokens: int) -> list[list[int]]:
        opening, closing = (self.x_open, self.x_close) if side == "x" else (self.y_open, self.y_close)
        return [[opening, *(byte + 5 for byte in text.encode()[: max_tokens - 2]), closing] for text in texts]


def embed(
    encoder: Encoder, tokenizer: ByteTokenizer, texts: Sequence[str], side: str, max_tokens: int, batch_tokens: int = 16_384
) -> np.ndarray:
    return embed_ids(encoder, tokenizer.encode(texts, side, max_tokens), batch_tokens)


TEXTS = ["", "a", "parse a date", "ünïcödé", "]} [ {", "long " * 30, "parse a date"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = ModelConfig(layers=2, width=32, heads=4, inner=64, positions=64, dropout=0.3)
    return Encoder.build(config, ByteTokenizer(), seed=1)


@pytest.mark.parametrize("batch_tokens", [1, 16, 100, 100_000])
def test_batching_does_not_change_a_vector(encoder: Encoder, batch_tokens: int) -> None:
    alone = np.concatenate([embed(encoder, ByteTokenizer(), [text], "y", 64) for text in TEXTS])
    together = embed(encoder, ByteTokenizer(), TEXTS, "y", 64, batch_tokens)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    backwards = embed(encoder, ByteTokenizer(), TEXTS[::-1], "y", 64, batch_tokens)
    np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)


@pytest.mark.parametrize("size", range(1, len(TEXTS) + 1))
def test_padding_its_content_and_the_batch_size_do_not_change_a_vector(encoder: Encoder, size: int) -> None:
    """Row C06: pooled at the true closing delimiter, whatever stands behind it and beside it."""
    ids = ByteTokenizer().encode(TEXTS, "x", 64)
    alone = np.concatenate([embed_ids(encoder, [row]) for row in ids])
    for start in range(0, len(ids), size):
        rows = ids[start : start + size]
        for longest in (max(map(len, rows)), 64):
            padded_BL = np.random.default_rng(size).integers(0, ByteTokenizer.vocab_size, (len(rows), longest))
            for row_L, row in zip(padded_BL, rows, strict=True):
                row_L[: len(row)] = row
            with torch.no_grad():
                emb_BD = encoder.eval()(torch.from_numpy(padded_BL), torch.tensor(list(map(len, rows)))).numpy()
            np.testing.assert_allclose(emb_BD, alone[start : start + size], atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(emb_BD, axis=1), 1, atol=1e-6)


def test_vectors_are_units_in_float32_and_equal_texts_are_equal(encoder: Encoder) -> None:
    emb_ND = embed(encoder, ByteTokenizer(), TEXTS, "x", 64)
    assert emb_ND.dtype == np.float32
    assert emb_ND.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(np.linalg.norm(emb_ND, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(emb_ND[2], emb_ND[6], atol=1e-6)
    assert np.abs(emb_ND[0] - emb_ND[1]).max() > 1e-3


def test_side_and_truncation_matter(encoder: Encoder) -> None:
    one = embed(encoder, ByteTokenizer(), ["a text"], "x", 64)
    assert np.abs(one - embed(encoder, ByteTokenizer(), ["a text"], "y", 64)).max() > 1e-3
    assert np.abs(one - embed(encoder, ByteTokenizer(), ["a text"], "x", 4)).max() > 1e-3


def test_dropout_is_off_and_the_mode_restored(encoder: Encoder) -> None:
    encoder.train()
    one, same = (embed(encoder, ByteTokenizer(), TEXTS, "x", 64) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert encoder.training
    encoder.eval()
    embed(encoder, ByteTokenizer(), TEXTS, "x", 64)
    assert not encoder.training


def test_progress_reaches_the_total(encoder: Encoder) -> None:
    said = []
    embed_ids(encoder, [[0, 7, 1]] * 5, 6, lambda done, total, note="": said.append((done, total, note)))
    assert said == [(2, 5, "2 texts"), (4, 5, "4 texts"), (5, 5, "5 texts")]


def test_nothing_to_embed_is_an_empty_table(encoder: Encoder) -> None:
    assert embed(encoder, ByteTokenizer(), [], "x", 64).shape == (0, 32)


def test_embedding_keeps_few_compiled_primitives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every micro-batch has a shape of its own: 1,024 primitives, which is what oneDNN keeps, hold gigabytes."""
    assert PRIMITIVES_KEPT.keys() <= os.environ.keys(), "importing the encoder bounds them"
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    keep_few_primitives()
    assert os.environ["LRU_CACHE_CAPACITY"] == "64"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7", "the user's own stays"
