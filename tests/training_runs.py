"""The smallest runs that train for real: generated pairs through the real tokenizer and shards, a model of two thin layers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psutil
from builders import pair_row, write_pairs

from data_contracts.schemas import PAIRS, PAIRS_WITH_NEGATIVES
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Stage
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer
from pipeline_lib.train.job import TRAIN, ArtifactRef, Job
from pipeline_lib.train.launch import TrainInputs

WORDS = "anchor basket candle dragon engine feather garden harbor island jacket kettle ladder magnet needle orchard".split()
MODEL = ModelConfig(layers=2, width=32, heads=2, inner=64, positions=32)


def write_inputs(root: Path, negatives: bool = False, remote: str = "", held_out: int = 0) -> tuple[Store, TrainInputs]:
    """A store with token shards of 120 code and 60 text pairs, with up to three hard negatives each where asked for.

    `held_out` more are its validation split.
    """
    store = Store(root, remote)
    curated = write_curated(store, negatives, held_out=held_out)
    tokenizer = train_tokenizer(store, curated, TokenizerConfig(vocab_size=400))
    shards = write_shards(store, curated, tokenizer, ShardConfig(max_x_tokens=12, max_y_tokens=24))
    return store, TrainInputs(shards, tokenizer)


def tiny_config(**changes: Any) -> TrainConfig:
    """Twelve steps of sixteen pairs, on one thread."""
    fields: dict[str, Any] = {
        "steps": 12,
        "batch_size": 16,
        "warmup_steps": 2,
        "checkpoints": 3,
        "learning_rate": 1e-3,
        "token_dropout": 0.1,
        "weight_average": 0.9,
        "micro_batch_tokens": 128,
        "resume_time_share": None,  # steps of milliseconds: some tests want a state after each
        "precision": "float32",
        "threads": 1,
    }
    return TrainConfig(**{**fields, **changes})


def write_job(store: Store, inputs: TrainInputs, config: Any, key: str = "tiny", stage: Stage = TRAIN) -> Job:
    """The job that the launcher would write, for a trainer in this process."""
    job = Job(
        root=str(store.root),
        stage=stage,
        key=key,
        shards=ArtifactRef.of(inputs.shards),
        tokenizer=ArtifactRef.of(inputs.tokenizer),
        config=config,
        model=MODEL,
    )
    job.folder.mkdir(parents=True, exist_ok=True)
    return job


def write_curated(store: Store, negatives: bool = False, suffix: str = "", held_out: int = 0) -> Artifact:
    """A part "train" of 120 code and 60 text pairs, and "validation" of others; every y ends in the suffix."""
    chance = random.Random(7)
    rows = [_pair(chance, "code" if number % 3 else "text", number) for number in range(180)]
    for row in rows:
        row["y"] += suffix
    if negatives:  # the texts of other pairs
        for number, row in enumerate(rows):
            row["negatives"] = [rows[(number + 7 * k) % len(rows)]["y"] for k in range(1, 1 + number % 4)]
    splits = {"train": rows}
    if held_out:
        splits["validation"] = [_pair(chance, "code" if n % 3 else "text", n) for n in range(len(rows), len(rows) + held_out)]
    schema = PAIRS_WITH_NEGATIVES if negatives else PAIRS
    by_id = {split: sorted(own, key=lambda row: row["id"]) for split, own in splits.items()}
    return write_pairs(store, "curate", by_id, schema)


def _pair(chance: random.Random, kind: str, number: int) -> dict[str, Any]:
    words = chance.sample(WORDS, 4)
    x = " ".join([*words, str(number)])
    y = " ".join([*chance.sample(words, 3), *chance.choices(WORDS, k=chance.randrange(3, 12)), str(number)])
    places = dict.fromkeys(("document_id", "source", "group", "path", "name"), f"p{number % 9}")
    return pair_row(x, y, kind, position=number, language="en", **places)


def rank_processes(root: psutil.Process) -> list[psutil.Process]:
    """The trainer processes below a process, without torchrun itself."""
    return [p for p in root.children(recursive=True) if is_rank(p)]


def is_rank(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return "pipeline_lib.train" in words and "torch.distributed.run" not in words
