"""The form in the UI: what it asks for, refuses and fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from causal_lms import write_causal_lm
from pydantic import BaseModel, ValidationError

from flows.cli.terminal import params_of, read_params
from flows.params import (
    AblateParams,
    DatasetParams,
    EvaluateParams,
    FinetuneParams,
    PretrainParams,
    PublishParams,
    RunParams,
    TrainParams,
)
from flows.runs import split_checkpoint
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.config.model import HUB_MODELS
from pipeline_lib.config.presets import describe, preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import HUB_ID

MODELS = (
    RunParams, DatasetParams, PretrainParams, TrainParams, EvaluateParams, PublishParams, FinetuneParams, AblateParams,
)  # fmt: skip


def run(preset: str, *words: str, **fields: Any) -> RunParams:
    return RunParams(preset=preset, set=words, **fields)


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

    for model in MODELS:
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
    asked = ("train.steps=7", "train.seed=5", "train.processes=2")
    config = run("smoke", *asked, source="/data/My Corpus").resolve()
    assert (config.name, config.train.steps, config.train.seed, config.train.processes) == ("my-corpus", 7, 5, 2)
    assert config.train.batch_size == preset("smoke").train.batch_size


def test_settings_reach_every_section_and_the_last_word_wins(tmp_path: Path) -> None:
    config = run("demo", "model.pooling=mean", "tokenizer.delimiters=shared", "extract.filters.min_characters=9").resolve()
    assert (config.model.pooling, config.tokenizer.delimiters, config.extract.filters.min_characters) == ("mean", "shared", 9)
    file = tmp_path / "mine.yaml"
    file.write_text("train: {learning_rate: 2e-4, seed: 3}\nsource: {folder: /of/the/file}\n")
    params = run("demo", "train.seed=4", "train.seed=5", config=str(file), source="/of/the/field")
    config = params.resolve()
    assert (config.train.learning_rate, config.train.seed, config.source.folder) == (2e-4, 5, "/of/the/field")
    assert params.folded().resolve() == config and params.folded().config is None
    assert params.command() == "cpt run --preset demo --source field --seed 5 --set train.learning_rate=0.0002"


def test_a_users_preset_is_told_as_a_built_in_one_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text("base: smoke\ntrain: {learning_rate: 3e-4}\n")
    params = run("mine", "train.seed=4")
    assert params.folded().resolve().model_copy(update={"preset": "mine"}) == params.resolve()
    assert params.command() == "cpt run --preset smoke --seed 4 --set name=mine --set train.learning_rate=0.0003"
    assert "mine" in RunParams.model_json_schema()["properties"]["preset"]["enum"]


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("steps", [10, 7, 100_000, 1])
def test_the_warm_up_is_a_share_of_the_steps_that_are_asked_for(name: str, steps: int) -> None:
    plain = preset(name).train
    train = run(name, f"train.steps={steps}").resolve().train
    assert train.steps == steps
    assert run(name, f"train.steps={steps}", "train.warmup_steps=3").resolve().train.warmup_steps == 3
    assert abs(train.warmup_steps - train.steps * plain.warmup_steps / plain.steps) <= 0.5
    own = {"steps", "warmup_steps"}
    assert train.model_dump(exclude=own) == plain.model_dump(exclude=own)


def test_no_steps_asked_for_leave_each_presets_own_warm_up() -> None:
    found = [RunParams(preset=name).resolve().train for name in ("demo", "smoke")]
    assert [(train.steps, train.warmup_steps) for train in found] == [(240, 20), (30, 3)]


def test_the_warm_up_of_pre_training_is_a_share_too() -> None:
    for steps in (10, 500):
        assert run("demo", f"pretrain.steps={steps}").resolve().pretrain.warmup_steps == steps / 10
    assert run("demo", "pretrain.steps=0").resolve().pretrain == preset("demo").pretrain


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_lm(tmp_path_factory.mktemp("start") / "tiny-llama", "llama")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_given_start_brings_a_language_models_rates_in_any_preset(name: str, language_model: Path) -> None:
    config = run(name, "train.steps=50", init=str(language_model)).resolve()
    train = config.train
    assert config.model.init == str(language_model)
    rates = (train.embedding_learning_rate, train.embedding_epsilon, train.scale_learning_rate, train.clip_norm)
    assert rates == (None, 1e-8, None, 1.0), "one rate for all weights"
    assert (train.token_dropout, train.weight_average, train.warmup_steps) == (0.0, 0.0, 5)
    plain = preset(name).train
    assert train.precision == ("auto" if plain.precision == "float32" else plain.precision), "as fast as the machine can"
    kept = ("batch_size", "temperature", "mixture", "checkpoints", "weight_decay", "seed", "optimizer")
    assert [getattr(train, field) for field in kept] == [getattr(plain, field) for field in kept]
    assert train.learning_rate == config.pretrain.learning_rate == 3e-4, "by its size, 30 thousand weights"


@pytest.mark.parametrize(
    ("n_weights", "rate"), [(1, 3e-4), (135_000_000, 3e-4), (4e8, 1e-4), (6e8, 5e-5), (7_000_000_000, 2e-5), (None, 1e-4)]
)
def test_the_learning_rate_goes_by_the_size_of_the_start(n_weights: int | None, rate: float) -> None:
    assert preset("demo", "somebody/anything", n_weights).train.learning_rate == rate


def test_what_a_user_sets_wins_over_the_starts_rates(language_model: Path) -> None:
    asked = ("train.steps=1000", "train.batch_size=96", "train.seed=7", "train.train_temperature=false")
    train = run("demo", *asked, init=str(language_model)).resolve().train
    assert (train.steps, train.batch_size, train.seed, train.train_temperature, train.warmup_steps) == (1000, 96, 7, False, 100)
    assert run("demo", f"model.init={language_model}", "train.learning_rate=7e-4").resolve().train.learning_rate == 7e-4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_pre_trainings_sequences_fit_the_presets_model(name: str) -> None:
    config = run(name, "pretrain.steps=5", init="random").resolve()
    assert config.pretrain.sequence_tokens <= config.model.positions


def test_no_start_leaves_the_presets_rates_and_a_pre_trained_one_too() -> None:
    for asked in ((), ("pretrain.steps=10",), ("model.init=random",)):
        assert run("demo", *asked).resolve().train == preset("demo").train


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
            params_of(RunParams, options)
    options: dict[str, Any] = {"preset": "cpt_text_s", "init": "random"}
    assert params_of(RunParams, options).resolve().model.init == ""
    write_causal_lm(tmp_path / "lm", "gpt2")
    assert params_of(RunParams, {"preset": "smoke", "init": "lm"}).init == str(tmp_path / "lm")


def test_curation_does_more_where_it_is_asked_to() -> None:
    config = run("smoke", "contamination.folder=/suites", "curate.near.threshold=0.8").resolve()
    assert (config.contamination.folder, config.curate.near.threshold) == ("/suites", 0.8)
    plain = preset("smoke")
    assert (plain.contamination.folder, plain.curate.near.threshold) == (None, None)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="cpt_text_xl, demo, lm, smoke"):
        preset("huge")


def test_checkpoint_names() -> None:
    assert split_checkpoint("step-000400") == ("", "step-000400")
    assert split_checkpoint("abc/step-000400") == ("abc", "step-000400")
    assert split_checkpoint("01c534f6") == ("01c534f6", "")
    with pytest.raises(UserError, match="step-000240"):
        split_checkpoint("best")


def test_a_run_that_is_named_by_its_key_needs_no_preset() -> None:
    assert PublishParams(checkpoint="abc/step-000400").preset is None
    for fields in ({}, {"checkpoint": "step-000400"}):
        with pytest.raises(ValidationError, match="give a preset, or a checkpoint as TRAINKEY"):
            PublishParams(**fields)  # type: ignore[arg-type]
    schema = PublishParams.model_json_schema()
    assert "preset" not in schema.get("required", []), "the form of the deployment takes a checkpoint alone"


@pytest.mark.parametrize(
    ("fields", "checkpoints", "others"),
    [
        ({}, ("published",), ()),
        ({"preset": "demo"}, ("",), ()),
        (
            {"models": ["published", "bm25", "k/step-000001", "step-000002"]},
            ("published", "k/step-000001", "step-000002"),
            ("bm25",),
        ),
        ({"models": ["tfidf", "nice=/export"]}, (), ("tfidf", "nice=/export")),
    ],
)
def test_what_is_evaluated(fields: dict[str, Any], checkpoints: tuple[str, ...], others: tuple[str, ...]) -> None:
    params = EvaluateParams(**fields)
    assert (params.checkpoints, params.others) == (checkpoints, others)


@pytest.mark.parametrize("model", MODELS)
def test_a_form_asks_ten_plain_questions_at_most(model: Any) -> None:
    """And a group. None of them is a choice between a value and nothing, which Prefect's form draws as a toggle."""
    schema = model.model_json_schema()
    plain = [name for name, field in schema["properties"].items() if "$ref" not in field]
    assert len(plain) <= 10 and len(schema["properties"]) - len(plain) == 1
    text = str(schema)
    assert "null" not in text and "None" not in text and "anyOf" not in text
    assert list(schema["properties"])[-3:] == ["config", "set", "machine"]


