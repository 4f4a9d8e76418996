"""One function lays a run out: what `cpt plan` tells is what the trainer is launched with, or the same refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from causal_lms import write_causal_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import MODEL, tiny_config, write_inputs

from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.config.presets import preset
from pipeline_lib.config.training import CPU_ACTIVATION_BYTES, CPU_TOKENS, PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.grad_cache import activation_bytes
from pipeline_lib.runtime.machine import Devices
from pipeline_lib.runtime.progress import silent
from pipeline_lib.train.job import TRAIN
from pipeline_lib.train.launch import Choices, Report, build_trained
from pipeline_lib.train.layout import applied, at_precision, resolve_layout, settle, workload_of
from pipeline_lib.train.memory import Layout, Workload, memory_of
from pipeline_lib.train.plan import GPUS, Terms, plan

H100 = GPUS["h100"].memory_bytes
LAPTOP = Devices("cpu", 1, 2 * 1024**3)
SETTINGS: dict[str, list[Any]] = {
    "processes": [1, 2],
    "parallel": ["ddp", "fsdp"],
    "synchronise": ["step", "micro_batch"],
    "micro_batch_tokens": [1024, 8192],
    "activation_bytes": [1, 1 << 34],
    "checkpoint_activations": [True],
    "precision": ["float32", "bfloat16"],
}


def launched(work: Workload, devices: Devices) -> OptimizerConfig:
    """As the launcher does: it settles the precision first, which is in the run's name."""
    work = at_precision(work, devices)
    return settle(work.config, work, devices)[0]


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from(sorted(PRESETS)),
    gpus=st.integers(1, 1024),
    gpu=st.sampled_from(sorted(GPUS)),
    asked=st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in SETTINGS.items()}),
)
def test_a_plan_is_what_the_trainer_is_launched_with(name: str, gpus: int, gpu: str, asked: dict[str, Any]) -> None:
    config = preset(name)
    config = config.model_copy(update={"train": config.train.model_copy(update=asked)})
    work, terms = Workload.planned(config), Terms(gpus, gpu)
    try:
        planned = plan(config, terms)
    except UserError as refused:
        with pytest.raises(UserError) as raised:
            launched(work, terms.devices)
        assert str(raised.value) == str(refused)
        return
    config_of_trainer = launched(work, terms.devices)
    assert isinstance(config_of_trainer, TrainConfig)
    for field in ("processes", "parallel", "synchronise", "micro_batch_tokens", "checkpoint_activations", "activation_bytes"):
        assert getattr(config_of_trainer, field) == planned[field], field
    for field, value in asked.items():  # what a user sets wins; weights that one process holds are gathered by none
        if field != "synchronise" or planned["parallel"] == "fsdp":
            assert getattr(config_of_trainer, field) == value, field
    assert config_of_trainer.precision == planned["precision"]
    named = config.train.model_copy(update={"precision": planned["precision"]})
    assert config_of_trainer.key_fields() == named.key_fields(), "a layout is no part of a key"
    assert planned["memory_bytes"]["total"] <= GPUS[gpu].memory_bytes
    again = launched(Workload(work.shape, config_of_trainer, work.x_tokens, work.y_tokens), terms.devices)
    assert again == config_of_trainer, "a settled configuration is settled"
    assert config.train.batch_size % planned["processes"] == 0


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(sorted(PRESETS)),
    gpus=st.integers(1, 64),
    gigabytes=st.integers(4, 200),
    kind=st.sampled_from(["cuda", "cpu"]),
)
def test_the_trainer_caches_what_was_planned_so(name: str, gpus: int, gigabytes: int, kind: Any) -> None:
    devices = Devices(kind, gpus if kind == "cuda" else 1, gigabytes * 10**9, "made up")
    work = at_precision(Workload.planned(preset(name)), devices)
    try:
        layout = resolve_layout(work, devices)
    except UserError:
        return
    tokens = work.local_tokens(layout.processes)
    if layout.is_cut and tokens > layout.micro_batch_tokens:
        assert layout.cached
    else:  # by the trainer's own question, of a batch whose texts are at their longest
        assert layout.cached == (work.kept_bytes(tokens, layout) > layout.activation_bytes)
    memory = memory_of(work, layout)
    assert memory.total <= devices.memory_bytes
    kept = memory.total - memory.activations + layout.activation_bytes
    assert kind == "cpu" or kept <= 1.0001 * devices.memory_bytes, "a batch of other lengths may keep as much, and fits"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("low", [False, True])
