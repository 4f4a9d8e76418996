"""What is said of a guide before anything is made: one that is wanted and not named, and one that cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.guide import guide_of_sets, guided
from flows.workspace import Dataset, Workspace
from pipeline_lib.config.finetuning import TuningConfig
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

DATASET = cast(Dataset, SimpleNamespace())


def never(*_: Any) -> Any:
    raise AssertionError("nothing is to be trained")


def guided_by(tmp_path: Path, **settings: Any) -> Dataset:
    config = apply(RunConfig(), {name.replace("__", "."): value for name, value in settings.items()})
    return guided(Workspace(tmp_path, Store(tmp_path), config), DATASET, never)


def test_nothing_that_asks_for_scores_makes_no_table(tmp_path: Path) -> None:
    assert guided_by(tmp_path) is DATASET
    assert guided_by(tmp_path, train__false_negatives__by="own") is DATASET
    assert guided_by(tmp_path, guide__model="first_round") is DATASET


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__false_negatives__by": "guide"}, "guide.model names none"),
        ({"train__teacher__kl_weight": 1.0}, "guide.model names none"),
        ({"guide__keep_top": 3}, "guide.model names none"),
        ({"train__teacher__margin_mse_weight": 1.0, "guide__model": "x"}, "the pairs of a dump have none"),
        ({"guide__keep_top": 3, "guide__model": "first_round", "train__continue_from": "abc"}, "name that run instead"),
        ({"guide__keep_top": 3, "guide__model": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_a_guide_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        guided_by(tmp_path, **settings)


def test_fine_tuning_says_what_it_lacks(tmp_path: Path) -> None:
    pairs = cast(Artifact, SimpleNamespace())
    assert guide_of_sets(Store(tmp_path), TuningConfig(), pairs) is None
    for settings, message in (
        ({"training.teacher.margin_mse_weight": 1.0}, r"set guide\.model"),
        ({"guide.keep_top": 2}, "leave them out"),
        ({"guide.model": "first_round"}, "leave them out"),
    ):
        with pytest.raises(UserError, match=message):
            guide_of_sets(Store(tmp_path), apply(TuningConfig(), settings), pairs)
