"""Progress: what is told of embedding is proportionate to the work, though short texts come first."""

from __future__ import annotations

import pytest

from pipeline_lib.runtime.progress import by_tokens, embedding


def test_texts_are_counted_by_their_tokens() -> None:
    told: list[tuple[float, float, str]] = []
    tell = by_tokens(lambda *given: told.append(given), [8, 1, 1])
    tell([1, 1])
    tell([8])
    assert told == [(pytest.approx(0.6), 3, "0 texts"), (3, 3, "3 texts")]


def test_nothing_to_embed_tells_nothing() -> None:
    told: list[str] = []
    tell = by_tokens(lambda done, total, note="": told.append(note), [0, 0])
    tell([0, 0])
    assert told == ["0 texts"]


def test_one_of_several_calls_is_told_as_all() -> None:
    told: list[tuple[float, float, str]] = []
    by_tokens(embedding(lambda *given: told.append(given), 10, 20), [5, 5])([5])
    assert told == [(11, 20, "11 of 20 texts embedded")]
