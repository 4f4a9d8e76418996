"""The trainer's own meter: what it adds up, and what timing.jsonl says of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.metrics import Stopwatch
from pipeline_lib.train.trainer import Trainer, build_objective


def test_a_lap_holds_what_was_added_since_the_last() -> None:
    watch = Stopwatch()
    watch.add("wait", 1.5)
    watch.add("wait", 0.5)
    with pytest.raises(ValueError), watch.timed("loss"):
        time.sleep(0.02)
        raise ValueError
    lap = watch.lap()
    assert lap["wait"] == 2.0
    assert 0.02 <= lap["loss"] < 1.0
    assert watch.lap() == {}


def test_every_step_says_what_was_not_arithmetic(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path)
    job = write_job(store, inputs, tiny_config(steps=4, checkpoints=1, resume_every_seconds=1e-6))
    Trainer(job, build_objective(job, Ranks()), Ranks(), Events(enabled=False)).run()
    rows = [json.loads(line) for line in (job.folder / "timing.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        apart = sum(row.get(f"{name}_seconds", 0.0) for name in ("wait", "loss", "synchronisation"))
        assert row["loss_seconds"] > 0 and 0 < apart < row["seconds"]
    assert all(row["saving_seconds"] > 0 for row in rows[1:]), "each step's save is told by the next"
