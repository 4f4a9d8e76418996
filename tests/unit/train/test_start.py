"""Digests of starts, and settings that a checkpoint brings along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from training_runs import MODEL, tiny_config, write_inputs

from flows.params import TrainParams
from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.config.presets import preset
from pipeline_lib.config.training import EarlyStoppingConfig, PretrainConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model import lora
from pipeline_lib.model.lora import content_digest
from pipeline_lib.store.files import sha256_file
from pipeline_lib.train import start as starts
from pipeline_lib.train.launch import train
from pipeline_lib.train.start import Start, but_for_length, start_of, verify


def write_start(folder: Path) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).write_text(name)
    return folder


def test_only_what_is_read_is_hashed_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = write_start(tmp_path / "lm"), tmp_path / "hashes"
    hashed: list[str] = []
    monkeypatch.setattr(lora, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    digest = content_digest(folder, cache)
    assert len(hashed) == 3 and content_digest(folder) == digest and len(hashed) == 6
    (folder / "pytorch_model.bin").write_text("a pickle")
    (folder / "README.md").write_text("a card")
    assert content_digest(folder, cache) == digest and len(hashed) == 6
    (folder / "config.json").write_text("another")
    assert content_digest(folder, cache) != digest and hashed[6:] == ["config.json"]


def test_bytes_that_changed_behind_a_known_digest_are_found_before_work_begins(tmp_path: Path) -> None:
    folder, cache = write_start(tmp_path / "lm"), tmp_path / "hashes"
    digest, weights = content_digest(folder, cache), folder / "model.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_text("Model.safetensors")
    os.utime(weights, ns=times)
    assert content_digest(folder, cache) == digest, "by size and time it is the same"
    with pytest.raises(CorruptArtifact, match=r"its content is \w{12}, expected"):
        verify(Start(str(folder), digest))


def test_a_start_without_config_json_is_refused(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path / "store")
    model = MODEL.model_copy(update={"init": str(tmp_path)})
    with pytest.raises(UserError, match=r"no config\.json in"):
        start_of(store, None, PretrainConfig(steps=1), model, inputs.tokenizer)


def test_a_checkpoint_brings_its_rates_and_sizes_below_what_is_asked_for() -> None:
    recipe = {"train": {"learning_rate": 2e-3, "clip_norm": 7.0, "temperature": 0.03}, "model": {"width": 64, "heads": 2}}
    config = preset("demo", layers=[{"train.clip_norm": 5.0}], recipe=recipe)
    assert (config.train.learning_rate, config.train.clip_norm, config.train.temperature) == (2e-3, 5.0, 0.03)
    assert (config.model.width, config.train.steps, config.train.batch_size) == (64, 240, 1024)


def test_a_checkpoint_brings_all_that_its_weights_were_moved_by() -> None:
    """Each option of the optimizer is one that a checkpoint brings, or one of the run: how long, how exact, which order."""
    runs_own = {"steps", "warmup_steps", "schedule", "decay_share", "final_learning_rate_share"}
    runs_own |= {"precision", "tf32", "deterministic", "seed"}
    moving = {
        name
        for name, field in OptimizerConfig.model_fields.items()
        if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational"))
    }
    assert moving - runs_own == set(starts.RECIPE) - {"token_dropout"}


def test_runs_that_differ_in_more_than_their_length_are_not_alike() -> None:
    config = tiny_config(schedule="warmup-stable-decay", decay_share=0.3, embedding_learning_rate=0.1).key_fields()
    may_differ = {"steps", "checkpoints", "decay_share", "final_learning_rate_share"}
    assert config.keys() > {*may_differ, "learning_rate", "warmup_steps", "batch_size", "seed"}
    for name in config:
        changed = but_for_length({"config": {**config, name: "another"}, "model": {}})
        assert (changed == but_for_length({"config": config, "model": {}})) == (name in may_differ), name
    assert but_for_length({"config": config, "model": {"layers": 3}}) != but_for_length({"config": config, "model": {}})


def test_early_stopping_without_held_out_pairs_is_refused(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path)
    with pytest.raises(UserError, match=r"there are none: set train\.evaluation_pairs to 1,000, for instance$"):
        train(store, inputs, tiny_config(early_stopping=EarlyStoppingConfig(patience=2)), MODEL)
    stops = TrainParams(preset="demo", set=("train.early_stopping.patience=2", "train.evaluation_pairs=500"))
    with pytest.raises(UserError, match=r"set shards\.splits to \[train, validation\]$"):
        stops.resolve()
    stops.model_copy(update={"set": (*stops.set, "shards.splits=[train, validation]")}).resolve()
