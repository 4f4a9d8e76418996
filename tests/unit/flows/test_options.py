"""Commands are made from the parameters and read back as they were: what a model card prints makes the same artifact."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typer.main import get_command

from flows.cli.commands import app
from flows.cli.terminal import params_of
from flows.finetune_parameters import FinetuneParams, from_terminal
from flows.parameters import PLACES, RunParams, run_options
from pipeline_lib.config.model import HUB_MODELS
from pipeline_lib.config.presets import RANDOM
from pipeline_lib.errors import UserError

NAMES = ["tree", "my corpus", "it's", "-dash", "a;b && c", "$HOME", "größe", "new\nline", 'quo"te', "*", "--steps"]
OTHER_STARTS = ("gpt2", "EleutherAI/pythia-70m")  # than those that presets name
SUITES = ("sts-b", "beir/scifact", "similarity")
EXACTLY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
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


def values(name: str, field: FieldInfo, there: Path) -> st.SearchStrategy[Any]:
    """What a field may be given, within its bounds."""
    annotation = field.annotation
    marks = {
        bound: getattr(mark, bound) for mark in field.metadata for bound in ("ge", "gt", "le", "lt") if hasattr(mark, bound)
    }
    low, high = marks.get("ge", marks.get("gt", 0)), marks.get("le", marks.get("lt", 5000))
    places = st.sampled_from([str(there / each) for each in NAMES])
    if name == "dump":
        return st.sampled_from([str(there / f"{each}.yaml") for each in NAMES])
    if name == "init":
        return places | st.sampled_from([*OTHER_STARTS, RANDOM])
    if name == "data" and get_origin(annotation) is tuple:
        return st.lists(st.builds(str.__add__, st.sampled_from(["", "nli="]), places), min_size=1)
    if name in PLACES:
        return places
    if name in ("select_suites", "suites"):
        return st.lists(st.sampled_from(SUITES)).map(tuple)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return fields(annotation, there)
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
    return {
        bool: st.booleans(),
        int: st.integers(low, high),
        float: st.floats(low, high),
        str: st.sampled_from(["tree", "a b", "it's", "-x"]),
    }[kinds[0]]


def fields(model: type[BaseModel], there: Path) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a model's fields: all of them are tried."""
    each = {name: values(name, field, there) for name, field in model.model_fields.items()}
    needed = {name: strategy for name, strategy in each.items() if model.model_fields[name].is_required()}
    return st.fixed_dictionaries(needed, optional={name: each[name] for name in each if name not in needed})


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """What the terminal makes of a printed command: the command's name, and the options that were given."""
    cpt, *words = shlex.split(line)
    assert cpt == "cpt"
    group = get_command(app)
    context = group.context_class(group)  # type: ignore[attr-defined]
    name, command, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
    return name, {key: value for key, value in command.make_context(name, rest).params.items() if value is not None}


def in_this_folder(path: str) -> str:
    """The place that the reader of the card has in its stead."""
    return os.path.abspath(Path(path).name) if path.startswith("/") else path  # noqa: PTH100


@EXACTLY
@given(data=st.data())
def test_a_runs_command_makes_the_same_artifacts(there: Path, data: st.DataObject) -> None:
    found = data.draw(fields(RunParams, there))
    for one, other in (("source", "dump"), ("steps", "pairs")):  # of which one may be given
        if found.get(one):
            found.pop(other, None)
    if found.get("select_suites"):
        found.setdefault("suite_data", str(there / "tree"))
    try:
        params = RunParams(**found)
        config = params.resolve()
    except (ValidationError, UserError):
        event("refused")
        assume(False)
    name, options = parse(params.command())
    again = params_of(RunParams, run_options(), options)
    operational = {"artifacts", "download", "workers", "scheduler", "processes"}
    given_fields = {field: value for field, value in found.items() if field not in operational}
    expected = {field: in_this_folder(value) if field in PLACES else value for field, value in given_fields.items()}
    assert (name, again) == ("run", RunParams(**expected))
    assert str(there) not in params.command(), "a machine's own paths are no one's business"

    def named(run: Any) -> dict[str, Any]:
        return {**run.key_fields(), "model": {**run.model.key_fields(), "init": Path(run.model.init).name}}

    assert named(again.resolve()) == named(config)


@EXACTLY
@given(data=st.data())
def test_a_tunings_command_makes_the_same_artifacts(there: Path, data: st.DataObject) -> None:
    found = data.draw(fields(FinetuneParams, there))
    try:
        params = FinetuneParams(**found)
    except ValidationError:
        event("refused")
        assume(False)
    name, options = parse(params.command())
    again = from_terminal(options)
    figures_and_places = {"artifacts", "suites", "suite_data", "suite_split", "quick"}
    expected = {field: value for field, value in found.items() if field not in figures_and_places}
    sets = [entry.rpartition("=") for entry in expected["data"]]
    expected["data"] = [f"{view}{equals}{in_this_folder(path)}" for view, equals, path in sets]
    assert name == "finetune"
    for section, aside in (("training", {"processes"}), ("mining", {"batch_tokens", "rows_per_slice"})):
        given_fields = expected.get(section, {})
        expected[section] = {field: value for field, value in given_fields.items() if field not in aside}
    assert again == FinetuneParams(**expected)


def test_every_parameter_of_a_flow_is_an_option_of_its_command() -> None:
    """What a form asks for, a terminal takes: but a dataset and a run by their keys, which are for programs."""
    group = get_command(app)
    context = group.context_class(group)  # type: ignore[attr-defined]

    def flags(command: str) -> set[str]:
        found = group.get_command(context, command)  # type: ignore[attr-defined]
        return {option for parameter in found.params for option in parameter.opts}

    run = {option.flag for option in run_options()}
    assert {"--pairs", "--delimiters", "--pooling", "--temperature", "--directions", "--download", "--data"} <= run
    for command in ("run", "train", "publish"):
        assert run <= flags(command)
    assert run - {"--select-suite"} | {"--split", "--suite", "--model", "--quick", "--skip-missing"} <= flags("evaluate")
    assert {"--layout", "--split", "--max-negatives", "--temperature", "--warmup-share", "--mine-spread"} <= flags("finetune")
    assert {"--near-duplicates", "--contamination", "--delimiters", "--init"} <= flags("build-dataset")


def test_a_link_is_named_as_the_rows_name_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    assert RunParams(preset="smoke", source=str(tmp_path / "link")).command() == "cpt run --preset smoke --source tree"
