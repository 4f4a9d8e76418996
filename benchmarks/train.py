"""Training steps against sentence-transformers: `python -m benchmarks.train [--quick] [--model llama]`.

Same model, pairs, truncation, batch, precision and threads, in one process, steps taken in turn; start-up and two warm-up
steps excluded. The peer is the fastest of its three losses. Its step tokenizes, as its trainer's collator does each step;
ours reads token ids, as shards hold them; the ratio without its tokenizing is given beside. Our own step with one thing
undone at a time says where the factor comes from. Ratios of processor seconds stand beside those of wall seconds: on a
machine that does other work too, they are what can be trusted (best with `--threads 1`). The last line is one flat JSON
object. The model is the demo's; four layers of 256, where the last layer weighs less, stand beside it. `--model llama` (six
blocks of 576, 49,152 ids, random weights) and `--model gpt2` (those four layers) hold losses of the same caching kind against
each other, and best against best, see decoder_steps.py.
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
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.training_corpus import DEEP, RATIO, STARTED, Figures, Seconds, prepare, timed

if TYPE_CHECKING:
    from benchmarks.training_steps import Batch, Step

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WARM_UP_STEPS = 2
SLOWEST_PEER = "mnrl"  # of the full contest, by a fifth and more: it keeps every activation
QUICK_SECONDS = 44.0  # quick rounds end here, counted from the start
LARGE_BATCH = 4_096  # of the full run alone: a step of the peer takes a minute and more
CACHED = "without_single_forward"  # ours by gradient caching, beside the fastest of the peers that cache
FACTORS = {  # our step with one thing undone
    "padding": {"sort": False},
    "single_forward": {"cached": True},
    "pooled_last_layer": {"fused": False},
}


def main() -> None:
    """Time, and print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="batch 256, the faster of the two cached peers, under 50 s on 2 cores"
    )
    parser.add_argument("--model", choices=("demo", "llama", "gpt2"), default="demo", help="what is trained")
    parser.add_argument("--batch", type=int, default=0, help="pairs of a step of llama and gpt2; 0: 32 or, in full, 64")
    parser.add_argument("--threads", type=int, default=0, help="of both sides; 0: one a core")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender")
    options = parser.parse_args()
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "demo":
            results = measure(Path(folder), options.quick, options.rounds)
        else:
            from benchmarks.decoder_steps import measure_decoder

            batch = options.batch or (32 if options.quick else 64)
            results = measure_decoder(Path(folder), options.model, batch, options.quick, options.rounds)
    print(json.dumps(results))


def measure(folder: Path, quick: bool, rounds: int) -> Figures:
    """All figures, by their keys.

    Args:
        folder: for the tokenizer and the initial weights.
        quick: batch 256, and of the two cached peers the one that is faster in the first step.
        rounds: timed steps of each contender; fewer where the quick run's time is up, never under 2.
    """
    from benchmarks.training_steps import OurStep, PeerStep, peer_losses
    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.config.presets import preset

    batch_size = 256 if quick else 512
    corpus = prepare(folder, n_pairs=3 * batch_size if quick else LARGE_BATCH)
    demo = corpus.setting(preset("demo").model)
    losses = {name: loss for name, loss in peer_losses(demo).items() if not quick or name != SLOWEST_PEER}
    contenders: dict[str, Step] = {"ours": OurStep(demo)}
    contenders |= {name: PeerStep(demo, make_loss) for name, make_loss in losses.items()}
    if not quick:
        contenders |= {f"without_{name}": OurStep(demo, **undone) for name, undone in FACTORS.items()}
    results = summary(contest(contenders, corpus.batches(batch_size), quick, rounds), batch_size)
    if not quick:
        deep = corpus.setting(ModelConfig(**DEEP))
        fastest = str(results["peer"])
        contenders = {"ours": OurStep(deep), fastest: PeerStep(deep, losses[fastest]), CACHED: OurStep(deep, cached=True)}
        found = summary(contest(contenders, corpus.batches(batch_size), quick, min(rounds, 3)), batch_size)
        results |= {f"{key}_four_layers": value for key, value in found.items() if RATIO in key}
        contenders = {"ours": OurStep(demo), fastest: PeerStep(demo, losses[fastest])}
        found = summary(contest(contenders, corpus.batches(LARGE_BATCH), quick, min(rounds, 2)), LARGE_BATCH)
        results |= {key: value for key, value in found.items() if RATIO in key}
    return results | {"precision": demo.train.precision}


def contest(contenders: dict[str, Step], batches: Iterator[Batch], quick: bool, rounds: int) -> dict[str, list[Seconds]]:
    """What the contenders' steps took, in turn on the same batches, after warming up.

    In a quick contest only the peer that is the fastest in the first step goes on.
    """
    first_step = {name: timed(step, next(batches)).wall for name, step in contenders.items()}
    if quick:
        fastest = min((name for name in contenders if name != "ours"), key=lambda name: first_step[name])
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
    return seconds


def summary(seconds: dict[str, list[Seconds]], batch_size: int) -> Figures:
    """Medians over rounds of what was measured side by side in the same round."""
    import torch

    def median(name: str) -> float:
        return statistics.median(step.wall for step in seconds[name])

    def ratio(name: str, of: Callable[[Seconds], float] = lambda step: step.wall, to: str = "ours") -> float:
        return statistics.median(of(a) / of(b) for a, b in zip(seconds[name], seconds[to], strict=True))

    def without_tokenizing(step: Seconds) -> float:
        return step.wall - step.tokenizing

    fastest = min((name for name in seconds if "mnrl" in name), key=median)
    key = f"{RATIO}_batch_{batch_size}"
    results: Figures = {
        key: round(ratio(fastest), 3),
        f"{key}_without_tokenizing": round(ratio(fastest, without_tokenizing), 3),
        f"{key}_of_processor_seconds": round(ratio(fastest, lambda step: step.cpu), 3),
        "pairs_per_second": round(batch_size / median("ours"), 1),
        "peer_pairs_per_second": round(batch_size / median(fastest), 1),
        "peer": fastest,
        "rounds": len(seconds["ours"]),
        "threads": torch.get_num_threads(),
        "factor_tokenizing": round(ratio(fastest) / ratio(fastest, without_tokenizing), 3),
    }
    if CACHED in seconds:
        cached = min((name for name in seconds if name.startswith("cached_")), key=median)
        results[f"grad_cache_{key}"] = round(ratio(cached, to=CACHED), 3)
    results |= {f"factor_{name}": round(ratio(f"without_{name}"), 3) for name in FACTORS if f"without_{name}" in seconds}
    results |= {f"seconds_{name}": round(median(name), 4) for name in seconds}
    return results | {
        f"processor_seconds_{name}": round(statistics.median(step.cpu for step in steps), 4) for name, steps in seconds.items()
    }


if __name__ == "__main__":
    main()
