"""The same vectors from several processes."""

from __future__ import annotations

import os

import numpy as np
from process_revealing_encoder import ProcessRevealingEncoder

from pipeline_lib.evaluation.suites.cached import TEXTS_A_TASK, ParallelEncoder


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
