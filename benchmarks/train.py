"""Training steps against sentence-transformers: `python -m benchmarks.train [--quick]`.

Same model, pairs, truncation, batch, precision and threads, in one process, steps taken in turn; start-up and two warm-up
steps excluded. The peer is the fastest of its three losses. Its step tokenizes, as its trainer's collator does each step;
ours reads token ids, as shards hold them; the ratio without its tokenizing is given beside. Our own step with one thing
undone at a time says where the factor comes from. Ratios of processor seconds stand beside those of wall seconds: on a
machine that does other work too, they are what can be trusted (best with `--threads 1`). The last line is one flat JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.training_steps import Batch, Setting, Step

STARTED = time.monotonic()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
WARM_UP_STEPS = 2
QUICK_SECONDS = 44.0  # quick rounds end here, counted from the start
FACTORS = {  # our step with one thing undone
    "padding": {"sort": False},
    "second_forward": {"cached": True},
    "pooled_last_layer": {"lean": False},
}


def main() -> None:
    """Time, and print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="batch 256, the fastest peer only, under 50 s on 2 cores")
    parser.add_argument("--threads", type=int, default=0, help="of both sides; 0: one a core")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender")
    options = parser.parse_args()
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.quick, options.rounds)
    print(json.dumps(results))


def measure(folder: Path, quick: bool, rounds: int) -> dict[str, float | int | str]:
    """All figures, by their keys.

    Args:
        folder: for the tokenizer and the initial weights.
        quick: batch 256 and the fastest peer only.
        rounds: timed steps of each contender; fewer where the quick run's time is up, never under 2.
    """
    from benchmarks.training_steps import OurStep, PeerStep, peer_losses

    batch_size = 256 if quick else 512
    setting, batches = prepare(folder, batch_size, n_pairs=3 * batch_size if quick else 3_600)
    contenders: dict[str, Step] = {"ours": OurStep(setting)}
    contenders |= {name: PeerStep(setting, make_loss) for name, make_loss in peer_losses(setting).items()}
    peers = list(peer_losses(setting))
    if not quick:
        contenders |= {f"without_{name}": OurStep(setting, **undone) for name, undone in FACTORS.items()}
    first_step = {name: timed(step, next(batches)).wall for name, step in contenders.items()}
    if quick:
        fastest = min(peers, key=lambda name: first_step[name])
        contenders = {name: contenders[name] for name in ("ours", fastest)}
    for _ in range(WARM_UP_STEPS - 1):
        for step in contenders.values():
            step(next(batches))
    seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for done in range(rounds):
        if quick and done >= 2 and time.monotonic() - STARTED > QUICK_SECONDS:
            break
        batch = next(batches)
        for name, step in contenders.items():
            seconds[name].append(timed(step, batch))
        note = ", ".join(f"{name} {times[-1].wall:.2f} s" for name, times in seconds.items())
        print(f"round {done + 1}: {note}", file=sys.stderr)
    return summary(seconds, peers, batch_size, setting.train.precision)


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


def summary(
    seconds: dict[str, list[Seconds]], peers: list[str], batch_size: int, precision: str
) -> dict[str, float | int | str]:
    """Medians over rounds of what was measured side by side in the same round."""
    import torch

    def median(name: str) -> float:
        return statistics.median(step.wall for step in seconds[name])

    def ratio(name: str, of: Callable[[Seconds], float] = lambda step: step.wall) -> float:
        return statistics.median(of(a) / of(b) for a, b in zip(seconds[name], seconds["ours"], strict=True))

    def without_tokenizing(step: Seconds) -> float:
        return step.wall - step.tokenizing

    fastest = min((name for name in peers if name in seconds), key=median)
    key = f"pairs_per_second_ratio_batch_{batch_size}"
    results: dict[str, float | int | str] = {
        key: round(ratio(fastest), 3),
        f"{key}_without_tokenizing": round(ratio(fastest, without_tokenizing), 3),
        f"{key}_of_processor_seconds": round(ratio(fastest, lambda step: step.cpu), 3),
        "pairs_per_second": round(batch_size / median("ours"), 1),
        "peer_pairs_per_second": round(batch_size / median(fastest), 1),
        "peer": fastest,
        "rounds": len(seconds["ours"]),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "factor_tokenizing": round(ratio(fastest) / ratio(fastest, without_tokenizing), 3),
    }
    results |= {f"factor_{name}": round(ratio(f"without_{name}"), 3) for name in FACTORS if f"without_{name}" in seconds}
    results |= {f"seconds_{name}": round(median(name), 4) for name in seconds}
    return results | {
        f"processor_seconds_{name}": round(statistics.median(step.cpu for step in steps), 4) for name, steps in seconds.items()
    }


def prepare(folder: Path, batch_size: int, n_pairs: int) -> tuple[Setting, Iterator[Batch]]:
    """The shared setting, and batches for ever: pairs of the standard library in a fixed random order."""
    from benchmarks.stdlib_pairs import stdlib_pairs
    from benchmarks.training_steps import Setting
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.precision import fast_bfloat16
    from pipeline_lib.presets import preset
    from pipeline_lib.tokens.tokenizer import train_bpe

    demo = preset("demo")
    train = demo.train.model_copy(update={"precision": "bfloat16" if fast_bfloat16() else "float32"})
    docs, functions = stdlib_pairs(n_pairs)
    order = np.random.default_rng(0).permutation(len(docs))
    docs, functions = [docs[i] for i in order], [functions[i] for i in order]
    tokenizer = train_bpe(iter(docs + functions), demo.tokenizer)
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    Encoder.build(demo.model.model_copy(update={"init": ""}), tokenizer, seed=1).save(folder / "model")
    setting = Setting(demo.model, demo.shards, train, tokenizer, folder / "tokenizer", folder / "model")
    print(f"{len(docs):,} pairs after {time.monotonic() - STARTED:.0f} s", file=sys.stderr)
    return setting, endless_batches(setting, docs, functions, batch_size)


def endless_batches(setting: Setting, docs: list[str], functions: list[str], batch_size: int) -> Iterator[Batch]:
    """Consecutive batches, tokenized beforehand for our side."""
    import torch

    from benchmarks.training_steps import Batch
    from data_contracts.schemas import text_hash
    from pipeline_lib.model.loss import PairHashes

    def ids(texts: list[str], side: str, longest: int) -> list[np.ndarray]:
        return [np.array(row, dtype=np.int32) for row in setting.tokenizer.encode(texts, side, longest)]

    x_ids, y_ids = ids(docs, "x", setting.shards.max_x_tokens), ids(functions, "y", setting.shards.max_y_tokens)
    x_hash, y_hash = (torch.tensor([text_hash(text) for text in texts]) for texts in (docs, functions))
    assert len(docs) >= batch_size, f"{len(docs)} pairs, a batch takes {batch_size}"
    while True:
        for begin in range(0, len(docs) - batch_size + 1, batch_size):
            cut = slice(begin, begin + batch_size)
            yield Batch(docs[cut], functions[cut], x_ids[cut], y_ids[cut], PairHashes(x_hash[cut], y_hash[cut]))


if __name__ == "__main__":
    main()
