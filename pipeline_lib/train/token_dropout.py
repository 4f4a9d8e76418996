"""Leave some of each text's tokens out, the same ones whichever process the sample is dealt to.

Each decision is a hash of (seed, step, side, row of the dataset, position in the text): a counter-based generator, splitmix64,
in place of a stateful one, so that neither the order of samples nor the number of ranks matters.

N sequences of one side and kind, T tokens of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline_lib.tokens.permutation import mix

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def drop_tokens(ids: Sequence[np.ndarray], rows_N: np.ndarray, share: float, stream: tuple[object, ...]) -> list[np.ndarray]:
    """The sequences with `share` of their inner tokens left out on average, each with a share of its own.

    A text's share is drawn evenly from 0 to twice `share`, so that some are seen nearly whole, as all are outside of training.
    The first and last token, the delimiters, always stay; a text that would lose all its tokens keeps them all.

    Args:
        ids: token ids with both delimiters.
        rows_N: each sequence's row in its dataset.
        share: 0 to 0.5, of the inner tokens.
        stream: what else the choice depends on: seed, step, kind, side.
    """
    if share == 0.0 or not ids:
        return list(ids)
    flat_T = np.concatenate(ids)
    lengths_N = np.array([len(sequence) for sequence in ids])
    starts_N = np.cumsum(lengths_N) - lengths_N
    positions_T = np.arange(len(flat_T)) - np.repeat(starts_N, lengths_N)
    keys_N = _sample_keys(rows_N, stream)
    share_N = 2 * share * _uniform(keys_N, np.full(len(ids), -1))  # drawn at a place that no token has
    keep_T = _uniform(np.repeat(keys_N, lengths_N), positions_T) >= np.repeat(share_N, lengths_N)
    keep_T[starts_N] = keep_T[starts_N + lengths_N - 1] = True
    kept_N = np.add.reduceat(keep_T, starts_N, dtype=np.int64)
    keep_T |= np.repeat(kept_N <= 2, lengths_N)
    kept_N = np.where(kept_N <= 2, lengths_N, kept_N)
    return np.split(flat_T[keep_T], np.cumsum(kept_N)[:-1])


def _sample_keys(rows_N: np.ndarray, stream: tuple[object, ...]) -> np.ndarray:
    digest = hashlib.sha256(repr(stream).encode()).digest()
    return mix(mix(rows_N.astype(np.uint64)) ^ np.uint64(int.from_bytes(digest[:8], "big")))


def _uniform(keys_T: np.ndarray, positions_T: np.ndarray) -> np.ndarray:
    bits_T = mix(keys_T + positions_T.astype(np.uint64) * GOLDEN)
    return (bits_T >> np.uint64(11)).astype(np.float64) * 2.0**-53
