"""Keys of configurations: what is unset, later or operational leaves the key that artifacts were made under."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.config.base import StageConfig, added, unset
from pipeline_lib.config.data import CurateConfig
from pipeline_lib.config.filters import FilterConfig
from pipeline_lib.config.finetuning import FinetuneConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import EarlyStoppingConfig, TrainConfig


class Example(StageConfig):
    """Four kinds of fields."""

    rate: float | None = unset(was=0.0)
    kept: int | None = unset(was=0, added=True)
    later: int = added(1)
    workers: int | None = unset(was=0, operational=True)


def test_the_unset_has_the_key_that_it_had() -> None:
    assert Example().key_fields() == {"rate": 0.0}
    assert Example(rate=0.5, kept=2, later=3, workers=4).key_fields() == {"rate": 0.5, "kept": 2, "later": 3}
    assert TrainConfig().key_fields()["scale_learning_rate"] == 0.0
    assert CurateConfig().key_fields()["near"]["threshold"] == 0.0
    assert FilterConfig().key_fields()["max_characters"] == 0
    assert not {"first_moment_decay", "epsilon", "keep_checkpoints"} & TrainConfig().key_fields().keys()


def test_schedules_and_continuing_left_the_keys_as_they_were() -> None:
    fields = {"schedule", "decay_share", "early_stopping", "continue_from", "when_grown", "grown_steps_share"}
    assert not fields & TrainConfig().key_fields().keys()
    stops = TrainConfig(early_stopping=EarlyStoppingConfig(patience=2))
    assert stops.key_fields()["early_stopping"] == {"patience": 2, "metric": "loss", "min_delta": 0.0}


@pytest.mark.parametrize(
    ("config", "idle", "at_work"),
    [
        (TrainConfig, {"false_negatives": {"margin": -0.1, "unmasked_steps": 9}}, {"false_negatives": {"by": "own"}}),
        (TrainConfig, {"teacher": {"temperature": 0.1}}, {"teacher": {"kl_weight": 0.1}}),
        (TrainConfig, {"matryoshka": {}}, {"matryoshka": {"dims": [8]}}),
        (ModelConfig, {"lora": {"alpha": 32.0, "targets": ["mlp"]}}, {"lora": {"rank": 2}}),
        (FinetuneConfig, {"false_negatives": {"kind": "relative"}}, {"false_negatives": {"by": "guide"}}),
        (TrainConfig, {"tracking": ["mlflow"]}, {"seed": 7}),
    ],
)
def test_a_section_that_does_nothing_is_no_part_of_a_key(
    config: type[StageConfig], idle: dict[str, Any], at_work: dict[str, Any]
) -> None:
    assert config.model_validate(idle).key_fields() == config().key_fields()
    assert config.model_validate(at_work).key_fields() != config().key_fields()


def test_the_metric_of_early_stopping_chooses_what_is_kept_without_it_too() -> None:
    by_mrr = TrainConfig(early_stopping=EarlyStoppingConfig(metric="mrr"), keep_checkpoints=1)
    assert by_mrr.key_fields()["early_stopping"]["metric"] == "mrr"


def test_what_stood_for_unset_is_read_as_unset() -> None:
    assert Example.model_validate({"rate": 0.0, "kept": 0, "workers": 0}) == Example()
    assert Example.model_validate_json('{"rate": 0}') == Example()
