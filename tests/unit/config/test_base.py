"""Keys of configurations: what is unset, later or operational leaves the key that artifacts were made under."""

from __future__ import annotations

from pipeline_lib.config.base import StageConfig, added, unset
from pipeline_lib.config.data import CurateConfig
from pipeline_lib.config.filters import FilterConfig
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


def test_what_stood_for_unset_is_read_as_unset() -> None:
    assert Example.model_validate({"rate": 0.0, "kept": 0, "workers": 0}) == Example()
    assert Example.model_validate_json('{"rate": 0}') == Example()
