"""Commands are made from the parameters and read back as they were: what a model card prints makes the same artifact."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.main import get_command

from flows.cli.commands import app
from flows.cli.run_commands import kept_back
from flows.cli.terminal import read_params
from flows.options import Params, options_of, with_places
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
from flows.settings import PLACE_SETTINGS, TOLD, flat, words_of
from pipeline_lib.config.model import HUB_MODELS
from pipeline_lib.config.options import options
from pipeline_lib.config.overrides import parse_set, show
from pipeline_lib.config.presets import RANDOM
from pipeline_lib.errors import UserError

NAMES = ["tree", "my corpus", "it's", "-dash", "a;b && c", "$HOME", "größe", "new\nline", 'quo"te', "*", "--steps"]
OTHER_STARTS = ("gpt2", "EleutherAI/pythia-70m")  # than those that presets name
SUITES = ("sts-b", "beir/scifact", "similarity")
EXACTLY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's folder of corpora and specs; the reader of the card has others of the same names where the shell is."""
    for place in (tmp_path / "there", tmp_path / "here"):
        for name in NAMES:
            (place / name).mkdir(parents=True)
            (place / f"{name}.yaml").write_text("- {name: one, reader: tree, url: tree, licence: MIT}\n")
    for model in (*HUB_MODELS, *OTHER_STARTS):
        cached = tmp_path / "cache" / f"models--{model.replace('/', '--')}"
        (cached / "snapshots" / "0123abcd").mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "there"


def drawn(name: str, field: FieldInfo, there: Path) -> st.SearchStrategy[Any]:
    """What a field or a setting may be given, within its bounds."""
    annotation = field.annotation
    marks = {
        bound: getattr(mark, bound) for mark in field.metadata for bound in ("ge", "gt", "le", "lt") if hasattr(mark, bound)
    }
    low, high = marks.get("ge", marks.get("gt", 0)), marks.get("le", marks.get("lt", 5000))
    places = st.sampled_from([str(there / each) for each in NAMES])
    special = {
        "source": places | st.sampled_from([str(there / f"{each}.yaml") for each in NAMES]),
        "preset": st.sampled_from(["demo", "smoke", "cpt_code_s"]),
        "config": st.just(str(there / "settings.yaml")),
        "source.dump": st.sampled_from([str(there / f"{each}.yaml") for each in NAMES]),
        "init": places | st.sampled_from([*OTHER_STARTS, RANDOM]),
        "models": st.lists(st.sampled_from(["published", "bm25", "k/step-000001", "hub:a/b"]) | places).map(tuple),
        "training_data": st.lists(st.builds(str.__add__, st.sampled_from(["", "nli="]), places), min_size=1),
        "suites": st.lists(st.sampled_from(SUITES)).map(tuple),
        "checkpoint": st.sampled_from(["k/step-000001", "0123abcd"]),
    }
    special |= {"model.init": special["init"], "select.suites": special["suites"]}
    if name in special:
        return special[name]
    if name in PLACE_SETTINGS or name == "suite_data":
        return places
    if get_origin(annotation) is tuple or get_origin(get_args(annotation)[:1] and get_args(annotation)[0]) is tuple:
        members = get_args(annotation if get_origin(annotation) is tuple else get_args(annotation)[0])[0]
        return st.lists(of_kind(members, 0, 99), min_size=1, max_size=3, unique=True).map(tuple)
    if get_origin(annotation) is dict:
        keys, parts = (of_kind(kind, 1, 9) for kind in get_args(annotation))
        return st.dictionaries(keys, parts, min_size=1, max_size=3)
    return of_kind(annotation, low, high)


def of_kind(annotation: Any, low: float, high: float) -> st.SearchStrategy[Any]:
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
    if get_origin(kinds[0]) is Literal:
        return st.sampled_from(get_args(kinds[0]))
    return {
        bool: st.booleans(),
        int: st.integers(int(low), int(high)),
        float: st.floats(low, high),
        str: st.sampled_from(["tree", "a b", "it's", "-x", "null", '"quoted"', "1e3"]),
    }[kinds[0]]


def fields(model: type[Params], there: Path) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a model's fields, and some settings of its configuration: all of them are tried."""
    own = {name: field for name, field in model.model_fields.items() if name not in ("set", "machine")}
    each = {name: drawn(name, field, there) for name, field in own.items()}
    word = st.sampled_from(list(options(model.ROOT))).flatmap(
        lambda setting: st.tuples(st.just(setting.name), drawn(setting.name, setting.field, there))
    )
    each["set"] = st.lists(word, max_size=6).map(lambda pairs: words_of(model.ROOT, dict(pairs)))
    needed = {name: each[name] for name, field in own.items() if field.is_required()}
    return st.fixed_dictionaries(needed, optional={name: each[name] for name in each if name not in needed})


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """What the terminal makes of a printed command: the command's name, and the options that were given."""
    cpt, *words = shlex.split(line)
    assert cpt == "cpt"
    group = get_command(app)
    context = group.context_class(group)  # type: ignore[attr-defined]
    name, command, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
    return name, {key: value for key, value in command.make_context(name, rest).params.items() if value is not None}


