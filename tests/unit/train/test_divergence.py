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

from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import TrainingFailed
from pipeline_lib.store.store import Store
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.metrics import StepMetrics, divergence_of, effective_rank
from pipeline_lib.train.trainer import Trainer, build_objective


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
    divergence = divergence_of(step_of(**changes), rank, TrainConfig(warmup_steps=20))
    assert (divergence is None) == (found is None)
    assert found is None or found in divergence.what  # type: ignore[union-attr]


def test_a_fixed_temperature_is_the_users_choice() -> None:
    assert divergence_of(step_of(temperature=1.5), 30.0, TrainConfig(train_temperature=False)) is None
    assert divergence_of(step_of(temperature=None), None, OptimizerConfig()) is None


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


def trainer_of(inputs: tuple[Store, TrainInputs], key: str, **changes: Any) -> Trainer:
    job = write_job(*inputs, tiny_config(**changes), key=key)
    return Trainer(job, build_objective(job, Ranks()), Ranks(), Events(enabled=False))


def test_an_embedding_that_is_not_finite_is_named_with_its_weight(inputs: tuple[Store, TrainInputs]) -> None:
    trainer = trainer_of(inputs, "infinite")
    trainer.take_step(0)
    with torch.no_grad():
        trainer.objective.module.backbone.h[0].mlp.c_fc.weight[0, 0] = math.inf
    expected = r"step 2: embeddings are not finite: 16 of 16 x \(pair \w+ first\), .*weights backbone\.h\.0\.mlp\.c_fc\.weight;"
    with pytest.raises(TrainingFailed, match=expected):
        trainer.take_step(1)
    assert math.isnan(effective_rank(torch.full((4, 4), math.nan)))


@pytest.mark.parametrize(("log_scale", "named"), [(math.nan, "temperature is nan"), (-1e25, "temperature is inf")])
def test_a_temperature_that_is_not_finite_is_named(inputs: tuple[Store, TrainInputs], log_scale: float, named: str) -> None:
    trainer = trainer_of(inputs, "temperature")
    trainer.objective.module.log_scale.data.fill_(log_scale)
    with pytest.raises(TrainingFailed, match=f"step 1: {named}, "):
        trainer.take_step(0)


def test_a_gradient_that_is_not_finite_is_named_by_its_weight(inputs: tuple[Store, TrainInputs]) -> None:
    trainer = trainer_of(inputs, "gradient")
    norm = trainer.objective.module.backbone.ln_f.weight
    handle = norm.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingFailed, match=r"step 1: gradient norm is \w+, .*in the gradients of backbone\.ln_f\.weight;"):
        trainer.take_step(0)
    handle.remove()


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_weights_that_are_not_finite_are_never_saved(inputs: tuple[Store, TrainInputs], average: float) -> None:
    rates = {"learning_rate": 1e39, "steps": 1, "warmup_steps": 0, "checkpoints": 1}
    trainer = trainer_of(inputs, f"last-step-{average}", weight_average=average, **rates)
    with pytest.raises(TrainingFailed, match=r"step 1: weights that are not finite: .* and \d+ more; nothing of them was"):
        trainer.run()
    with pytest.raises(TrainingFailed, match="step 1: weights that are not finite"):
        trainer.save_state(1)
    assert trainer.checkpoints.whole_part("step-000001") is None
    assert not list((trainer.job.folder / "states").rglob("*.safetensors"))


def test_an_average_that_is_not_finite_is_named(inputs: tuple[Store, TrainInputs]) -> None:
    trainer = trainer_of(inputs, "average")
    trainer.take_step(0)
    trainer.average.tensors()["backbone.wpe.weight"][0, 0] = math.nan
    with pytest.raises(TrainingFailed, match=r"weights that are not finite: average of backbone\.wpe\.weight;"):
        trainer.save_state(1)


def test_a_held_out_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    trainer = trainer_of(write_inputs(tmp_path, held_out=20), "held-out", evaluation_pairs=16, weight_average=0.0)
    trainer.take_step(0)
    for weight in trainer.objective.module.backbone.h[0].mlp.parameters():
        weight.data.fill_(3e38)  # finite, and no activation is
    with pytest.raises(TrainingFailed, match=r"step 4: held-out loss is nan"):
        trainer._save_checkpoint(4)


def test_a_checkpoint_says_the_temperature_of_the_weights_beside_it(tmp_path: Path) -> None:
    trainer = trainer_of(write_inputs(tmp_path), "averaged", scale_learning_rate=0.05, weight_average=0.99, checkpoints=1)
    trainer.run()
    live = trainer.objective.temperature()
    with trainer.average.in_place():
        averaged = trainer.objective.temperature()
    part = trainer.checkpoints.whole_part("step-000012")
    assert part is not None and live != averaged
    assert json.loads((tmp_path / part.folder / "state.json").read_text())["temperature"] == averaged
