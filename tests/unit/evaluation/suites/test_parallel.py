"""The same vectors from several processes, and the places that a cache remembers."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from process_revealing_encoder import ProcessRevealingEncoder

from pipeline_lib.evaluation.suites.cached import TEXTS_A_TASK, ParallelEncoder, Places, text_hashes


def test_processes_give_the_same_vectors_in_the_same_order():
    texts = [f"{n} {'word ' * (n * 7 % 23)}" for n in range(2 * TEXTS_A_TASK + 3)]
    encoder, told = ParallelEncoder(ProcessRevealingEncoder(), 2), []
    try:
        both = encoder.encode(texts, "x", lambda done, total, note="": told.append((done, total)))
        few = encoder.encode(texts[:3], "x")
    finally:
        encoder.close()
    alone = ProcessRevealingEncoder().encode(texts, "x")
    assert np.array_equal(both[:, :2], alone[:, :2])
    assert len(set(both[:, 2])) == 2 and os.getpid() not in set(both[:, 2])  # two others did the work
    assert set(few[:, 2]) == {np.float32(os.getpid())}  # too few to hand over
    assert len(told) == 4 and told[-1] == (len(texts), len(texts)) and told == sorted(told)  # two tasks a process


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(max_size=2), max_size=6), max_size=12), st.lists(st.text(max_size=2), max_size=9))
def test_places_are_those_of_a_dictionary(segments, asked):
    places, expected = Places(), {}
    for number, texts in enumerate(segments):
        new = [text for text in dict.fromkeys(texts) if text not in expected]
        places.add(text_hashes(new), number)
        expected.update({text: (number, row) for row, text in enumerate(new)})
    found = list(zip(*(column.tolist() for column in places.find(text_hashes(asked))), strict=True))
    assert found == [expected.get(text, (-1, 0)) for text in asked]
