"""A planted split: packages whose functions and prose speak of themes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, browser
from builders import pair_row, write_pairs

from data_contracts.schemas import row_id, text_hash
from pipeline_lib.evaluation.metrics import PRIMARY_METRIC, Queries
from pipeline_lib.evaluation.suites.models import ModelId
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

VERBS = ("read", "write", "merge", "split", "rotate", "encode", "decode", "cache", "flush", "trace")
NOUNS = ("matrix", "socket", "archive", "cookie", "token", "widget", "kernel", "packet", "ledger", "glyph")


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """A tab of a real browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with browser() as page:
        yield page


def make_pair(kind: str, group: str, document: str, position: int, x: str, y: str) -> dict[str, Any]:
    return pair_row(
        x,
        y,
        kind,
        id=row_id(kind, document, str(position), x, y),
        document_id=document,
        source=f"{group} 1.0",
        group=group,
        path=f"{group}/{document}.py",
        line=1 + position,
        position=position,
        name=f"{document}.f{position}",
    )


def make_split(name: str, groups: int = 4, documents: int = 6, pieces: int = 6) -> list[dict[str, Any]]:
    """Code and prose of some packages; each package has a noun of its own, each function a verb and a number."""
    rows = []
    for g in range(groups):
        group, noun = f"{name}-{NOUNS[g]}", NOUNS[g]
        for d in range(documents):
            document = f"{group}-{d}"
            prose = [f"The {noun} of {document} in chapter {p} can {VERBS[(d + p) % 10]} a {noun}." for p in range(pieces)]
            for p in range(pieces - 1):
                rows.append(make_pair("text", group, f"{document}-prose", p, prose[p], prose[p + 1]))
                x = f"{VERBS[p]} the {noun} number {d}{p}{g}"
                y = f"def {VERBS[p]}{noun.title()}(n_{d}{p}{g}):\n    return {noun}_{VERBS[p]}(n_{d}{p}{g})"
                rows.append(make_pair("code", group, document, p, x, y))
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def curated_of(store: Store) -> Callable[[dict[str, list[dict[str, Any]]]], Artifact]:
    """Writes a curated artifact from rows by split."""

    return partial(write_pairs, store, "curate")


@pytest.fixture
def split_rows() -> Callable[..., list[dict[str, Any]]]:
    return make_split


@pytest.fixture(name="pair_row")
def _pair_row() -> Callable[..., dict[str, Any]]:
    return make_pair


@pytest.fixture
def curated(curated_of: Callable[..., Artifact]) -> Artifact:
    return curated_of({name: make_split(name) for name in ("train", "validation", "test")})


def word_vectors(texts: Sequence[str], side: str = "x", progress: Any = None) -> np.ndarray:
    """Unit vectors of hashed words: a stand-in for a model that knows words and nothing else."""
    from pipeline_lib.index.lexical import words

    vectors = np.zeros((len(texts), 256), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in words(text):
            row[text_hash(word) % 256] += 1
        row[0] += 0.01
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def embed_words() -> Callable[..., np.ndarray]:
    return word_vectors


class WordEncoder:
    """Counts what it was asked, so that tests see what a cache saved."""

    def __init__(self, embed: Callable[..., np.ndarray], name: str = "words", step: int = -1) -> None:
        self.embed = embed
        self.asked: list[tuple[str, str]] = []
        self.id = ModelId(name, f"fingerprint-{name}", step)

    def encode(self, texts: Sequence[str], side: str, progress: Any = None) -> np.ndarray:
        self.asked += [(side, text) for text in texts]
        return self.embed(texts, side)


@pytest.fixture
def encoder(embed_words: Callable[..., np.ndarray]) -> WordEncoder:
    return WordEncoder(embed_words)


@pytest.fixture
def queries_of() -> Callable[..., Queries]:
    def make(values: Sequence[float], model: str = "a", kind: str = "code_search", targets: Any = None) -> Queries:
        ids = tuple(str(i) for i in range(len(values)))
        targets = np.ones(len(values)) if targets is None else np.array(targets, float)
        return Queries(model, "task", kind, ids, np.array(values, float), targets, PRIMARY_METRIC[kind])

    return make
