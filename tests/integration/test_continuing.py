"""Runs that begin where others ended: lengthened to the bit or by a new schedule, stopped early, killed and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import MODEL, tiny_config, write_curated, write_inputs, write_job

from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.training import EarlyStoppingConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer
from pipeline_lib.train.launch import Choices, TrainInputs, train
from pipeline_lib.train.start import checkpoint_of, longest_stable

STABLE = {"schedule": "warmup-stable-decay", "decay_share": 0.25}


def rows_of(trained: Artifact, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trained.part_folder("metrics") / name).read_text().splitlines()]


def labels_of(trained: Artifact) -> list[str]:
    return [part.label for part in trained.manifest.parts]


def quietly(store: Store, inputs: TrainInputs, config: TrainConfig) -> tuple[Artifact, str]:
    """The run, and what was said of it."""
    lines: list[str] = []
    return train(store, inputs, config, MODEL, log=lines.append), "\n".join(lines)


def test_a_run_of_stable_rates_is_lengthened_to_the_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    store, inputs = write_inputs(tmp_path / "one", held_out=40)
    config = tiny_config(**STABLE, steps=8, checkpoints=2, evaluation_pairs=30)
    short, _ = quietly(store, inputs, config)
    assert labels_of(short) == ["step-000004", "step-000008", "state-000006", "metrics"]
    longer = config.model_copy(update={"steps": 16})
    lengthened, said = quietly(store, inputs, longer)
    assert f"the first 6 steps are those of run {short.manifest.key}" in said and "going on after step 6" in said
    other, same = write_inputs(tmp_path / "other", held_out=40)
    at_once, _ = quietly(other, same, longer)
    assert lengthened.manifest == at_once.manifest, "the same parts to the byte, under the same key"
    assert [row["step"] for row in rows_of(lengthened)] == list(range(1, 17))
    misfit, said = quietly(store, inputs, config.model_copy(update={"steps": 11, "checkpoints": 4}))
    assert "begins anew: it has no checkpoint step-000003" in said and misfit.manifest.facts["step"] == 11


@pytest.mark.slow
def test_two_processes_stop_early_where_one_does_and_say_so(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path, held_out=40)
    rule = EarlyStoppingConfig(patience=1, metric="mrr", min_delta=0.9)  # nothing is better than the first by so much
    harmed = tiny_config(**STABLE, checkpoints=6, evaluation_pairs=30, early_stopping=rule, processes=2, keep_checkpoints=1)
    trained, said = quietly(store, inputs, harmed)
    told = "stopped early after step 4 of 12: the held-out mrr was best at step 2"
    assert told in said and trained.manifest.facts["stopped_early"].startswith(told)
    assert trained.manifest.facts["step"] == 4
    rows = [row["mrr"] for row in rows_of(trained, "evaluation.jsonl")]
    assert len(rows) == 2
    best = "step-000002" if rows[0] > rows[1] else "step-000004"
    assert labels_of(trained) == [*sorted({best, "step-000004"}), "metrics"], "no later ones, and no state of the decay"
    assert train(store, inputs, harmed.model_copy(update={"processes": 1}), MODEL).manifest.key == trained.manifest.key


def test_a_run_goes_on_from_another_with_its_tokenizer_alone(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path)
    short, _ = quietly(store, inputs, tiny_config(steps=4, checkpoints=2))
    key = short.manifest.key
    assert checkpoint_of(store, key[:5]).name == f"{key}/step-000004" and checkpoint_of(store, f"{key}/step-000002").step == 2
    longer = tiny_config(steps=8, checkpoints=2, continue_from=f"{key[:8]}/step-000004")
    lengthened, _ = quietly(store, inputs, longer)
    assert lengthened.manifest.inputs["parent"] == short.digest and lengthened.manifest.facts["pairs_seen"] == 8 * 16
    assert labels_of(lengthened) == ["step-000006", "step-000008", "metrics"]
    assert rows_of(lengthened)[:4] == rows_of(short)
    first, last = (json.loads((run.part_folder(label) / "state.json").read_text())["temperature"] for run, label in
                   ((short, "step-000004"), (lengthened, "step-000006")))  # fmt: skip
    assert rows_of(lengthened)[4]["temperature"] == pytest.approx(first, rel=1e-6) and first != last
    start = load_file(short.part_folder("step-000004") / "model.safetensors")
    after = load_file(lengthened.part_folder("step-000006") / "model.safetensors")
    moved = [float((after[name] - start[name]).abs().max()) for name in start]
    assert 0 < max(moved) < 0.05, "it went on from those weights"
    assert train(store, inputs, longer.model_copy(update={"continue_from": key}), MODEL).manifest.key == lengthened.manifest.key
    anew, said = tiny_config(steps=8, warmup_steps=4), list[str]()
    job, choices = write_job(store, inputs, anew, key="anew"), Choices(config=anew, model=MODEL).key_fields()
    digests = {name: artifact.digest for name, artifact in inputs.named().items()}
    assert longest_stable(store, job, choices, digests, said.append) == job
    assert f"run {key} is the same but for its 4 steps" in said[0] and f"train.continue_from={key} goes on" in said[0]
    with pytest.raises(UserError, match=r"set train\.steps to those of both runs together"):
        train(store, inputs, longer.model_copy(update={"steps": 4}), MODEL)
    curated = write_curated(store, suffix=" other words")
    other = train_tokenizer(store, curated, TokenizerConfig(vocab_size=300))
    shards = write_shards(store, curated, other, ShardConfig(max_x_tokens=12, max_y_tokens=24))
    with pytest.raises(UserError, match="make them with the checkpoint's own"):
        train(store, TrainInputs(shards, other), longer, MODEL)
