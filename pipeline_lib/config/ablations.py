"""The paper's levers in small, as a table of switches: each arm is a run's configuration with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.config.run import RunConfig

Lever = Literal["batch", "start", "delimiters", "steps", "data"]
TEXT_VIEWS = ("neighbour", "title", "section")


class AblateConfig(StageConfig):
    """Ablations: the comparisons that are made, and their sizes."""

    levers: tuple[Lever, ...] = Field(get_args(Lever), description="Comparisons that are made.", min_length=1)
    pairs: int = Field(20_000, description="Pairs that a run sees, except in `steps`.", ge=64)
    batch_size: int = Field(256, description="Pairs of one batch, except in `batch`.", ge=2)
    batch_sizes: tuple[int, ...] = Field((64, 1024), description="Other batch sizes, at equal pairs.")
    batch_sizes_at_equal_steps: tuple[int, ...] = Field(
        (1024,), description="Other batch sizes, at equal optimizer steps: they see more pairs, or fewer."
    )
    more_pairs: tuple[float, ...] = Field((2.0, 4.0), description="Multiples of the pairs that the lever `steps` trains on.")
    pretrain_steps: int = Field(40, description="Steps of language modelling behind the pre-trained start.", ge=1)
    pretrain_batch_tokens: int = Field(4_096, description="Tokens of one such step.", ge=64)
    seeds: tuple[int, ...] = Field((1, 2, 3), description="Each arm is run with each: weights and order.", min_length=1)
    candidates: tuple[int, ...] = Field(
        (1_000, 10_000), description="Candidates of one ranking; as many as there are where the split has fewer.", min_length=1
    )


@dataclass(frozen=True)
class Arm:
    """One row of the table: a lever and where it stands. Arms of one configuration are one run."""

    lever: Lever
    name: str
    config: RunConfig
    is_base: bool = False

    @property
    def label(self) -> str:
        """'batch: 1024'."""
        return f"{self.lever}: {self.name}"


def base_run(preset: RunConfig, config: AblateConfig) -> RunConfig:
    """What every arm changes one thing of: the preset's data and sizes, from random weights, a fair sample in each batch.

    Only the last weights are looked at, as they are: an average over so few steps would lag behind them.
    """
    train = preset.train.model_copy(
        update={
            "batch_size": config.batch_size,
            "weight_average": 0.0,
            "checkpoints": 1,
            "block_rows": 256,
            "window_blocks": 4096,
        }
    ).lasting(round(config.pairs / config.batch_size))
    model = preset.model.model_copy(update={"start": "random", "init": ""})
    pretrain = preset.pretrain.model_copy(update={"steps": 0})
    return preset.model_copy(update={"train": train, "model": model, "pretrain": pretrain})


def arms(preset: RunConfig, config: AblateConfig) -> list[Arm]:
    """Every arm of the levers that are asked for, each lever's base first."""
    base = base_run(preset, config)
    makers: dict[str, Callable[[RunConfig, AblateConfig], list[Arm]]] = {
        "batch": _batches,
        "start": _starts,
        "delimiters": _delimiters,
        "steps": _steps,
        "data": _data,
    }
    return [arm for lever in config.levers for arm in makers[lever](base, config)]


def with_seed(run: RunConfig, seed: int) -> RunConfig:
    """The same with other weights, where they are random, and another order."""
    return _changed(run, "train", {"seed": seed})


def rankings(run: RunConfig, config: AblateConfig) -> list[EvaluateConfig]:
    """How runs are measured: once for each number of candidates, the larger ones without a cap on a group's rows."""
    first = run.evaluate.model_copy(update={"candidates": config.candidates[0]})
    more = [{"candidates": size, "max_queries": size, "max_per_group": 10**6} for size in config.candidates[1:]]
    return [first, *(run.evaluate.model_copy(update=change) for change in more)]


def _batches(base: RunConfig, config: AblateConfig) -> list[Arm]:
    others = [
        Arm("batch", str(size), base.model_copy(update={"train": base.train.at_batch_size(size)}))
        for size in config.batch_sizes
    ]
    at_equal_steps = [
        Arm("batch", f"{size}, equal steps", _changed(base, "train", {"batch_size": size}))
        for size in config.batch_sizes_at_equal_steps
    ]
    return [Arm("batch", str(config.batch_size), base, is_base=True), *others, *at_equal_steps]


def _starts(base: RunConfig, config: AblateConfig) -> list[Arm]:
    # one language model for all seeds, as a given one would be
    sizes = {
        "batch_tokens": config.pretrain_batch_tokens,
        "sequence_tokens": min(base.pretrain.sequence_tokens, base.model.positions),
    }
    pretrain = base.pretrain.lasting(config.pretrain_steps).model_copy(update=sizes)
    return [
        Arm("start", "random", base, is_base=True),
        Arm("start", "pre-trained", base.model_copy(update={"pretrain": pretrain})),
        Arm("start", "lexical", _changed(base, "model", {"start": "lexical"})),
    ]


def _delimiters(base: RunConfig, _: AblateConfig) -> list[Arm]:
    shared = _changed(base, "tokenizer", {"delimiters": "shared"})
    return [Arm("delimiters", "distinct", base, is_base=True), Arm("delimiters", "shared", shared)]


def _steps(base: RunConfig, config: AblateConfig) -> list[Arm]:
    longer = [
        Arm("steps", f"{times:g} x", base.model_copy(update={"train": base.train.lasting(round(times * base.train.steps))}))
        for times in config.more_pairs
    ]
    return [Arm("steps", "1 x", base, is_base=True), *longer]


def _data(base: RunConfig, _: AblateConfig) -> list[Arm]:
    mixture = base.train.mixture
    text = {view: share for view, share in mixture.items() if view in TEXT_VIEWS}
    code = {view: share for view, share in mixture.items() if view not in TEXT_VIEWS}
    return [
        Arm("data", "joint", base, is_base=True),
        *(
            Arm("data", name, _changed(base, "train", {"mixture": only}))
            for name, only in (("code", code), ("text", text))
            if only
        ),
    ]


def _changed(run: RunConfig, section: str, change: dict[str, Any]) -> RunConfig:
    return run.model_copy(update={section: getattr(run, section).model_copy(update=change)})