def test_the_trainers_estimate_of_activations_is_the_planners(tmp_path: Path, family: str, low: bool) -> None:
    from transformers import AutoConfig

    folder = write_causal_lm(tmp_path, family)
    update = {"precision": "bfloat16" if low else "float32"}
    config = preset("cpt_text_s", str(folder))
    work = Workload.planned(config.model_copy(update={"train": config.train.model_copy(update=update)}))
    kept = work.kept_bytes(5000, Layout(1))
    model = AutoConfig.from_pretrained(folder)
    assert activation_bytes(model, 5000, low=low) == kept < activation_bytes(model, 5001, low=low)


def test_all_gpus_of_a_machine_train_unless_a_setting_says_otherwise() -> None:
    config = preset("cpt_text_s").train
    work = Workload.planned(preset("cpt_text_s"))

    def processes(count: int, **changes: Any) -> int:
        changed = config.model_copy(update=changes)
        there = Devices("cuda", count, H100, "h100")
        return settle(changed, Workload(work.shape, changed, work.x_tokens, work.y_tokens), there)[0].n_processes

    assert processes(8) == 8
    assert processes(8, gpus=4) == 4
    assert processes(8, processes=2) == 2
    assert processes(8, nodes=3) == 8
    assert processes(7) == 6, "12,288 pairs divide among six, and no more"
    assert processes(5, batch_size=7 * 11) == 1
    _, why = settle(config, work, Devices("cuda", 7, H100, "h100"))
    assert "6 process(es) on 7 x h100" in why and "1 of them unused" in why
    with pytest.raises(UserError, match="gpus 9: this machine has 8"):
        processes(8, gpus=9)
    with pytest.raises(UserError, match=r"12 trainer processes for 8 GPU\(s\)"):
        processes(8, processes=12)
    with pytest.raises(UserError, match="does not divide among 5 processes"):
        processes(8, processes=5)