def in_this_folder(path: str, _: str = "") -> str:
    """The place that the reader of the card has in its stead."""
    return Path(path).name if path.startswith("/") else path


MODELS = (
    RunParams, DatasetParams, PretrainParams, TrainParams, EvaluateParams, PublishParams, FinetuneParams, AblateParams,
)  # fmt: skip
NOT_TOLD = {"suites", "suite_data", "suite_split", "quick"}  # of fine-tuning: no output but figures depends on them


@pytest.mark.parametrize("model", MODELS)
@EXACTLY
@given(data=st.data())
def test_a_printed_command_is_read_as_the_same_parameters(there: Path, model: type[Params], data: st.DataObject) -> None:
    if not (there / "settings.yaml").exists():
        setting = {FinetuneParams: "training: {epochs: 7.5}", AblateParams: "ablation: {batch_size: 64}"}
        (there / "settings.yaml").write_text(f"{setting.get(model, 'train.learning_rate: 3e-3')}\n")  # type: ignore[call-overload]
    try:
        params = model(**data.draw(fields(model, there)))
    except ValidationError:
        event("refused")
        assume(False)
    line = params.command()
    name, given_options = parse(line)
    again = read_params(model, given_options)
    public = model.model_validate(with_places(params.folded(), in_this_folder))
    root = model.ROOT
    operational = {setting.name for setting in options(root) if setting.is_operational} - TOLD
    told = {name: value for name, value in flat(root, parse_set(public.set, root)).items() if name not in operational}
    update: dict[str, Any] = {"set": words_of(root, told)}
    if model is FinetuneParams:
        update |= {field: model.model_fields[field].get_default() for field in NOT_TOLD}
    expected = public.model_copy(update=update)
    assert name == model.COMMAND and str(there) not in line, "a machine's own paths are no one's business"
    assert model.model_validate(with_places(again, in_this_folder)) == expected


@EXACTLY
@given(data=st.data())
def test_a_runs_command_makes_the_same_artifacts(there: Path, data: st.DataObject) -> None:
    try:
        params = RunParams(**data.draw(fields(RunParams, there).filter(lambda found: "config" not in found)))
        config = params.resolve()
    except (ValidationError, UserError):
        event("refused")
        assume(False)
    _, given_options = parse(params.command())

    def named(run: Any) -> dict[str, Any]:
        return {**run.key_fields(), "model": {**run.model.key_fields(), "init": Path(run.model.init).name}}

    assert named(read_params(RunParams, given_options).resolve()) == named(config)


def test_a_whole_configuration_names_its_preset(tmp_path: Path) -> None:
    wanted = RunParams(preset="demo", set=("train.learning_rate=1e-4",)).resolve()
    (tmp_path / "mine.yaml").write_text(show(wanted))
    assert read_params(RunParams, {"config": str(tmp_path / "mine.yaml")}).resolve() == wanted


def test_every_parameter_of_a_flow_is_an_option_of_its_command() -> None:
    """What a form asks for, a terminal takes; and each model of parameters has its command."""
    group = get_command(app)
    context = group.context_class(group)  # type: ignore[attr-defined]
    for model in MODELS:
        command = group.get_command(context, model.COMMAND)  # type: ignore[attr-defined]
        flags = {option for parameter in command.params for option in parameter.opts}
        assert {option.flag for option in options_of(model)} <= flags
        assert {"--config", "--set", "--artifacts", "--download"} <= flags
    plan = group.get_command(context, "plan")  # type: ignore[attr-defined]
    assert {"--config", "--set"} <= {option for parameter in plan.params for option in parameter.opts}


def test_no_promote_is_the_word_for_never() -> None:
    assert kept_back({"preset": "demo"}, True) == {"preset": "demo", "promote": "never"}
    assert kept_back({"promote": "gate"}, False) == {"promote": "gate"} and kept_back({"promote": "never"}, True)
    with pytest.raises(UserError, match="--no-promote and --promote gate"):
        kept_back({"promote": "gate"}, True)
    assert read_params(RunParams, {"preset": "demo", "promote": "ask"}).resolve().promote.when == "ask"


def test_a_link_is_named_as_the_rows_name_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    assert RunParams(preset="smoke", source=str(tmp_path / "link")).command() == "cpt run --preset smoke --source tree"
