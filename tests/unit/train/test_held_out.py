"""Pairs held out of training, measured during it: against an oracle, over several ranks, and as what decides what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_runs import tiny_config, write_inputs, write_job

from benchmarks.gloo import run_ranks
from pipeline_lib.store.store import Store
from pipeline_lib.train.contrastive import ContrastiveObjective, HeldOut
from pipeline_lib.train.distributed import ALONE, Ranks
from pipeline_lib.train.job import EVALUATION_FILE, Events, Job, kept_labels
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.trainer import work

PAIRS = 30


def objective(root: Path) -> ContrastiveObjective:
    store, inputs = write_inputs(root, held_out=40)
    return objective_of(write_job(store, inputs, tiny_config(evaluation_pairs=PAIRS)), inputs)


def objective_of(job: Job, inputs: TrainInputs, ranks: Ranks = ALONE) -> ContrastiveObjective:
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, ranks)
    made.module.double()
    return made


def measured(made: ContrastiveObjective, ranks: Ranks = ALONE) -> dict[str, float]:
    held_out = made.held_out
    assert isinstance(held_out, HeldOut)
    return held_out.measure(made.module, 64, ranks)


def test_loss_and_mrr_are_those_of_pairs_embedded_one_by_one(tmp_path: Path) -> None:
    made = objective(tmp_path)
    found = measured(made)
    assert made.module.training, "training goes on as before"
    assert made.held_out is not None
    batch, encoder = made.held_out.batch, made.module.eval()

    def embed(ids: np.ndarray) -> Tensor:
        return encoder(torch.from_numpy(ids.astype(np.int64))[None], torch.tensor([len(ids)]))[0]

    with torch.no_grad():
        sides = batch.sequences(np.arange(PAIRS))
        x_PD, y_PD = (torch.stack([embed(ids) for ids in side]) for side in (sides[:PAIRS], sides[PAIRS : 2 * PAIRS]))
        logits_PP = x_PD @ y_PD.T * encoder.log_scale.exp()
        own = torch.arange(PAIRS)
        loss = sum(float(torch.nn.functional.cross_entropy(side, own)) for side in (logits_PP, logits_PP.T)) / 2
    ranks_P = [int((row >= row[i]).sum()) for i, row in enumerate(logits_PP)]
    assert len({*batch.hashes_of(np.arange(PAIRS)).y_B.tolist()}) == PAIRS, "no pair masks another"
    assert found["loss"] == pytest.approx(loss, rel=1e-9)
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks_P]), rel=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_several_ranks_measure_what_one_does(tmp_path: Path, size: int) -> None:
    store, inputs = write_inputs(tmp_path, held_out=40)  # before the fork: children that make files of their own may hang
    job = write_job(store, inputs, tiny_config(evaluation_pairs=PAIRS))
    expected = measured(objective_of(job, inputs))
    for found in run_ranks(size, lambda ranks: measured(objective_of(job, inputs, ranks), ranks)):
        assert found == pytest.approx(expected, rel=1e-9)


def labels_on_disk(store: Store, job: Job) -> set[str]:
    records = (json.loads(path.read_text()) for path in (store.root / job.stage.name / "parts").glob("*.json"))
    return {record["label"] for record in records} - {"metrics"}


def test_a_run_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path, held_out=40)
    # rates that do harm: the first checkpoint is the best
    config = tiny_config(checkpoints=6, keep_checkpoints=2, evaluation_pairs=PAIRS, learning_rate=0.5, weight_average=0.0)
    job = write_job(
        store, inputs, config.model_copy(update={"resume_every_seconds": 1e-9, "keep_states": 1, "min_effective_rank": 0.0})
    )
    work(job, Events(enabled=False))
    metrics = next(path for path in (store.root / job.stage.name / "parts").rglob(EVALUATION_FILE))
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    best = min(rows, key=lambda row: row["loss"])["step"]
    assert best < 10, "else this shows nothing"
    assert labels_on_disk(store, job) == {f"step-{step:06d}" for step in (best, 10, 12)}


def test_what_is_kept_is_arithmetic_on_the_losses(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path)
    job = write_job(store, inputs, tiny_config(checkpoints=6, keep_checkpoints=1))
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5}
    lines = "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in losses.items())
    assert kept_labels(job, lines, 2) == ["step-000002"]
    assert kept_labels(job, lines, 8) == ["step-000004", "step-000008"]
    assert kept_labels(job, "", 8) == ["step-000008"]
