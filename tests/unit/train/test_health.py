"""A run that has gone wrong stops itself and says where; a healthy one never does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.artifact import Store
from pipeline_lib.errors import TrainingFailed
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.health import effective_rank, trouble_of
from pipeline_lib.train.job import Events
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.metrics import StepMetrics
from pipeline_lib.train.trainer import Trainer
from pipeline_lib.train.worker import build_objective
from pipeline_lib.train_config import OptimizerConfig, TrainConfig


def test_effective_rank_is_the_number_of_even_dimensions() -> None:
    assert effective_rank(torch.eye(8).repeat(12, 1)) == pytest.approx(8, rel=1e-6)
    assert effective_rank(torch.ones(50, 16)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.cat([torch.ones(25, 16), -torch.ones(25, 16)])) == pytest.approx(1, abs=1e-3)
    torch.manual_seed(1)
    assert effective_rank(normalize(torch.randn(1000, 64), dim=1)) > 50


def test_a_narrow_cone_is_no_collapse_and_a_point_is_one() -> None:
    torch.manual_seed(1)
    ranks = [effective_rank(normalize(torch.ones(500, 64) + spread * torch.randn(500, 64), dim=1)) for spread in (0.1, 1e-4)]
    assert ranks[0] > 2 > TrainConfig().min_effective_rank > ranks[1], "cosines of 0.99 are fine, of 0.99999999 are not"


def step_of(**changes: Any) -> StepMetrics:
    fields: dict[str, Any] = {"step": 99, "loss": 2.0, "temperature": 0.05, "gradient_norm": 1.0, "learning_rate": 1e-3}
    return StepMetrics(**{**fields, "padding_share": 0.0, "pairs_seen": 9, **changes})


@pytest.mark.parametrize(
    ("changes", "rank", "found"),
    [
        ({}, 30.0, None),
        ({}, None, None),
        ({"loss": math.nan}, 30.0, "loss is nan"),
        ({"gradient_norm": math.inf}, 30.0, "gradient norm is inf"),
        ({}, 1.05, "embeddings have collapsed: effective rank 1.050"),
        ({"step": 20}, 1.05, None),  # still warming up
        ({"temperature": 1.5}, 30.0, "temperature has collapsed: 1.500"),
    ],
)
def test_what_is_trouble(changes: dict[str, Any], rank: float | None, found: str | None) -> None:
    trouble = trouble_of(step_of(**changes), rank, TrainConfig(warmup_steps=20))
    assert (trouble is None) == (found is None)
    assert found is None or found in trouble.what  # type: ignore[union-attr]


def test_a_fixed_temperature_is_the_users_choice() -> None:
    assert trouble_of(step_of(temperature=1.5), 30.0, TrainConfig(train_temperature=False)) is None
    assert trouble_of(step_of(temperature=None), None, OptimizerConfig()) is None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, TrainInputs]:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("health"))


def test_a_run_whose_embeddings_collapse_stops_with_step_and_samples(inputs: tuple[Store, TrainInputs]) -> None:
    job = write_job(*inputs, tiny_config(), key="collapsed")
    objective = build_objective(job, Ranks())
    trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
    for step in range(4):
        trainer.take_step(step)
    with torch.no_grad():  # the last norm gives every text the same vector
        objective.module.backbone.ln_f.weight.zero_()
        objective.module.backbone.ln_f.bias.fill_(1.0)
    before = objective.module.backbone.wte.weight.detach().clone()
    with pytest.raises(TrainingFailed, match=r"step 5: the embeddings have collapsed: effective rank 1\.000.*: step-000004"):
        trainer.take_step(4)
    assert torch.equal(objective.module.backbone.wte.weight, before), "the step was not taken"
    named = json.loads((Path(job.folder) / "collapsed.json").read_text())
    assert named == {"step": 5, "pair_ids": objective.pair_ids(4)}


def test_timing_carries_the_effective_rank(inputs: tuple[Store, TrainInputs]) -> None:
    job = write_job(*inputs, tiny_config(steps=2, warmup_steps=1), key="timed")
    Trainer(job, build_objective(job, Ranks()), Ranks(), Events(enabled=False)).run()
    rows = [json.loads(line) for line in (job.folder / "timing.jsonl").read_text().splitlines()]
    assert all(1.2 < row["effective_rank"] <= 16 for row in rows)
