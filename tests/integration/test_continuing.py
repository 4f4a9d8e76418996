"""Runs that begin where others ended: lengthened to the bit or by a new schedule, stopped early, killed and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from training_runs import MODEL, tiny_config, write_inputs

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.launch import TrainInputs, train

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
