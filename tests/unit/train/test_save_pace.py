"""How often states are saved: at the interval where that is cheap, and else so that it keeps to its share of the time."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store import files as faults
from pipeline_lib.train.distributed import ALONE
from pipeline_lib.train.job import Events
from pipeline_lib.train.state import SavePace
from pipeline_lib.train.trainer import Trainer, build_objective

SLOW_SECONDS = 0.15


@pytest.fixture
def slow_disk() -> Iterator[None]:
    """Each state takes so long to write, on the real way to the disk."""
    faults.arm("state:before_commit", lambda: time.sleep(SLOW_SECONDS))
    yield
    faults.disarm()


def run(root: Path, steps: int, **changes: Any) -> tuple[list[dict[str, float]], list[int]]:
    """Rows of timing.jsonl, and the steps whose states were saved."""
    store, inputs = write_inputs(root)
    config = tiny_config(steps=steps, checkpoints=1, resume_every_seconds=1e-6, keep_states=1000, **changes)
    job = write_job(store, inputs, config)
    trainer = Trainer(job, build_objective(job, ALONE), ALONE, Events(enabled=False))
    trainer.run()
    rows = [json.loads(line) for line in (job.folder / "timing.jsonl").read_text().splitlines()]
    return rows, sorted(part.facts["step"] for part in trainer.resume.states.parts())


@pytest.mark.usefixtures("slow_disk")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_saving_to_a_slow_disk_keeps_to_its_share_of_the_time(tmp_path: Path, asynchronous: bool) -> None:
    share, steps = 0.2, 150
    rows, saved = run(tmp_path, steps, resume_time_share=share, async_checkpointing=asynchronous)
    total = sum(row["seconds"] for row in rows)
    waited = [row.get("saving_seconds", 0.0) for row in rows]
    first = next(seconds for seconds in waited if seconds)  # what it costs is not known before
    assert sum(waited) - first <= share * total
    assert 2 <= len(saved) < steps / 2
    gaps = [later - sooner for sooner, later in itertools.pairwise(saved)]
    assert max(gaps) > 1, "the interval grew"
    if asynchronous:
        assert max(waited) < SLOW_SECONDS, "no step waited for a write"


@pytest.mark.usefixtures("slow_disk")
def test_without_a_bound_each_save_waits_for_the_one_before(tmp_path: Path) -> None:
    rows, saved = run(tmp_path, 6, resume_time_share=None)
    assert saved == [1, 2, 3, 4, 5, 6]
    waited = [row.get("saving_seconds", 0.0) for row in rows]
    assert max(waited) > SLOW_SECONDS / 2


def test_a_cheap_save_leaves_the_interval_alone() -> None:
    pace = SavePace(60.0, 0.02)
    with pace.save():
        pass
    with pace.write():
        pass
    assert pace.interval_seconds == 60.0
    with pace.save():
        time.sleep(0.05)
    assert SavePace(1.0, None).interval_seconds == 1.0
    dear = SavePace(1e-9, 0.02)
    with dear.save():
        time.sleep(0.05)
    assert 2.5 <= dear.interval_seconds < 50.0
    assert not dear.is_due(writing=False)
    before = dear.interval_seconds
    with dear.write():
        sum(range(10**6))
    assert dear.interval_seconds > before, "the writer's processor time is the steps' too"
    assert SavePace(1e-9, 0.02).is_due(writing=False) and not SavePace(1e-9, 0.02).is_due(writing=True)


def test_the_bound_is_two_percent_unless_it_is_set() -> None:
    assert TrainConfig().resume_time_share == 0.02
    assert TrainConfig(resume_time_share=None).key_fields() == TrainConfig().key_fields()
