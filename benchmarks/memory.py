"""Memory of a training step by its batch: `python -m benchmarks.memory [--quick]`.

The demo's model and lengths like those of its pairs, in a process of its own for each batch; the figure is the kernel's VmHWM:
the most that the process ever held, of which what it held before its first step is given beside. The batch of 12,288 pairs has
to stay under 4 GB. Memory a pair is what the step added, over the pairs. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LIMIT_BYTES = 4_000_000_000
BATCHES = (1_024, 4_096, 12_288, 65_536)
QUICK_BATCHES = (1_024, 4_096)
MEAN_TOKENS = 40  # of an x or a y of the demo


def main() -> int:
    """Print a table and the JSON line; 1 where the batch of 12,288 takes 4 GB or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="batches of 1,024 and 4,096")
    parser.add_argument("--one", type=int, default=0, help="measure this batch in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    results: dict[str, float] = {}
    print("| pairs | before, MB | peak, MB | a pair, kB | seconds | |\n|---|---|---|---|---|---|", file=sys.stderr)
    for n_pairs in QUICK_BATCHES if options.quick else BATCHES:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", str(n_pairs)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        added = (found["peak_bytes"] - found["before_bytes"]) / n_pairs
        way = "cached" if found["cached"] else "direct"
        print(
            f"| {n_pairs:,} | {found['before_bytes'] / 1e6:,.0f} | {found['peak_bytes'] / 1e6:,.0f} | {added / 1e3:.1f} | "
            f"{found['seconds']:.1f} | {way} |",
            file=sys.stderr,
        )
        results |= {f"{name}_batch_{n_pairs}": value for name, value in found.items()}
        results[f"bytes_per_pair_batch_{n_pairs}"] = round(added)
    print(json.dumps(results))
    return int(results.get("peak_bytes_batch_12288", 0) >= LIMIT_BYTES)


def measure(n_pairs: int) -> dict[str, float]:
    """One step of the trainer's parts, as the demo sets them, with the micro-batch that is found."""
    import numpy as np
    import torch

    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.grad_cache import batch_gradients, fitting_tokens, should_cache
    from pipeline_lib.model.loss import PairHashes, contrastive_loss
    from pipeline_lib.model.micro_batches import cut_micro_batches
    from pipeline_lib.presets import preset
    from pipeline_lib.train.optim import build_optimizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    demo = preset("demo")
    vocabulary = demo.tokenizer.vocab_size
    encoder = Encoder.build(demo.model, _Vocabulary(vocabulary), seed=1).train()  # type: ignore[arg-type]
    optimizer = build_optimizer(encoder, demo.train)
    for parameter in encoder.parameters():  # what the first step would make belongs to the model
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.exponential(MEAN_TOKENS, 2 * n_pairs), 4, demo.shards.max_x_tokens).astype(int)
    texts = [generator.integers(5, vocabulary, length).astype(np.int32) for length in lengths]
    hashes = PairHashes(torch.arange(n_pairs), torch.arange(n_pairs, 2 * n_pairs))
    config, budget = encoder.backbone.config, demo.train.activation_bytes
    before, started = _high_water_bytes(), time.monotonic()
    limit = fitting_tokens(config, encoder.device, budget, encoder.lean)
    batches = cut_micro_batches(texts, limit)
    cached = should_cache(config, sum(batch.padded_tokens for batch in batches), budget, encoder.lean)

    def loss_of(emb_ND: torch.Tensor) -> torch.Tensor:
        x_BD, y_BD = emb_ND.chunk(2)
        return contrastive_loss(x_BD, y_BD, encoder.log_scale, hashes)

    optimizer.zero_grad(set_to_none=True)
    batch_gradients(encoder, batches, loss_of, cached)
    optimizer.step()
    seconds = time.monotonic() - started
    figures = {"before_bytes": before, "peak_bytes": _high_water_bytes(), "seconds": round(seconds, 2)}
    return {**figures, "cached": int(cached), "micro_batch_tokens": limit}


class _Vocabulary:
    """What a new encoder asks of its tokenizer."""

    x_open, x_close, y_open, y_close, pad = range(5)

    def __init__(self, size: int) -> None:
        self.vocab_size = size


def _high_water_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("this kernel tells no VmHWM")


if __name__ == "__main__":
    raise SystemExit(main())
