"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpus import write_corpus

EVAL_DATA = Path(os.environ.get("CPT_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def eval_data() -> Path:
    """The folder of real evaluation sets and dumps; the test is skipped where there is none."""
    if not EVAL_DATA.is_dir():
        pytest.skip(f"evaluation data not found at {EVAL_DATA}: set CPT_EVAL_DATA to its folder")
    return EVAL_DATA


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder of code and prose with a planted function."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tree")
