"""Presets of a user: a YAML file in CPT_HOME/presets is found by name, over a base or whole; what is wrong with it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config import built_in
from pipeline_lib.config.built_in import OF_OWN_START, PRESETS
from pipeline_lib.config.overrides import diff, parse_set
from pipeline_lib.config.presets import RANDOM, describe, description, preset, preset_names, start_of
from pipeline_lib.errors import UserError

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a preset of that name into an artifact root of its own."""
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    (tmp_path / "presets").mkdir()

    def to_file(name: str, text: str) -> Path:
        path = tmp_path / "presets" / f"{name}.yaml"
        path.write_text(text)
        return path

    return to_file


def test_a_file_is_a_preset_over_its_base(write: Write) -> None:
    write("mine", "base: demo\ndescription: The demo, longer.\ntrain:\n  steps: 400\n")
    assert diff(preset("demo"), preset("mine")).splitlines() == [
        "name: demo -> mine",
        "preset: demo -> mine",
        "train.steps: 240 -> 400",
    ]
    assert description("mine") == "The demo, longer."
    assert description("cpt_text_s").startswith("The paper's cpt-text S: 24 layers of 1024")
    assert preset_names() == (*PRESETS, "mine")


def test_a_preset_may_be_built_on_a_users_or_on_none(write: Write) -> None:
    write("first", "base: smoke\ntrain: {steps: 4, batch_size: 8}\n")
    write("second", "base: first\ntrain: {steps: 5}\nname: named\n")
    write("whole", "train: {steps: 6}\n")
    second = preset("second")
    assert (second.name, second.train.steps, second.train.batch_size, second.model) == ("named", 5, 8, preset("smoke").model)
    assert diff(preset("whole"), preset("whole", layers=[parse_set(["train.steps=7"])])) == "train.steps: 6 -> 7"


def test_rates_go_by_the_start_unless_the_file_gives_them(write: Write) -> None:
    start = "Qwen/Qwen3-0.6B-Base"
    write("by_start", f"base: demo\nmodel: {{init: {start}}}\n")
    write("own_rate", f"base: demo\nmodel: {{init: {start}}}\ntrain: {{learning_rate: 0.5}}\n")
    by_start, own_rate = preset("by_start"), preset("own_rate")
    assert by_start.train.learning_rate == preset("demo", start).train.learning_rate != preset("demo").train.learning_rate
    assert (own_rate.train.learning_rate, own_rate.train.clip_norm) == (0.5, by_start.train.clip_norm)
    assert start_of("by_start") == start_of("demo", [{"model.init": start}]) == start
    random = preset("own_rate", RANDOM)
    assert (random.model.init, random.model.start, random.train.learning_rate) == ("", "random", 0.5)


@pytest.mark.parametrize(
    ("asked", "files", "message"),
    [
        ("demo", {"demo": "train: {steps: 1}"}, "demo.yaml: demo is a built-in preset; give yours another name"),
        ("a", {"a": "base: b", "b": "base: c", "c": "base: a"}, "preset a: its bases go in a circle: a -> b -> c -> a"),
        ("a", {"a": "base: b"}, "preset 'a': its base 'b' is unknown; choose one of: adapt, cpt_code_m"),
        ("nobody", {"mine": "base: demo"}, "presets: mine"),
        ("", {"mine": "base: demo"}, "preset '' is unknown"),
        ("../x", {}, "preset '../x' is unknown"),
        (
            "a",
            {"a": "base: demo\ntrain:\n  lr: 1\n"},
            "a.yaml, line 3: train.lr: there is no such option; did you mean train.learning_rate?",
        ),
        ("a", {"a": "base: demo\ntrain:\n  steps: x\n"}, "a.yaml, line 3: train.steps: got x, expected a whole number >= 1"),
        ("a", {"a": "base: [demo]\n"}, "a.yaml, line 1: base: got [demo], expected text"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(write: Write, asked: str, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        write(name, text)
    with pytest.raises(UserError) as refused:
        preset(asked)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["lm", "adapt"])
def test_a_preset_that_was_measured_with_its_start_keeps_its_rates(name: str) -> None:
    own, made = preset(name), built_in.PRESETS[name]()
    assert own.train == made.train and own.model.init == OF_OWN_START[name]
    other = preset(name, "somebody/anything").train
    assert (other.learning_rate, other.muon_learning_rate, other.scale_learning_rate) == (1e-4, None, None)
    assert "the preset's" in describe(own, name) and "a language model's" in describe(preset(name, "some/model"), name)


def test_an_embedding_model_starts_with_rates_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    found = preset("demo", init=str(tmp_path), n_weights=22_000_000).train
    assert found == preset("demo", init="a/b", n_weights=22_000_000, embeds=True).train
    language_model = preset("demo", init="a/b", n_weights=22_000_000).train
    assert found.learning_rate == 5e-5 < language_model.learning_rate
    assert found.model_copy(update={"learning_rate": language_model.learning_rate}) == language_model
    assert preset("demo", init="a/b", n_weights=7_000_000_000, embeds=True).train.learning_rate == 2e-5
    set_by_hand = parse_set([f"model.init={tmp_path}", "train.learning_rate=1e-4"])
    assert preset("demo", layers=[set_by_hand]).train.learning_rate == 1e-4
