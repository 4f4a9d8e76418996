"""What tests/unit/train/test_sharding.py asserts on gloo, on NCCL: needs two GPUs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "train"))

from test_sharding import assert_collectives

from benchmarks.equivalence import measure

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, there are {GPUS}")


@pytest.mark.parametrize("size", [2, 4])
def test_collectives_of_a_step_on_nccl(size: int) -> None:
    if size > GPUS:
        pytest.skip(f"needs {size} GPUs, there are {GPUS}")
    assert_collectives(size, "cuda")


@pytest.mark.parametrize("size", [2, 4])
def test_every_way_gives_the_oracles_gradients_on_nccl(size: int) -> None:
    if size > GPUS:
        pytest.skip(f"needs {size} GPUs, there are {GPUS}")
    assert measure((size,), "cuda")["failed"] == 0
