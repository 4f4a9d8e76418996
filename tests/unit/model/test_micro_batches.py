"""Cutting a batch into micro-batches loses nothing and pads little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.model.micro_batches import cut_micro_batches, in_input_order, padding_share


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=20), max_size=30), st.integers(1, 60))
def test_every_sequence_comes_back_whole(sequences: list[list[int]], max_tokens: int) -> None:
    batches = cut_micro_batches(sequences, max_tokens)
    seen = {}
    for batch in batches:
        assert len(batch.rows_B) == 1 or batch.padded_tokens <= max_tokens
        for ids, length, row in zip(batch.ids_BL, batch.lengths_B.tolist(), batch.rows_B.tolist(), strict=True):
            assert row not in seen
            seen[row] = ids[:length].tolist()
            assert not ids[length:].any()
    assert [seen[row] for row in range(len(sequences))] == sequences
    assert len(seen) == len(sequences)


def test_rows_return_to_the_input_order() -> None:
    sequences = [[1] * n for n in (9, 2, 5, 2, 7)]
    batches = cut_micro_batches(sequences, 10)
    pieces = [batch.lengths_B[:, None].double() for batch in batches]
    assert in_input_order(pieces, batches)[:, 0].tolist() == [9, 2, 5, 2, 7]


def test_sorting_keeps_padding_rare() -> None:
    lengths = np.random.default_rng(0).integers(4, 128, 512)
    sequences = [np.ones(n, dtype=np.int32) for n in lengths]
    sorted_share = padding_share(cut_micro_batches(sequences, 4096))
    one_batch_share = padding_share(cut_micro_batches(sequences, 10**9))
    assert sorted_share < 0.12 < 0.4 < one_batch_share


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        cut_micro_batches([[1, 2], []], 100)
    assert cut_micro_batches([], 100) == []
    assert padding_share([]) == 0.0


def test_ids_and_lengths_are_what_an_embedding_table_takes() -> None:
    batch = cut_micro_batches([np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)], 1000)[0]
    assert batch.ids_BL.dtype == batch.lengths_B.dtype == torch.int64
    assert batch.ids_BL.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert batch.rows_B.tolist() == [1, 0]
