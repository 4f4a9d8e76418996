"""The schedule, the parameter groups and the averaged weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.train import optim


def test_schedule_warms_up_linearly_and_ends_at_its_final_share() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=4, final_learning_rate_share=0.1)
    rates = [optim.schedule(config, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[12] == pytest.approx(0.1 + 0.9 * 0.5, abs=0.06)  # near the middle of the cosine
    assert rates[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_stable_rates_stay_and_fall_along_a_line_and_a_longer_run_begins_alike() -> None:
    config = TrainConfig(
        schedule="warmup-stable-decay", decay_share=0.25, warmup_steps=4, final_learning_rate_share=0.1, steps=20
    )
    rates = [optim.schedule(config, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and rates[4:15] == [1.0] * 11
    assert rates[15:] == pytest.approx([0.82, 0.64, 0.46, 0.28, 0.1])
    longer = config.lasting(40)
    assert (longer.warmup_steps, config.stable_steps(20), longer.stable_steps(40)) == (4, 15, 30)
    assert [optim.schedule(longer, step, 40) for step in range(15)] == rates[:15]
    assert TrainConfig(warmup_steps=4, steps=20).lasting(40).warmup_steps == 8, "a cosine's warm-up keeps its share"
    assert TrainConfig().stable_steps(20) is None
    never = config.model_copy(update={"decay_share": 0.0})
    assert [optim.schedule(never, step, 20) for step in range(4, 20)] == [1.0] * 16 and never.stable_steps(20) == 20


@pytest.mark.parametrize("schedule", ["cosine", "warmup-stable-decay"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (5, 5), (10, 3)])
def test_schedule_stands_short_runs(warmup: int, steps: int, schedule: Any) -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=warmup, schedule=schedule)
    assert all(0 < optim.schedule(config, step, steps) <= 1.0 for step in range(steps))


def test_decay_is_on_matrices_only() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = optim.build_optimizer(module, TrainConfig(weight_decay=0.5))
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert [id(p) for p in decayed] == [id(module[0].weight)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_embeddings_and_scale_have_rates_of_their_own() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.layer = nn.Linear(3, 3)
            self.log_scale = nn.Parameter(torch.tensor(1.0))

        def get_input_embeddings(self) -> nn.Embedding:
            return self.table

    module = Tiny()
    config = TrainConfig(
        learning_rate=1.0, embedding_learning_rate=5.0, scale_learning_rate=0.1, embedding_epsilon=0.01, weight_decay=0.3
    )
    optimizer = optim.build_optimizer(module, config)
    optim.set_learning_rates(optimizer, 0.5)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    table, scale, matrix, bias = (
        by_parameter[id(p)] for p in (module.table.weight, module.log_scale, module.layer.weight, module.layer.bias)
    )
    assert [group["lr"] for group in (table, scale, matrix, bias)] == [2.5, 0.05, 0.5, 0.5]
    assert [group["weight_decay"] for group in (table, scale, matrix, bias)] == [0.3, 0.0, 0.3, 0.0]
    assert [group["eps"] for group in (table, scale, matrix, bias)] == [0.01, 1e-8, 1e-8, 1e-8]


def test_average_is_the_exponential_mean_and_in_place_gives_the_weights_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = optim.WeightAverage(module, 0.9)
    expected = 0.0
    for step in range(50):
        nn.init.constant_(module.weight, float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_place():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 49.0


def test_no_average_leaves_the_weights() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    average = optim.WeightAverage(module, 0.0)
    average.update(0)
    with average.in_place():
        assert torch.equal(module.weight, before)
    assert average.tensors() == {}


def test_muon_takes_the_matrices_between_states_and_no_other() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=9, tie_word_embeddings=False))
    optimizer = optim.build_optimizer(model, PretrainConfig(optimizer="muon", muon_learning_rate=0.3, learning_rate=0.1))
    optim.set_learning_rates(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    own = {name for name, p in model.named_parameters() if rates[id(p)] == 0.15}
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert own == {f"transformer.h.0.{part}.weight" for part in parts}
    assert {rates[id(p)] for name, p in model.named_parameters() if name not in own} == {0.05}


def test_a_step_of_muon_is_orthogonal_and_as_large_as_adamws() -> None:
    torch.manual_seed(0)
    module = nn.Linear(6, 24, bias=False)
    before = module.weight.detach().clone()
    optimizer = optim.build_optimizer(module, TrainConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.0))
    optim.set_learning_rates(optimizer, 1.0)
    module(torch.randn(7, 6)).square().sum().backward()
    optimizer.step()
    step = (before - module.weight.detach()) / 0.01
    singular = torch.linalg.svdvals(step)
    assert 0.6 < singular.min() / singular.max() <= 1.0, "a gradient's own singular values would lie far apart"
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_moments_put_back_give_the_same_next_step_to_the_bit(kind: Any) -> None:
    def start() -> tuple[nn.Module, optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Linear(4, 4)
        return module, optim.build_optimizer(module, TrainConfig(optimizer=kind))

    def step(module: nn.Module, optimizer: optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        module(torch.full((1, 4), float(number + 1))).square().sum().backward()
        optimizer.step()

    whole, whole_optimizer = start()
    for number in range(4):
        step(whole, whole_optimizer, number)
        if number == 1:
            weights = {name: weight.clone() for name, weight in whole.state_dict().items()}
            saved = {name: value.clone() for name, value in optim.moments(whole, whole_optimizer).items()}
            assert {name.rpartition("/")[0] for name in saved} == {"weight", "bias"}
    resumed, resumed_optimizer = start()
    resumed.load_state_dict(weights)
    optim.restore_moments(resumed, resumed_optimizer, saved)
    for number in (2, 3):
        step(resumed, resumed_optimizer, number)
    assert torch.equal(resumed.weight, whole.weight)
    muon = {"momentum_buffer"} if kind == "muon" else set()
    assert {name.split("/")[1] for name in saved} == {"step", "exp_avg", "exp_avg_sq"} | muon
