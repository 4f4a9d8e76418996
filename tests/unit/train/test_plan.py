"""The planner against built models and a measured step; what it chooses as models grow."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from causal_lms import FAMILIES, write_causal_lm
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from flows.cli.commands import app
from pipeline_lib.config.built_in import PRESETS, SIZES
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.model import HUB_MODELS, ModelConfig, Shape
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.presets import preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import find_devices
from pipeline_lib.train.memory import Layout, Workload, memory_of, shape_of
from pipeline_lib.train.plan import GPUS, Terms, describe_plan, plan, step_flops

SCRIPT = Path(__file__).parents[2] / "training_step_memory.py"


def parameters(config: RunConfig) -> int:
    return Workload.planned(config).weights


def total_bytes(config: RunConfig, layout: Layout) -> int:
    return memory_of(Workload.planned(config), layout).total


def small_run(**sizes: int) -> RunConfig:
    given = {"layers": 4, "width": 256, "heads": 4, "inner": 1024, "vocabulary": 8000, "pairs": 64, "x": 32, "y": 64, **sizes}
    model = ModelConfig(**{name: given[name] for name in ("layers", "width", "heads", "inner")}, positions=given["y"])
    return RunConfig(
        tokenizer=TokenizerConfig(vocab_size=given["vocabulary"]),
        shards=ShardConfig(max_x_tokens=given["x"], max_y_tokens=given["y"]),
        model=model,
        train=TrainConfig(precision="float32", batch_size=given["pairs"], checkpoint_activations="checkpointed" in given),
    )


@pytest.mark.parametrize("sizes", [{}, {"layers": 1, "inner": 96}, {"width": 64, "heads": 2, "vocabulary": 300}])
def test_parameters_are_those_of_the_built_model(sizes: dict[str, int]) -> None:
    from pipeline_lib.model.encoder import Encoder

    config = small_run(**sizes)
    tokens = SimpleNamespace(
        vocab_size=config.tokenizer.vocab_size, x_open=0, x_close=1, y_open=2, y_close=3, pad=4, appended=()
    )
    encoder = Encoder.build(config.model, tokens, seed=1)  # type: ignore[arg-type]
    assert parameters(config) == sum(weight.numel() for weight in encoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_given_start_is_planned_by_its_own_shape(tmp_path: Path, family: str) -> None:
    folder = write_causal_lm(tmp_path / "lm", family)
    built = AutoModel.from_pretrained(folder)
    config = preset("cpt_text_s", str(folder))
    assert parameters(config) == sum(weight.numel() for weight in built.parameters()) + 1
    found = plan(config, Terms())
    assert (found["start"], found["embedding_width"]) == (str(folder), 32)
    preset_own = plan(preset("cpt_text_s"), Terms())["memory_bytes"]
    assert all(found["memory_bytes"][part] < preset_own[part] / 10 for part in ("weights", "gradients", "optimizer"))
    assert not found["gradient_caching"], "all activations of so small a model fit"


@pytest.mark.parametrize("init", HUB_MODELS)
def test_the_presets_starts_have_the_weights_that_transformers_builds(init: str) -> None:
    with torch.device("meta"):
        built = AutoModel.from_config(AutoConfig.for_model(**HUB_MODELS[init]))
    assert Shape.of(HUB_MODELS[init], init).weights == sum(weight.numel() for weight in built.parameters())


def test_a_start_whose_sizes_are_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json there to plan by; give the folder"):
        plan(preset("demo", "nobody/nothing"), Terms())
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UserError, match="a model of type 'mamba' cannot be planned; known are bert, gpt2"):
        plan(preset("demo", str(tmp_path)), Terms())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"its config\.json has no field 'hidden_size'"):
        plan(preset("demo", str(tmp_path)), Terms())


@pytest.mark.parametrize(
    ("sizes", "micro_batch_tokens", "cached"),
    [
        ({}, 4096, True),
        pytest.param({}, 4096, False, marks=pytest.mark.slow),
        pytest.param({"layers": 8, "checkpointed": 1}, 4096, True, marks=pytest.mark.slow),
        pytest.param(
            {"layers": 2, "width": 384, "heads": 6, "inner": 1536, "vocabulary": 20_000, "pairs": 256, "x": 16, "y": 32},
            2048,
            True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"layers": 6, "width": 128, "inner": 512, "vocabulary": 2000, "pairs": 128, "x": 64},
            8192,
            True,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_memory_is_within_15_percent_of_a_measured_step(
    tmp_path: Path, sizes: dict[str, int], micro_batch_tokens: int, cached: bool
) -> None:
    planned, measured = planned_and_measured(tmp_path, small_run(**sizes), micro_batch_tokens, cached)
    assert planned == pytest.approx(measured, rel=0.15)


GATED = {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4}
LARGER: dict[str, dict[str, Any]] = {
    "gpt_neox": {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
    "llama": {**GATED, "num_key_value_heads": 4},
    "mistral": {**GATED, "num_attention_heads": 8, "num_key_value_heads": 2},
    "qwen2": {**GATED, "num_key_value_heads": 2},
    "qwen3": {**GATED, "num_attention_heads": 8, "head_dim": 64, "num_key_value_heads": 4},
}
QUICK = {("llama", "bfloat16", True)}


@pytest.mark.parametrize(
    ("family", "precision", "cached"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in itertools.product([None, *LARGER], ["float32", "bfloat16"], [True, False])
        if case[:2] != (None, "float32")  # measured above
    ],
)
def test_every_family_and_precision_is_within_15_percent_too(
    tmp_path: Path, family: str | None, precision: str, cached: bool
) -> None:
    run = small_run()
    if family:
        fields = {"num_hidden_layers": 4, "max_position_embeddings": 64, **LARGER[family]}
        AutoModel.from_config(AutoConfig.for_model(family, **fields)).save_pretrained(tmp_path / "lm")
        run = run.model_copy(update={"model": run.model.model_copy(update={"init": str(tmp_path / "lm")})})
    run = run.model_copy(update={"train": run.train.model_copy(update={"precision": precision})})
    planned, measured = planned_and_measured(tmp_path, run, 4096, cached)
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dropout", "precision", "tokens", "cached"),
    [(0.0, "float32", 4096, True), (0.1, "float32", 4096, True), (0.0, "bfloat16", 1024, False)],
)
def test_adapters_are_within_15_percent_too(tmp_path: Path, dropout: float, precision: str, tokens: int, cached: bool) -> None:
    fields = {"num_hidden_layers": 4, "max_position_embeddings": 64, **LARGER["llama"]}
    AutoModel.from_config(AutoConfig.for_model("llama", **fields)).save_pretrained(tmp_path / "lm")
    lora = {"model.init": str(tmp_path / "lm"), "model.lora.rank": 8, "model.lora.dropout": dropout}
    run = apply(small_run(), {**lora, "train.precision": precision})
    planned, measured = planned_and_measured(tmp_path, run, tokens, cached)
    assert planned == pytest.approx(measured, rel=0.15)


def test_each_graph_that_is_kept_holds_the_matrices_that_autocast_made_for_it() -> None:
    config = small_run()
    work = Workload.planned(config.model_copy(update={"train": config.train.model_copy(update={"precision": "bfloat16"})}))
    local = 64 * (32 + 64)

    def weights(tokens: int, cached: bool) -> int:
        return memory_of(work, Layout(1, micro_batch_tokens=tokens, cached=cached)).weights

    once = 2 * work.shape.layers * work.shape.block_matrices
    assert weights(local, cached=False) == weights(local, cached=True) == weights(local // 6, cached=True)
    assert weights(local // 6, cached=False) == weights(local, cached=False) + 5 * once


def planned_and_measured(tmp_path: Path, config: RunConfig, micro_batch_tokens: int, cached: bool) -> tuple[int, int]:
    """Bytes of a step in one process."""
    (tmp_path / "config.json").write_text(config.model_dump_json())
    # freed blocks go back to the system at once, so that its count of resident bytes is that of live ones
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "config.json"), str(micro_batch_tokens)]
    done = subprocess.run(
        [*command, "cached" if cached else "direct"], env=environment, check=True, capture_output=True, text=True
    )
    return total_bytes(config, Layout(1, micro_batch_tokens=micro_batch_tokens, cached=cached)), int(done.stdout)


@pytest.mark.parametrize(("size", "billions"), [("s", 0.302), ("m", 1.208), ("l", 6.44), ("xl", 173.9)])
def test_the_papers_sizes_come_to_the_papers_parameters(size: str, billions: float) -> None:
    config = preset(f"cpt_text_{size}", "random")
    model = config.model
    outside = (config.tokenizer.vocab_size + model.positions) * model.width
    assert (parameters(config) - outside) / 1e9 == pytest.approx(billions, rel=0.01)
    start = shape_of(preset(f"cpt_text_{size}").model, 0)
    assert (start.layers, start.width) == (model.layers, model.width), "a start of the paper's shape"
    assert (config.train.batch_size, model.width) == (SIZES[size].batch_size, SIZES[size].width)
    assert "arXiv 2201.10005, table 1" in config.reference


def test_small_models_are_whole_on_every_gpu_and_large_ones_are_cut() -> None:
    layouts = {}
    for name, gpus in (("cpt_text_s", 1), ("cpt_text_m", 8), ("cpt_text_l", 8), ("cpt_text_xl", 1024)):
        found = plan(preset(name), Terms(gpus))
        layouts[name] = found["parallel"], found["synchronise"]
        assert found["memory_bytes"]["total"] <= 0.9 * GPUS["h100"].memory_bytes, name
    assert layouts["cpt_text_s"] == layouts["cpt_text_m"] == ("ddp", "step")
    assert layouts["cpt_text_l"] == layouts["cpt_text_xl"] == ("fsdp", "micro_batch")
    with pytest.raises(UserError, match="does not fit 1 x h100: it needs about 2 of them"):
        plan(preset("cpt_text_l"), Terms(1))


def test_hours_cost_and_energy_follow_from_the_operations() -> None:
    config = preset("cpt_code_s")
    found = plan(config, Terms(gpus=4, gpu="a100", price_per_hour=2.0, utilisation=0.5))
    seconds = step_flops(config, found["gradient_caching"]) / (4 * 312e12 * 0.5)
    assert found["seconds_per_step"] == pytest.approx(seconds)
    assert found["gpu_hours"] == pytest.approx(config.train.steps * seconds * 4 / 3600)
    assert (found["cost"], found["energy_kwh"]) == pytest.approx((2 * found["gpu_hours"], 0.4 * found["gpu_hours"]))
    # 6 operations a weight and token, a third more with gradient caching; attention and logits are the rest
    dense = 28 * (1024 * (2 * 2048 + 2 * 1024) + 3 * 1024 * 3072) * config.train.batch_size * (256 + 512) * 8
    assert 1.0 < step_flops(config, cached=True) / dense < 1.1
    assert plan(config, Terms(4))["cost"] is None
    assert "GPU-hours" in describe_plan(found) and "give --price" in describe_plan(plan(config, Terms(4)))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_larger_batch_or_micro_batch_never_takes_less(name: str) -> None:
    config = preset(name)
    totals = [total_bytes(config, Layout(2, micro_batch_tokens=tokens)) for tokens in (1024, 4096, 16_384)]
    larger = config.model_copy(update={"train": config.train.at_batch_size(2 * config.train.batch_size)})
    assert totals == sorted(totals) and totals[0] < totals[-1]
    assert total_bytes(larger, Layout(2)) > total_bytes(config, Layout(2))


def test_a_plan_of_this_machine_is_of_what_it_has() -> None:
    found = plan(preset("smoke"), Terms(gpu="here"))
    here = find_devices()
    assert (found["gpu"], found["gpus"], found["memory_bytes"]["of"]) == (here.name, here.count, here.memory_bytes)
    assert found["seconds_per_step"] is None and "GPU-hours" not in describe_plan(found)


def test_what_does_not_fit_ends_the_command_as_it_ends_the_run() -> None:
    refused = CliRunner().invoke(app, ["plan", "cpt_text_l", "--gpus", "8", "--set", "train.parallel=ddp"])
    assert refused.exit_code != 0 and isinstance(refused.exception, UserError)
    assert "train.parallel=auto and train.synchronise=auto" in str(refused.exception)


def test_wrong_terms_are_said() -> None:
    with pytest.raises(UserError, match="'h1000' is unknown; choose one of: a10"):
        plan(preset("demo"), Terms(gpu="h1000"))
    with pytest.raises(UserError, match="--gpus must be 1 or more"):
        plan(preset("demo"), Terms(gpus=0))


def test_the_terminals_options_change_the_plan() -> None:
    def planned(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["plan", "cpt_text_s", "--gpus", "8", "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    usual, smaller = planned(), planned("--batch-size", "1536")
    assert (smaller["batch_size"], smaller["steps"]) == (1536, 8 * usual["steps"])
    assert planned("--utilisation", "0.2")["gpu_hours"] == pytest.approx(2 * usual["gpu_hours"])
    assert usual["start"] == "EleutherAI/pythia-410m"
    scratch = planned("--init", "random")
    assert scratch["start"] == "random weights" and scratch["parameters"] != usual["parameters"]
    again = planned("--checkpoint-activations")
    assert again["gpu_hours"] > 1.2 * usual["gpu_hours"] and again["micro_batch_tokens"] >= usual["micro_batch_tokens"]
    refused = CliRunner().invoke(app, ["plan", "cpt_text_s", "--utilisation", "1.5"])
    assert isinstance(refused.exception, UserError) and "--utilisation" in str(refused.exception)


def test_adapters_are_planned_by_what_is_trained() -> None:
    everything, lora = plan(preset("adapt"), Terms()), plan(preset("adapt", layers=[{"model": {"lora": {"rank": 8}}}]), Terms())
    # six layers of four square matrices of 384 and two to and from 1,536, and the temperature
    trained = 6 * 8 * (4 * 2 * 384 + 2 * (384 + 1536)) + 1
    assert lora["trainable_parameters"] == trained and lora["parameters"] == everything["parameters"]
    assert everything["trainable_parameters"] == everything["parameters"]
    assert (lora["state_bytes"], everything["state_bytes"]) == (12 * trained, 12 * everything["parameters"])
    assert (lora["memory_bytes"]["gradients"], lora["memory_bytes"]["optimizer"]) == (4 * trained, 8 * trained)
    assert lora["memory_bytes"]["weights"] == everything["memory_bytes"]["weights"]
    assert lora["memory_bytes"]["total"] < everything["memory_bytes"]["total"]
    assert lora["seconds_per_step"] < everything["seconds_per_step"]
    assert "0.33 trained: LoRA" in describe_plan(lora) and "LoRA" not in describe_plan(everything)
    with pytest.raises(UserError, match="and none is given"):
        plan(preset("smoke", layers=[{"model": {"lora": {"rank": 8}}}]), Terms())
    with pytest.raises(UserError, match="'q_proj' names no matrix"):
        plan(preset("adapt", layers=[{"model": {"lora": {"rank": 8, "targets": ["q_proj"]}}}]), Terms())


def test_what_takes_the_models_own_forward_or_keeps_more_is_planned_so(tmp_path: Path) -> None:
    folder = str(write_causal_lm(tmp_path / "lm", "llama"))

    def parts(**settings: Any) -> dict[str, int]:
        config = apply(preset("smoke", folder), {name.replace("__", "."): value for name, value in settings.items()})
        found: dict[str, int] = plan(config, Terms())["memory_bytes"]
        return found

    usual, lora = parts(), parts(model__lora__rank=2)
    assert parts(model__pooling="mean")["activations"] > usual["activations"], "no layer is computed at one position alone"
    dropped = parts(model__lora__rank=2, model__lora__dropout=0.1)
    fewer = parts(model__lora__rank=2, model__lora__dropout=0.1, model__lora__targets=("q_proj",))
    assert dropped["activations"] > fewer["activations"] > lora["activations"] == usual["activations"]
    prefixes = parts(train__matryoshka__dims=(8, 32))
    taught = parts(train__teacher__kl_weight=0.5, guide__model="first_round")
    guided = parts(train__false_negatives__by="guide", guide__model="first_round")
    pairs = preset("smoke").train.batch_size
    assert prefixes["loss"] - usual["loss"] == 2 * 4 * pairs * (8 + 32 + 32)
    assert guided["loss"] - usual["loss"] == 2 * 4 * pairs * 32
    assert taught["loss"] - guided["loss"] == (37 - 17) * pairs * pairs
    for name in ("weights", "gradients", "optimizer"):
        assert usual[name] == prefixes[name] == taught[name]
