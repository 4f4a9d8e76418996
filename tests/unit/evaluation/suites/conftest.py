"""A stand-in encoder that knows words and nothing else, and files in the official layouts."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation.suites.models import ModelId


class WordEncoder:
    """Counts what it was asked, so that tests see what a cache saved."""

    def __init__(self, embed: Callable[..., np.ndarray], name: str = "words") -> None:
        self.embed = embed
        self.asked: list[tuple[str, str]] = []
        self.id = ModelId(name, f"fingerprint-{name}")

    def encode(self, texts: Sequence[str], side: str, progress: Any = None) -> np.ndarray:
        self.asked += [(side, text) for text in texts]
        return self.embed(texts, side)


@pytest.fixture
def encoder(embed_words: Callable[..., np.ndarray]) -> WordEncoder:
    return WordEncoder(embed_words)


@pytest.fixture
def config() -> SuiteConfig:
    return SuiteConfig(bootstrap=50)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file below the data folder, gzipped where its name says so."""

    def write(name: str, content: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode(encoding)
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
