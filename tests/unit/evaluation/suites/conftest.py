"""Files in the official layouts."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config.evaluation import SuiteConfig


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
