"""The form in the UI: what it asks for, refuses and fills in."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from flows.parameters import EvaluateParams, PublishParams, RunParams, TrainParams, split_checkpoint
from pipeline_lib.config import RunConfig, StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.presets import PRESETS, describe, preset


def test_parameters_that_lose_their_preset_are_refused() -> None:
    with pytest.raises(ValidationError, match="preset"):
        RunParams()  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="extra"):
        RunParams(preset="demo", corpus="x")  # type: ignore[call-arg]


def test_every_parameter_has_a_title_and_a_description() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                check(nested)
            else:
                assert field.title and field.description, f"{model.__name__}.{name}"

    for model in (RunParams, TrainParams, EvaluateParams, PublishParams):
        check(model)


def test_every_config_field_has_a_description() -> None:
    def check(model: type[StageConfig]) -> None:
        for name, field in model.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, StageConfig):
                check(nested)
            else:
                assert field.description, f"{model.__name__}.{name}"

    check(RunConfig)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_resolve_and_describe_themselves(name: str) -> None:
    config = RunParams(preset=name).resolve()  # type: ignore[arg-type]
    assert config == preset(name)
    assert f"{config.train.batch_size - 1:,} negatives" in describe(config, name)


def test_what_is_asked_for_takes_the_presets_place() -> None:
    config = RunParams(preset="smoke", source="/data/My Corpus", steps=7, seed=5, processes=2).resolve()
    assert (config.name, config.train.steps, config.train.seed, config.train.processes) == ("my-corpus", 7, 5, 2)
    assert config.train.batch_size == preset("smoke").train.batch_size


def test_pairs_and_a_batch_size_give_the_steps_and_switches_reach_their_configs() -> None:
    config = RunParams(preset="demo", pairs=61_440, batch_size=256, temperature="fixed", directions="y_to_x").resolve()
    assert (config.train.steps, config.train.batch_size, config.train.warmup_steps) == (240, 256, 20)
    assert (config.train.train_temperature, config.train.directions) == (False, "y_to_x")
    config = RunParams(preset="demo", pooling="mean", delimiters="shared").resolve()
    assert (config.model.pooling, config.tokenizer.delimiters) == ("mean", "shared")
    with pytest.raises(UserError, match="give one"):
        RunParams(preset="demo", pairs=1000, steps=10).resolve()


def test_curation_does_more_where_it_is_asked_to() -> None:
    config = RunParams(preset="smoke", contamination="/suites", near_duplicates=0.8).resolve()
    assert (config.contamination.folder, config.curate.near.threshold) == ("/suites", 0.8)
    plain = preset("smoke")
    assert (plain.contamination.folder, plain.curate.near.threshold) == ("", 0.0)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="cpt_text_xl, demo, smoke"):
        preset("huge")


def test_checkpoint_names() -> None:
    assert split_checkpoint("step-000400") == ("", "step-000400")
    assert split_checkpoint("abc/step-000400") == ("abc", "step-000400")
    with pytest.raises(UserError, match="step-000400"):
        split_checkpoint("best")


def test_a_run_that_is_named_by_its_key_needs_no_preset() -> None:
    assert PublishParams(checkpoint="abc/step-000400").key == EvaluateParams(trained="abc").key == "abc"
    for fields in ({}, {"checkpoint": "step-000400"}, {"suites": ("sts-b",), "models": ("bm25",)}):
        with pytest.raises(ValidationError, match="give a preset, or a checkpoint as TRAINKEY"):
            EvaluateParams(**fields)  # type: ignore[arg-type]
    schema = EvaluateParams.model_json_schema()
    assert "preset" not in schema.get("required", []), "the form of the deployment takes a checkpoint alone"


def test_a_dump_spec_stands_in_for_a_folder_and_names_the_run() -> None:
    config = RunParams(preset="smoke", dump="/data/Common Crawl.yaml").resolve()
    assert (config.source.dump, config.source.folder, config.name) == ("/data/Common Crawl.yaml", "", "common-crawl")
    assert config.source.key_fields() == RunParams(preset="smoke").resolve().source.key_fields()
    with pytest.raises(UserError, match="give one"):
        RunParams(preset="smoke", dump="a.yaml", source="folder").resolve()