def test_a_machine_without_gpus_trains_in_one_process_as_it_did() -> None:
    for name in ("demo", "smoke"):
        config = preset(name)
        settled = launched(Workload.planned(config), LAPTOP)
        assert isinstance(settled, TrainConfig)
        assert (settled.processes, settled.parallel, settled.micro_batch_tokens) == (1, "ddp", CPU_TOKENS)
        kept = {}
        for gigabytes in (5, 8, 24):
            larger = launched(Workload.planned(config), Devices("cpu", 1, gigabytes * 1024**3))
            assert isinstance(larger, TrainConfig)
            kept[gigabytes] = larger.activation_bytes
        assert kept == {5: CPU_ACTIVATION_BYTES, 8: 8 * 1024**3 // 3, 24: 8 * 1024**3}
    with pytest.raises(UserError, match="gpus 1: this machine has no GPU that torch can use"):
        settle(TrainConfig(gpus=1), None, LAPTOP)


def test_the_layout_that_nothing_is_known_of_is_what_the_settings_say() -> None:
    settled, why = settle(TrainConfig(processes=2, parallel="fsdp", synchronise="micro_batch"), None, LAPTOP)
    assert (settled.processes, settled.parallel, settled.synchronise) == (2, "fsdp", "micro_batch")
    assert (settled.micro_batch_tokens, "no estimate of its memory" in why) == (CPU_TOKENS, True)


EIGHT = Devices("cuda", 8, H100, "h100")


@pytest.mark.parametrize(
    ("name", "asked", "devices", "hint"),
    [
        ("cpt_text_l", {"parallel": "ddp"}, EIGHT, ("train.parallel=auto and train.synchronise=auto", {"parallel": "auto"})),
        (
            "cpt_text_l",
            {"synchronise": "step"},
            Devices("cuda", 8, 60 * 10**9, "made up"),
            ("train.synchronise=auto", {"synchronise": "auto"}),
        ),
        (
            "cpt_text_l",
            {"micro_batch_tokens": 1 << 17},
            EIGHT,
            ("train.micro_batch_tokens=null", {"micro_batch_tokens": None}),
        ),
        (
            "cpt_text_l",
            {"micro_batch_tokens": 1 << 15},
            EIGHT,
            ("train.checkpoint_activations=true", {"checkpoint_activations": True}),
        ),
        (
            "cpt_text_s",
            {"activation_bytes": 1 << 50},
            Devices("cuda", 1, H100, "h100"),
            ("train.activation_bytes=null", {"activation_bytes": None}),
        ),
        ("cpt_text_l", {}, Devices("cuda", 1, H100, "h100"), ("it needs about 2 of them", {})),
        ("cpt_text_l", {}, Devices("cpu", 1, 16 * 10**9), ("take a smaller model", None)),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers_and_what_would(
    name: str, asked: dict[str, Any], devices: Devices, hint: tuple[str, dict[str, Any] | None]
) -> None:
    config = preset(name)
    work = Workload.planned(config.model_copy(update={"train": config.train.model_copy(update=asked)}))
    with pytest.raises(UserError) as refused:
        resolve_layout(work, devices)
    message, (what, change) = str(refused.value), hint
    assert f"{name} does not fit {devices.count} x {devices.name}: " in message
    assert what in message
    assert "a process needs" in message and f"and has {devices.memory_bytes / 1e9:.1f} GB" in message
    assert all(part in message for part in ("weights", "optimizer", "activations"))
    if change is not None:  # and it is true
        mended = replace(work, config=work.config.model_copy(update=change))
        there = replace(devices, count=2) if not change else devices
        assert memory_of(mended, resolve_layout(mended, there)).total <= there.memory_bytes


def test_the_amount_of_memory_is_a_setting() -> None:
    config = preset("cpt_text_s").train.model_copy(update={"memory_bytes": 10**9})
    work = Workload.planned(preset("cpt_text_s"))
    small = Workload(work.shape, config, work.x_tokens, work.y_tokens)
    with pytest.raises(UserError, match=r"and has 1\.0 GB"):
        settle(config, small, Devices("cuda", 1, H100, "h100"))


def test_processes_of_a_cpu_share_its_memory() -> None:
    config = TrainConfig(processes=8)
    work = Workload.planned(preset("cpt_text_s", "random"))
    many = Workload(work.shape, config, work.x_tokens, work.y_tokens)
    with pytest.raises(UserError, match=r"train\.processes=\d; a process needs"):
        resolve_layout(many, Devices("cpu", 1, 11 * 10**9))


def test_a_language_model_is_laid_out_by_its_own_batches() -> None:
    shape = Workload.planned(preset("cpt_text_s")).shape
    config = PretrainConfig(steps=1, batch_tokens=4096, sequence_tokens=1024)
    work = Workload(shape, config, 64, 64, head=shape.vocabulary * shape.width)
    settled = launched(work, Devices("cuda", 8, H100, "h100"))
    assert (settled.processes, settled.micro_batch_tokens) == (4, 1 << 14), "a sequence for each"
    assert launched(work, Devices("cpu", 1, 1 << 36)).micro_batch_tokens == 2048
    with pytest.raises(UserError, match="does not fit"):
        launched(work, Devices("cuda", 1, 4 * 10**9, "small"))


def test_the_launchers_job_is_the_plan_of_the_artifacts(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path / "store")
    lines: list[str] = []
    config = tiny_config(steps=2, checkpoints=1, micro_batch_tokens=None)
    report = Report(silent, lines.append)
    # as large as a GPU's, so that the run can end; the trainer's own device is another
    trained = build_trained(store, TRAIN, inputs, Choices(config=config, model=MODEL), report, Devices("cpu", 1, 1 << 35))
    job = json.loads((store.root / "train" / trained.manifest.key / "job.json").read_text())
    work = workload_of(inputs.shards, inputs.tokenizer, "", config, MODEL)
    assert work is not None
    expected = applied(resolve_layout(work, Devices("cpu", 1, 1 << 35)), config)
    assert job["config"] == expected.model_dump(mode="json")
    assert None not in (job["config"]["processes"], job["config"]["micro_batch_tokens"], job["config"]["activation_bytes"])
    assert any(line.startswith("1 process(es) on 1 x CPU of 34.4 GB: whole weights") for line in lines)
    with pytest.raises(UserError, match="does not fit 1 x CPU"):
        other = Choices(config=config.model_copy(update={"seed": 9}), model=MODEL)
        build_trained(store, TRAIN, inputs, other, report, Devices("cpu", 1, 1 << 20))
    started = [path for path in (store.root / "train").iterdir() if (path / "job.json").exists()]
    assert len(started) == 1, "refused before anything was started"


def test_a_start_of_an_unknown_kind_has_no_estimate(tmp_path: Path) -> None:
    _, inputs = write_inputs(tmp_path / "store")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert workload_of(inputs.shards, inputs.tokenizer, str(tmp_path), tiny_config(), ModelConfig()) is None


def test_every_operational_choice_of_a_layout_is_a_field() -> None:
    fields = TrainConfig.model_fields
    assert get_args(fields["parallel"].annotation) == ("auto", "ddp", "fsdp")
    assert [fields[name].default for name in ("processes", "gpus", "memory_bytes", "micro_batch_tokens")] == [None] * 4


@pytest.mark.parametrize("config", [TrainConfig, PretrainConfig])
def test_muon_takes_whole_matrices(config: Any) -> None:
    """Cut ones are refused before a trainer starts, and are no way out where whole ones do not fit."""
    with pytest.raises(UserError, match="muon, which needs whole matrices"):
        settle(config(optimizer="muon", parallel="fsdp"), None, EIGHT)
    large = Workload.planned(preset("cpt_text_l"))
    assert resolve_layout(large, EIGHT).is_cut
    muon = replace(large, config=large.config.model_copy(update={"optimizer": "muon"}))
    with pytest.raises(UserError, match="GB"):
        resolve_layout(muon, EIGHT)
