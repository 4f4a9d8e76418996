"""Reading one batch ahead hides a slow store, and changes neither what is read nor what is learned."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.tokens.dataset import TokenDataset, TokenRows
from pipeline_lib.train.batches import ReadAhead
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.trainer import Trainer

LATENCY = 0.05


def test_every_step_gets_its_own_batch_whatever_the_order_of_asking() -> None:
    ahead = ReadAhead(lambda step: step, 10)
    assert [ahead.get(step) for step in (0, 1, 2, 7, 8, 3, 9, 9, 0)] == [0, 1, 2, 7, 8, 3, 9, 9, 0]


def test_nothing_is_read_twice_nor_beyond_the_last_step() -> None:
    read: list[int] = []
    ahead = ReadAhead(lambda step: read.append(step), 6)
    for step in range(2, 6):  # as after a restart at step 2
        ahead.get(step)
    assert read == [2, 3, 4, 5]


def test_an_error_comes_at_the_step_that_it_belongs_to() -> None:
    def read(step: int) -> int:
        if step == 1:
            raise OSError("the disk is gone")
        return step

    ahead = ReadAhead(read, 3)
    assert ahead.get(0) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.get(1)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_latency_of_50_ms_is_hidden_behind_the_step(ahead: bool) -> None:
    """Without reading ahead, as a control, every step waits for it."""

    def read(step: int) -> int:
        time.sleep(LATENCY)
        return step

    step_seconds, waits = 2.4 * LATENCY, []
    reader = ReadAhead(read, 12)
    for step in range(12):
        if ahead:
            reader.get(step)
            waits.append(reader.wait_seconds)
        else:
            fresh = ReadAhead(read, 0)
            fresh.get(step)
            waits.append(fresh.wait_seconds)
        time.sleep(step_seconds)
    later = sorted(waits[1:])
    assert waits[0] >= LATENCY
    if ahead:
        assert later[-2] < 0.01 * step_seconds  # of all but the worst, which a busy machine may hold up
    else:
        assert later[0] >= LATENCY


def test_a_slow_store_changes_no_loss_and_the_wait_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, rows_of = [], TokenDataset.rows

    def slow(self: TokenDataset, indices: object) -> TokenRows:
        time.sleep(LATENCY)
        return rows_of(self, indices)

    for name in ("fast", "slow"):
        if name == "slow":
            monkeypatch.setattr(TokenDataset, "rows", slow)
        store, inputs = write_inputs(tmp_path / name)
        job = write_job(store, inputs, tiny_config(steps=6, checkpoints=1))
        objective = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
        trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
        assert trainer.run()
        logs.append(trainer.log.text())
    assert logs[0] == logs[1]
    timing = [json.loads(line) for line in (job.folder / "timing.jsonl").read_text().splitlines()]
    assert timing[0]["wait_seconds"] >= LATENCY
    assert all(0 <= row["wait_seconds"] <= row["seconds"] for row in timing[1:])
