"""Pictures of the walk of a pair: those in docs/ are the ones that the code draws."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import walk

DRAWN = walk.pictures()


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_is_the_generated_one(name: str) -> None:
    assert (walk.PICTURES / name).read_text(encoding="utf-8") == DRAWN[name], "python -m benchmarks.walk"
    assert ElementTree.fromstring(DRAWN[name]).tag.endswith("svg")


def test_equal_texts_are_left_out_of_the_batch() -> None:
    import torch

    from data_contracts.schemas import text_hash
    from pipeline_lib.model.loss import PairHashes, false_negatives

    x_B, y_B = (torch.tensor([text_hash(pair[side]) for pair in walk.BATCH]) for side in (0, 1))
    hashes = PairHashes(x_B=x_B, y_B=y_B, document_B=torch.arange(4))
    assert np.array_equal(walk.left_out(), false_negatives(hashes, torch.arange(4)).numpy())
    assert walk.left_out().sum() == 4
