"""The vector cache: places by hash, and embeddings by (model, side, text) that any store's user finds again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.store.vectors import HashIndex, text_hashes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(max_size=2), max_size=6), max_size=12), st.lists(st.text(max_size=2), max_size=9))
def test_places_are_those_of_a_dictionary(segments, asked):
    places, expected = HashIndex(), {}
    for number, texts in enumerate(segments):
        new = [text for text in dict.fromkeys(texts) if text not in expected]
        places.add(text_hashes(new), number)
        expected.update({text: (number, row) for row, text in enumerate(new)})
    found = list(zip(*(column.tolist() for column in places.find(text_hashes(asked))), strict=True))
    assert found == [expected.get(text, (-1, 0)) for text in asked]
