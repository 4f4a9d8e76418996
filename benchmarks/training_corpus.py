"""Pairs that the benchmarks of training take their steps on, and the clock that times a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.training_steps import Batch, Setting, Step
    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

Figures = dict[str, float | int | str]

STARTED = time.monotonic()
RATIO = "pairs_per_second_ratio"
DEEP = {"layers": 4, "width": 256, "heads": 4, "inner": 1024, "positions": 160}  # where the last layer is one of four


@dataclass(frozen=True)
class Seconds:
    """What one step took."""

    wall: float
    cpu: float
    tokenizing: float  # of the wall seconds


def timed(step: Step, batch: Batch) -> Seconds:
    """Take one step by the clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    step(batch)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu, step.tokenizing_seconds)


@dataclass(frozen=True)
class Corpus:
    """Pairs of Python code at hand in a fixed random order, and a tokenizer trained on them."""

    x: list[str]
    y: list[str]
    tokenizer: PairTokenizer
    folder: Path

    def setting(self, model: ModelConfig) -> Setting:
        """What both sides share, with fresh weights of these sizes in a folder of their own."""
        from benchmarks.training_steps import Setting
        from pipeline_lib.config.presets import preset
        from pipeline_lib.model.encoder import Encoder, fast_bfloat16

        demo = preset("demo")
        train = demo.train.model_copy(update={"precision": "bfloat16" if fast_bfloat16() else "float32"})
        place = self.folder / f"{model.layers}-{model.width}"
        Encoder.build(model.model_copy(update={"init": ""}), self.tokenizer, seed=1).save(place)
        return Setting(model, demo.shards, train, self.tokenizer, self.folder / "tokenizer", place)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Consecutive batches for ever, tokenized beforehand for our side."""
        import torch

        from benchmarks.training_steps import Batch
        from data_contracts.schemas import text_hash
        from pipeline_lib.config.presets import preset
        from pipeline_lib.model.loss import PairHashes

        shards = preset("demo").shards
        x_ids = [np.array(row) for row in self.tokenizer.encode(self.x, "x", shards.max_x_tokens)]
        y_ids = [np.array(row) for row in self.tokenizer.encode(self.y, "y", shards.max_y_tokens)]
        x_hash, y_hash = (torch.tensor([text_hash(text) for text in texts]) for texts in (self.x, self.y))
        assert len(self.x) >= batch_size, f"{len(self.x)} pairs, a batch takes {batch_size}"
        while True:
            for begin in range(0, len(self.x) - batch_size + 1, batch_size):
                cut = slice(begin, begin + batch_size)
                yield Batch(self.x[cut], self.y[cut], x_ids[cut], y_ids[cut], PairHashes(x_hash[cut], y_hash[cut]))


def prepare(folder: Path, n_pairs: int) -> Corpus:
    """At most `n_pairs` of the standard library, then of the installed packages."""
    from benchmarks.stdlib_pairs import stdlib_pairs
    from pipeline_lib.config.presets import preset
    from pipeline_lib.tokens.tokenizer import train_bpe

    docs, functions = stdlib_pairs(n_pairs)
    order = np.random.default_rng(0).permutation(len(docs))
    docs, functions = [docs[i] for i in order], [functions[i] for i in order]
    tokenizer = train_bpe(iter(docs + functions), preset("demo").tokenizer)
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    print(f"{len(docs):,} pairs after {time.monotonic() - STARTED:.0f} s", file=sys.stderr)
    return Corpus(docs, functions, tokenizer, folder)
