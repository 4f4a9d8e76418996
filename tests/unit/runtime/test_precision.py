"""The precision that `auto` comes to, by device and size, and what is named by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.config.model import depth_and_width
from pipeline_lib.config.presets import describe, preset
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.runtime import machine
from pipeline_lib.runtime.machine import Devices, resolve_precision

LARGE, DEMO, NARROW = (2, 256), (1, 512), (12, 128)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch):
    def of(flags: str = "", gpu: float = 0.0) -> None:
        devices = Devices("cuda", 2, 10**9, "a GPU", gpu) if gpu else Devices("cpu", 1, 10**9)
        monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags.split()))
        monkeypatch.setattr(machine, "find_devices", lambda: devices)

    return of


@pytest.mark.parametrize(
    ("flags", "gpu", "sizes", "expected"),
    [
        ("avx512f avx512_bf16", 0.0, LARGE, "bfloat16"),
        ("amx_bf16", 0.0, LARGE, "bfloat16"),
        ("bf16", 0.0, LARGE, "bfloat16"),
        ("avx512f", 0.0, LARGE, "float32"),
        ("avx512_bf16", 0.0, DEMO, "float32"),
        ("avx512_bf16", 0.0, NARROW, "float32"),
        ("", 9.0, DEMO, "bfloat16"),
        ("", 8.0, LARGE, "bfloat16"),
        ("", 7.5, LARGE, "float32"),
        ("avx512_bf16", 7.5, LARGE, "float32"),  # the GPU computes, whatever the processor beside it can
    ],
)
def test_auto_is_bfloat16_where_it_is_fast(hardware, flags, gpu, sizes, expected) -> None:
    hardware(flags, gpu)
    assert resolve_precision("auto", *sizes) == expected
    assert [resolve_precision(given, *sizes) for given in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_sizes_are_those_of_any_familys_config(tmp_path: Path) -> None:
    def write(folder: Path, fields: object) -> Path:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(fields))
        return folder

    assert depth_and_width(write(tmp_path / "gpt2", {"n_layer": 4, "n_embd": 256})) == (4, 256)
    assert depth_and_width(write(tmp_path / "llama", {"num_hidden_layers": 6, "hidden_size": 576})) == (6, 576)
    write(tmp_path / "st" / "1_Pooling", {"word_embedding_dimension": 384})
    write(tmp_path / "st" / "0_Transformer", {"num_hidden_layers": 6, "hidden_size": 384})
    assert depth_and_width(tmp_path / "st") == (6, 384)
    (write(tmp_path / "broken", []) / "config.json").write_text("{")
    assert depth_and_width(tmp_path / "broken") == (0, 0)
    assert depth_and_width(tmp_path / "nowhere") == (0, 0)


def test_presets_whose_figures_are_shown_compute_in_float32_and_a_language_model_as_fast_as_it_can() -> None:
    for name in ("demo", "smoke"):
        run = preset(name)
        found = [getattr(run, part).precision for part in ("pretrain", "train", "evaluate", "suites", "index")]
        assert found == ["float32"] * 5, name
    tuned = preset("demo", init="EleutherAI/pythia-410m")
    assert (tuned.train.precision, tuned.evaluate.precision, tuned.index.precision) == ("auto", "auto", "auto")
    kept = preset("demo", init="EleutherAI/pythia-410m", layers=[{"train": {"precision": "float32"}}])
    assert (kept.train.precision, kept.index.precision) == ("float32", "auto")
    assert preset("cpt_text_s").train.precision == "bfloat16"


def test_a_plan_says_what_auto_comes_to_here(hardware) -> None:
    run = preset("smoke", layers=[{"train": {"precision": "auto"}, "model": {"layers": 4, "width": 256}}])
    hardware("avx512_bf16")
    assert "bfloat16 (auto)" in describe(run, "smoke")
    hardware()
    assert "float32 (auto)" in describe(run, "smoke")


def test_keys_of_float32_are_those_from_before_there_was_a_choice() -> None:
    assert "precision" not in IndexConfig(precision="float32").key_fields()
    assert IndexConfig(precision="bfloat16").key_fields()["precision"] == "bfloat16"
    assert IndexConfig(precision="auto").key_fields()["precision"] == "auto", "unresolved, it has a name of its own"
    for config in (TrainConfig(precision="float32"), PretrainConfig(precision="float32")):
        assert config.key_fields()["precision"] == "float32"
        assert not {"tf32", "deterministic"} & config.key_fields().keys()
    assert TrainConfig(tf32=False).key_fields()["tf32"] is False
