"""Named runs: each a function that returns the whole configuration."""

from __future__ import annotations

from collections.abc import Callable

from pipeline_lib.config import (
    EvaluateConfig,
    ModelConfig,
    RunConfig,
    ShardConfig,
    TokenizerConfig,
    TrainConfig,
)
from pipeline_lib.errors import UserError


def demo() -> RunConfig:
    """The machine's own Python to a searchable index in about 15 minutes on 2 cores."""
    return RunConfig(name="demo")


def smoke() -> RunConfig:
    """The same code in the smallest sizes that exercise every stage: minutes, no claim to quality."""
    return RunConfig(
        name="smoke",
        tokenizer=TokenizerConfig(vocab_size=2_048, max_training_texts=20_000),
        shards=ShardConfig(max_x_tokens=24, max_y_tokens=48),
        model=ModelConfig(layers=2, width=64, heads=2, inner=128, positions=64),
        train=TrainConfig(steps=30, batch_size=64, checkpoints=5, warmup_steps=3),
        evaluate=EvaluateConfig(candidates=100, max_queries=200, bootstrap=100),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {"demo": demo, "smoke": smoke}


def preset(name: str) -> RunConfig:
    """The configuration of that name.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; choose one of: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]()


def describe(config: RunConfig, name: str) -> str:
    """What a run is about to do, in a few lines for the terminal."""
    train, model = config.train, config.model
    source = config.source.folder or "this machine's own Python: its standard library and the runtime dependencies"
    lines = [
        f"preset {name}: {source}",
        f"  model     {model.layers} layers of {model.width}, vocabulary {config.tokenizer.vocab_size:,}, {train.precision}",
        f"  training  {train.steps:,} steps of {train.batch_size:,} pairs: {train.batch_size - 1:,} negatives a pair",
    ]
    return "\n".join(lines)