def test_an_emptied_box_of_a_form_is_unset() -> None:
    params = EvaluateParams(preset="", source="", models=[], suite_data=None, machine={"artifacts": ""})
    assert params == EvaluateParams() and EvaluateParams().suite_data is None and EvaluateParams().machine.artifacts is None


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (RunParams, {"preset": "demo", "steps": 3}, "train.steps=... in `set`"),
        (RunParams, {"preset": "demo", "temperature": "fixed"}, "train.train_temperature=false"),
        (RunParams, {"preset": "demo", "data": "x"}, "--suite-data"),
        (EvaluateParams, {"data": "x"}, "--suite-data"),
        (EvaluateParams, {"trained": "x"}, "as a checkpoint"),
        (FinetuneParams, {"data": ["x"], "checkpoint": "k/step-000001"}, "--training-data"),
        (RunParams, {"preset": "demo", "set": ["train.learnin_rate=1"]}, "did you mean train.learning_rate"),
        (FinetuneParams, {"training_data": [], "checkpoint": "k/step-000001"}, "at least one training set"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_right_one(model: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        model(**fields)


def test_a_training_set_is_read_as_its_settings_say(tmp_path: Path) -> None:
    given = {
        "checkpoint": "k/step-000001", "training_data": [f"nli={tmp_path}", "plain.jsonl"], "mine": 3, "mine_from": 2,
        "mine_to": 50, "margin": 0.1, "epochs": 1.5, "batch_size": 64, "require_negatives": True, "processes": 2,
        "columns": "2,3", "suite": ["sts-b"], "suite_data": "data", "quick": True,
    }  # fmt: skip
    params = read_params(FinetuneParams, given)
    sets, config = params.training_sets(), params.resolve()
    assert [(made.view, made.path) for made in sets] == [("nli", str(tmp_path)), ("pairs", str(Path("plain.jsonl").absolute()))]
    assert all(made.require_negatives and made.columns == "2,3" for made in sets)
    mining, training = config.mining, config.training
    assert (mining.per_pair, mining.first_rank, mining.last_rank, mining.margin) == (3, 2, 50, 0.1)
    assert (training.epochs, training.batch_size, training.processes) == (1.5, 64, 2)
    assert params.suites == ("sts-b",) and Path(str(params.suite_data)).is_absolute() and params.quick
    for change, message in (({"mine_from": 90}, "first_rank 90"), ({"epochs": 0}, "training.epochs: got 0")):
        with pytest.raises(UserError, match=message):
            read_params(FinetuneParams, given | change).resolve()


def test_a_dump_spec_stands_in_for_a_folder_and_names_the_run() -> None:
    config = run("smoke", "source.dump=/data/Common Crawl.yaml").resolve()
    assert RunParams(preset="smoke", source="/data/Common Crawl.yaml").resolve() == config
    assert (config.source.dump, config.source.folder, config.name) == ("/data/Common Crawl.yaml", None, "common-crawl")
    assert config.source.key_fields() == RunParams(preset="smoke").resolve().source.key_fields()
    with pytest.raises(UserError, match="give one"):
        run("smoke", "source.dump=a.yaml", source="folder").resolve()
