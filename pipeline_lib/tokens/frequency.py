"""How often tokens stand in texts: inverse document frequency (Sparck Jones 1972), counted on token shards.

T tokens of all texts together, N texts, V ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.tokens.dataset import TokenDataset

IDF_FLOOR = 0.3  # a word of every text still counts a little
STRETCH = 1024  # neighbouring rows that are read together
STRETCHES = 128  # of a data set at most, spread evenly over it: a corpus's frequencies are known long before its end


def texts_with(ids_T: NDArray[np.integer], ends_N: NDArray[np.integer], n_ids: int) -> NDArray[np.int64]:
    """Number of texts that hold each id (V,).

    Args:
        ids_T: of all texts, end to end.
        ends_N: where each text ends.
    """
    texts_T = np.repeat(np.arange(len(ends_N)), np.diff(ends_N, prepend=0))
    return np.bincount(np.unique(texts_T * n_ids + ids_T) % n_ids, minlength=n_ids)


def inverse_document_frequency(frequency_V: NDArray[np.integer], n_texts: int) -> NDArray[np.float64]:
    """log((N + 1) / (df + 1)) + 0.3 of every id (V,)."""
    return np.log((n_texts + 1) / (frequency_V + 1)) + IDF_FLOOR


def token_weights(datasets: Iterable[TokenDataset], n_ids: int) -> NDArray[np.float32]:
    """Inverse document frequency of every id (V,) over these pairs, 1 for the average token of a text.

    Both sides of a pair are texts of their own. Of a large data set rows all over it are read, the same ones each time.
    """
    frequency_V, tokens_V, n_texts = np.zeros(n_ids, np.int64), np.zeros(n_ids, np.int64), 0
    for dataset in datasets:
        n_stretches = -(-len(dataset) // STRETCH)
        for number in np.unique(np.linspace(0, n_stretches - 1, min(n_stretches, STRETCHES)).astype(int)):
            rows = dataset.rows(np.arange(number * STRETCH, min((number + 1) * STRETCH, len(dataset))))
            texts = rows.x_ids + rows.y_ids
            ids_T = np.concatenate(texts).astype(np.int64)
            frequency_V += texts_with(ids_T, np.cumsum([len(text) for text in texts]), n_ids)
            tokens_V += np.bincount(ids_T, minlength=n_ids)
            n_texts += len(texts)
    idf_V = inverse_document_frequency(frequency_V, n_texts)
    return (idf_V * tokens_V.sum() / (idf_V @ tokens_V)).astype(np.float32)
