"""The form in the UI: what it asks for, refuses and fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from causal_lms import write_causal_lm
from pydantic import BaseModel, ValidationError

from flows.cli.terminal import params_of
from flows.parameters import EvaluateParams, PublishParams, RunParams, TrainParams, run_options, split_checkpoint
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.model import HUB_MODELS
from pipeline_lib.config.presets import PRESETS, describe, preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import HUB_ID


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


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("asked", [{"steps": 10}, {"steps": 7}, {"steps": 100_000}, {"pairs": 3_000_000}, {"steps": 1}])
def test_the_warm_up_is_a_share_of_the_steps_that_are_asked_for(name: str, asked: dict[str, int]) -> None:
    plain = preset(name).train
    train = RunParams(preset=name, **asked).resolve().train  # type: ignore[arg-type]
    assert train.steps == asked.get("steps", round(3_000_000 / plain.batch_size))
    assert abs(train.warmup_steps - train.steps * plain.warmup_steps / plain.steps) <= 0.5
    own = {"steps", "warmup_steps"}
    assert train.model_dump(exclude=own) == plain.model_dump(exclude=own)


def test_no_steps_asked_for_leave_each_presets_own_warm_up() -> None:
    found = [RunParams(preset=name).resolve().train for name in ("demo", "smoke")]
    assert [(train.steps, train.warmup_steps) for train in found] == [(240, 20), (30, 3)]


def test_the_warm_up_of_pre_training_is_a_share_too() -> None:
    for steps in (10, 500):
        assert RunParams(preset="demo", pretrain_steps=steps).resolve().pretrain.warmup_steps == steps / 10
    assert RunParams(preset="demo", pretrain_steps=0).resolve().pretrain == preset("demo").pretrain


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_lm(tmp_path_factory.mktemp("start") / "tiny-llama", "llama")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_given_start_brings_a_language_models_rates_in_any_preset(name: str, language_model: Path) -> None:
    config = RunParams(preset=name, init=str(language_model), steps=50).resolve()  # type: ignore[arg-type]
    train = config.train
    assert config.model.init == str(language_model)
    rates = (train.embedding_learning_rate, train.embedding_epsilon, train.scale_learning_rate, train.clip_norm)
    assert rates == (None, 1e-8, None, 1.0), "one rate for all weights"
    assert (train.token_dropout, train.weight_average, train.warmup_steps) == (0.0, 0.0, 5)
    plain = preset(name).train
    kept = ("batch_size", "precision", "temperature", "mixture", "checkpoints", "weight_decay", "seed")
    assert [getattr(train, field) for field in kept] == [getattr(plain, field) for field in kept]
    assert train.learning_rate == config.pretrain.learning_rate == 3e-4, "by its size, 30 thousand weights"


@pytest.mark.parametrize(
    ("n_weights", "rate"), [(1, 3e-4), (135_000_000, 3e-4), (4e8, 1e-4), (6e8, 5e-5), (7_000_000_000, 2e-5), (None, 1e-4)]
)
def test_the_learning_rate_goes_by_the_size_of_the_start(n_weights: int | None, rate: float) -> None:
    assert preset("demo", "somebody/anything", n_weights).train.learning_rate == rate


def test_what_a_user_sets_wins_over_the_starts_rates(language_model: Path) -> None:
    params = RunParams(preset="demo", init=str(language_model), steps=1000, batch_size=96, seed=7, temperature="fixed")
    train = params.resolve().train
    assert (train.steps, train.batch_size, train.seed, train.train_temperature, train.warmup_steps) == (1000, 96, 7, False, 100)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_pre_trainings_sequences_fit_the_presets_model(name: str) -> None:
    config = RunParams(preset=name, init="random", pretrain_steps=5).resolve()  # type: ignore[arg-type]
    assert config.pretrain.sequence_tokens <= config.model.positions


def test_no_start_leaves_the_presets_rates_and_a_pre_trained_one_too() -> None:
    for asked in ({}, {"pretrain_steps": 10}, {"init": "random"}):
        assert RunParams(preset="demo", **asked).resolve().train == preset("demo").train  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cpt_text_s", "cpt_text_m", "cpt_text_l", "cpt_code_s", "cpt_code_m"])
def test_the_papers_presets_name_a_start_and_take_random_weights_only_when_asked(name: str) -> None:
    config, scratch = preset(name), RunParams(preset=name, init="random").resolve()  # type: ignore[arg-type]
    assert HUB_ID.fullmatch(config.model.init) and config.model.init in HUB_MODELS
    assert (scratch.model.init, scratch.model.start) == ("", "random")
    assert config.train.learning_rate < scratch.train.learning_rate, "tuned, not trained from nothing"
    assert f"from {config.model.init}" in describe(config, name) and "from" not in describe(scratch, name).splitlines()[1]


def test_the_largest_preset_says_that_it_has_no_start() -> None:
    config = preset("cpt_text_xl")
    assert config.model.init == "" and "no open language model of this size" in config.reference


def test_the_first_lines_say_whose_rates_these_are(language_model: Path) -> None:
    config = RunParams(preset="demo", init=str(language_model)).resolve()
    said = describe(config, "demo")
    assert "a language model's: 0.0003 for all weights, warm-up 24 steps, clip 1, no averaging, no token dropout" in said
    said = describe(preset("demo"), "demo")
    assert "the preset's: 0.0005 for all other weights, 0.05 for the token table, 0.005 for the logit scale" in said


def test_the_terminal_tells_of_a_missing_start_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()  # the word is no folder
    for options in ({"preset": "cpt_text_s"}, {"preset": "smoke", "init": "EleutherAI/pythia-410m"}):
        with pytest.raises(UserError, match=r"give --download .*hf download EleutherAI/pythia-410m.*--init random"):
            params_of(RunParams, run_options(), options)
    options: dict[str, Any] = {"preset": "cpt_text_s", "init": "random"}
    assert params_of(RunParams, run_options(), options).resolve().model.init == ""
    write_causal_lm(tmp_path / "lm", "gpt2")
    assert params_of(RunParams, run_options(), {"preset": "smoke", "init": "lm"}).init == str(tmp_path / "lm")


def test_curation_does_more_where_it_is_asked_to() -> None:
    config = RunParams(preset="smoke", contamination="/suites", near_duplicates=0.8).resolve()
    assert (config.contamination.folder, config.curate.near.threshold) == ("/suites", 0.8)
    plain = preset("smoke")
    assert (plain.contamination.folder, plain.curate.near.threshold) == (None, None)


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
    assert (config.source.dump, config.source.folder, config.name) == ("/data/Common Crawl.yaml", None, "common-crawl")
    assert config.source.key_fields() == RunParams(preset="smoke").resolve().source.key_fields()
    with pytest.raises(UserError, match="give one"):
        RunParams(preset="smoke", dump="a.yaml", source="folder").resolve()
