"""The vector cache: places by hash, and embeddings by (model, side, text) that any store's user finds again."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.runtime.progress import Progress
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import HashIndex, VectorCache, text_hashes


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


def test_machines_that_share_a_bucket_share_vectors(tmp_path: Path, s3: Any) -> None:
    s3.mkdir("vectors-bucket")
    texts, embedded = [f"text {n}" for n in range(5)], []

    def embed(asked: Sequence[str], progress: Progress) -> np.ndarray:
        embedded.extend(asked)
        return np.array([[len(text), int(text[-1])] for text in asked], np.float32)

    def cache(machine: str) -> VectorCache:
        return VectorCache(Store(tmp_path / machine, "s3://vectors-bucket/store"), "0" * 24, "y", embed)

    hashes_N2 = text_hashes(texts)
    one = cache("one")
    one.add(texts[:3], hashes_N2[:3])
    other = cache("other")
    assert other.missing(hashes_N2).tolist() == [3, 4] and other.missing(hashes_N2[[4, 4, 3, 3]]).tolist() == [0, 2]
    other.add(texts[3:], hashes_N2[3:])
    assert embedded == texts
    assert cache("third").read(hashes_N2[::-1])[:, 1].tolist() == [4, 3, 2, 1, 0]


def test_the_second_writer_of_the_same_texts_takes_the_firsts_vectors(tmp_path: Path) -> None:
    store, hashes_N2 = Store(tmp_path), text_hashes(["a", "b"])
    first, second = (
        VectorCache(store, "0" * 24, "x", lambda texts, _, value=value: np.full((len(texts), 1), value, np.float32))
        for value in (1.0, -1.0)
    )
    first.add(["a", "b"], hashes_N2)
    second.add(["a", "b"], hashes_N2)
    assert second.read(hashes_N2).ravel().tolist() == [1, 1] and len(store.parts("vectors", "")) == 1


def test_vectors_are_read_in_a_store_that_is_another_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes_N2 = text_hashes(["a", "b"])
    VectorCache(Store(tmp_path), "0" * 24, "x", lambda texts, _: np.eye(2, dtype=np.float32)).add(["a", "b"], hashes_N2)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.utime", refuse)  # as of a snapshot that is mounted to be read
    read = VectorCache(Store(tmp_path), "0" * 24, "x", lambda *_: pytest.fail("embedded again"))
    assert read.read(hashes_N2).tolist() == [[1, 0], [0, 1]]
