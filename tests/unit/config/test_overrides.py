"""Overrides of a configuration: YAML files and `--set` words are typed by the options, and a wrong one is told in full."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.config.data import Language
from pipeline_lib.config.options import Option, options
from pipeline_lib.config.overrides import apply, diff, in_yaml, overrides_of, parse_set, read_config, show
from pipeline_lib.config.presets import preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.languages import language_names

DEMO = preset("demo")


def told(*words: str) -> str:
    with pytest.raises(UserError) as refused:
        apply(DEMO, parse_set(words))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("train.learning_rate=1e-4", 1e-4),
        ("train.steps=1e2", 100),
        ("train.batch_size=1_024", 1024),
        ("train.compile=off", "off"),
        ("train.train_temperature=false", False),
        ("train.mixture={docstring: 0.7, neighbour: 0.3}", {"docstring": 0.7, "neighbour": 0.3}),
        ("extract.filters.repetition.max_top_ngrams={2: 0.5}", {2: 0.5}),
        ("extract.code.languages=[python, go]", ("python", "go")),
        ("extract.filters.languages=[no, en]", ("no", "en")),
        ("source.folder=/a=b: {c", "/a=b: {c"),
        ("curate.split_salt=58", "58"),
        ("curate.split_salt='58'", "58"),
        ("model.init=", ""),
        ("source.folder=null", None),
        ("curate.split_salt=null", "null"),
        ("curate.near.threshold=null", None),
    ],
)
def test_a_word_is_typed_by_its_option(word: str, value: Any) -> None:
    config: Any = apply(DEMO, parse_set([word]))
    for name in word.partition("=")[0].split("."):
        config = getattr(config, name)
    assert (config, type(config)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("train.lr", ["train.learning_rate"]),
        ("learning_rate", ["pretrain.learning_rate", "train.learning_rate"]),
        ("train.learning_rte", ["train.learning_rate"]),
        ("trainn.learning_rate", ["train.learning_rate"]),
        ("extract.filter.quality.enabled", ["extract.filters.quality.enabled"]),
        ("filters", ["extract.filters"]),
    ],
)
def test_a_misspelt_name_is_told_in_full_with_the_nearest(name: str, nearest: list[str]) -> None:
    message = told(f"{name}=1")
    assert message.startswith(f"--set {name}: there is no such option; did you mean ")
    assert [one for one in nearest if one not in message] == []


def test_a_name_unlike_any_gets_those_of_its_section() -> None:
    assert "model has init, keep_layers, start, lexical" in told("model.zzzz=1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.steps=many", "train.steps: got many, expected a whole number >= 1"),
        ("train.steps=1.5", "train.steps: got 1.5, expected a whole number >= 1"),
        ("train.steps=true", "train.steps: got true, expected a whole number >= 1"),
        ("train.compile=of", "train.compile: got of, expected one of off, on, auto"),
        ("train.learning_rate=.inf", "train.learning_rate: got inf, expected a finite number"),
        (
            "extract.code.languages=[cobol]",
            "extract.code.languages: got cobol, expected a list of python, javascript, java",
        ),
        ("extract.text={min_words: 300}", "extract.text: min_words 300 is above max_words 200"),
        ("train=5", "train: got 5, expected a mapping of its options: steps,"),
        ("train.steps.more=5", "train.steps.more: train.steps has no parts, it takes a whole number >= 1"),
        ("train.steps", "--set train.steps: expected NAME=VALUE"),
        ("train.mixture={a: 1, a: 2}", "train.mixture, line 1: a comes twice"),
    ],
)
def test_a_wrong_value_is_told_against_what_is_expected(word: str, message: str) -> None:
    assert message in told(word)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  steps: many\n", "mine.yaml, line 2: train.steps: got many, expected a whole number >= 1"),
        (
            "train:\n  steps: 1\n  spets: 2\n",
            "mine.yaml, line 3: train.spets: there is no such option; did you mean train.steps",
        ),
        ("train:\n  steps: 1\n  steps: 2\n", "mine.yaml, line 3: steps comes twice"),
        ("extract:\n  text:\n    min_words: 900\n", "mine.yaml, line 3: extract.text: min_words 900 is above max_words 200"),
        ("[1]", "mine.yaml: got [1], expected options"),
        ("", "mine.yaml: got nothing, expected options"),
        ("train: [", "mine.yaml, line 1: "),
        ("a: &a [x]\nb: *a\n", "mine.yaml, line 1: anchors and aliases are not read"),
        ("name: !!python/object/apply:os.system [ls]\n", "mine.yaml, line 1: could not determine a constructor"),
        ("? [1]\n: 2\n", "mine.yaml, line 1: [1] is no name of an option"),
        ("[" * 5_000, "mine.yaml: nested too deeply"),
        ("#" * 1_000_001, "mine.yaml: 1,000,001 bytes; a configuration has at most 1,000,000"),
    ],
)
def test_a_wrong_file_is_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        apply(DEMO, read_config(written(tmp_path, text)))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_one_of_bytes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match=r"bytes\.yaml: no UTF-8 at byte 6"):
        read_config(tmp_path / "bytes.yaml")


def test_later_layers_win_and_all_else_stays(tmp_path: Path) -> None:
    file = read_config(written(tmp_path, "train:\n  steps: 7\n  mixture: {name: 1}\ncurate.near.threshold: 0.8\n"))
    config = apply(DEMO, file, parse_set(["train.steps=8"]))
    assert diff(DEMO, config).splitlines() == [
        "curate.near.threshold: null -> 0.8",
        "train.steps: 240 -> 8",
        "train.mixture: {docstring: 0.65, name: 0.15, class: 0.08, neighbour: 0.12} -> {name: 1.0}",
    ]
    assert overrides_of(config, DEMO) == {
        "curate": {"near": {"threshold": 0.8}},
        "train": {"steps": 8, "mixture": {"name": 1}},
    }


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_any_other_by_its_overrides(name: str) -> None:
    config = preset(name)
    assert apply(DEMO, overrides_of(config, DEMO)) == config
    assert apply(RunConfig(), overrides_of(config, RunConfig())) == config
    assert diff(config, config) == ""


@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()))
@settings(max_examples=200, deadline=None)
def test_a_value_in_yaml_reads_as_itself_in_any_version(value: Any) -> None:
    from pipeline_lib.config.overrides import _Loader

    line = in_yaml([value, {"a": value}])
    expected = [value, {"a": value}]
    assert yaml.load(line, _Loader) == expected
    assert yaml.safe_load(line) == expected
    assert "\n" not in line


EXAMPLES: dict[type, Any] = {bool: True, int: 1, float: 1.0, str: ""}
SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def values_of(option: Option) -> st.SearchStrategy[Any]:
    """Values that an option takes, at its bounds and between them, null among them where it may be unset."""
    if option.may_be_unset:
        kind = get_args(option.field.annotation)[0]
        if get_origin(kind) is Literal:
            return st.none() | st.sampled_from(get_args(kind))
        return st.none() | plain_values_of(option, EXAMPLES[kind])
    return plain_values_of(option, option.field.get_default(call_default_factory=True))


def plain_values_of(option: Option, default: Any) -> st.SearchStrategy[Any]:
    """Values of the default's type."""
    limits = {name: getattr(m, name) for m in option.field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    if get_origin(option.field.annotation) is Literal:
        return st.sampled_from(get_args(option.field.annotation))
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        low = limits.get("ge", limits.get("gt", -1) + 1)
        return st.integers(low, limits.get("le", low + 10**12))
    if isinstance(default, float):
        low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt", 1e9))
        return st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits)
    if isinstance(default, dict):
        if get_origin(of_value := get_args(option.field.annotation)[1]) is Literal:
            return st.dictionaries(SHORT, st.sampled_from(get_args(of_value)), max_size=3)
        if get_origin(of_value) is dict:
            inner = st.dictionaries(st.sampled_from(get_args(get_args(of_value)[0])), SHORT)
            return st.dictionaries(SHORT, inner, max_size=3)
        if get_origin(of_key := get_args(option.field.annotation)[0]) is Literal:
            return st.dictionaries(st.sampled_from(get_args(of_key)), st.floats(0, 1))
        key = st.integers(1, 20) if option.name.startswith("extract") else st.just("docstring")
        return st.dictionaries(st.just("code_search") if option.name == "select.weights" else key, st.floats(0, 1))
    if isinstance(default, tuple):
        kind = get_args(option.field.annotation)[0]
        if kind is float:
            return st.lists(st.floats(0.1, 100), min_size=1, max_size=3)
        if kind is int:
            return st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True)
        kinds = language_names() if kind is Language else get_args(kind)
        return st.lists(st.sampled_from(kinds) if kinds else SHORT, min_size=1, max_size=3)
    is_bound = any(hasattr(m, "pattern") for m in option.field.metadata)
    least = max((m.min_length for m in option.field.metadata if hasattr(m, "min_length")), default=0)
    return st.just(default) if is_bound else SHORT.filter(lambda text: len(text) >= least)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_shown_reads_as_the_same_configuration(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(list(options(RunConfig))), max_size=8, unique_by=lambda one: one.name))
    try:
        config = apply(DEMO, {option.name: data.draw(values_of(option), option.name) for option in chosen})
    except UserError as error:
        excluded = (
            " is above ",
            "no multiple",
            "select.suites",
            "webhook: expected a URL",
            "prompts.default is",
            "weights has",
            "expected text of the form",
        )
        assume(not any(each in str(error) for each in excluded))
        raise
    with TemporaryDirectory() as folder:
        path = written(Path(folder), show(config, data.draw(SHORT)))
        assert apply(preset("smoke"), read_config(path)) == config
    assert apply(preset("smoke"), overrides_of(config, preset("smoke"))) == config


def test_what_is_shown_says_what_each_option_means() -> None:
    lines = show(DEMO, "demo").splitlines()
    assert lines[lines.index("  steps: 240") - 1] == "  # Optimizer steps. [a whole number >= 1]"
    workers = lines[lines.index("  workers: null") - 1]
    assert workers == "  # Dask worker processes; null: one per core. [a whole number >= 1, or null; operational]"
