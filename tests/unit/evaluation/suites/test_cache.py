"""Embeddings by (weights, text, side): computed once, and never taken from damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.cached import CachedEncoder
from pipeline_lib.store.store import Store

TEXTS = [f"text {'word ' * (n % 7)} number {n}" for n in range(50)] + ["text  number 0", "", "half of a pair: \ud800"]


def test_a_second_run_computes_nothing_and_gives_the_same_bits(encoder, tmp_path, embed_words):
    first = CachedEncoder(encoder, Store(tmp_path), block_texts=8).encode(TEXTS, "x")
    assert len(encoder.asked) == len(set(TEXTS))
    again = CachedEncoder(encoder, Store(tmp_path), block_texts=8)
    assert np.array_equal(again.encode(TEXTS[::-1], "x")[::-1], first) and again.computed == 0
    assert np.array_equal(first[:50], embed_words(TEXTS[:50]))


def test_side_and_weights_are_part_of_the_key(encoder, tmp_path, embed_words):
    cached = CachedEncoder(encoder, Store(tmp_path))
    cached.encode(["a"], "x")
    cached.encode(["a"], "y")
    assert encoder.asked == [("x", "a"), ("y", "a")]
    other = type(encoder)(embed_words, "others")
    CachedEncoder(other, Store(tmp_path)).encode(["a"], "x")
    assert other.asked == [("x", "a")]


def test_the_longest_texts_come_first(encoder, tmp_path):
    CachedEncoder(encoder, Store(tmp_path), block_texts=5).encode(TEXTS, "x")
    lengths = [len(text) for _, text in encoder.asked]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("name", ["hashes.npy", "vectors.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_segment_is_computed_again(encoder, tmp_path, damage, name):
    first = CachedEncoder(encoder, Store(tmp_path)).encode(TEXTS, "x")
    (path,) = tmp_path.rglob(name)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    again = CachedEncoder(encoder, Store(tmp_path))
    assert np.array_equal(again.encode(TEXTS, "x"), first) and again.computed == len(set(TEXTS))


@pytest.mark.parametrize(("factor", "what"), [(np.nan, "not finite"), (2.0, "not of length 1")])
def test_vectors_that_cannot_be_are_refused(encoder, tmp_path, factor, what):
    encoder.embed = lambda texts, side: np.full((len(texts), 4), 0.5, np.float32) * np.float32(factor)
    with pytest.raises(UserError, match=what):
        CachedEncoder(encoder, Store(tmp_path)).encode(["a"], "x")
    assert not list(tmp_path.rglob("parts/*"))
