"""Memory of a training step by its batch, and over many steps: `python -m benchmarks.memory [--quick] [--steps N]`.

The demo's model and lengths like those of its pairs, in a process of its own for each batch; the figure is the kernel's VmHWM:
the most that the process ever held, of which what it held before its first step is given beside. The batch of 12,288 pairs has
to stay under 4 GB. Memory a pair is what the step added, over the pairs. The last line is one flat JSON object.

`--steps N` takes N steps of a Llama instead (six blocks, 50 million weights at random, bfloat16, other lengths each step), in a
process with the trainer's environment, and prints what it holds as they go by: from a tenth of them on that may grow by a
twentieth. `--unbounded` leaves out the bound on compiled primitives, to see what it is for.
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
CHILD = "CPT_MEMORY_CHILD"  # set in the process that takes the steps
MOST_GROWTH = 0.05
USUAL_PRIMITIVES = "1024"  # that oneDNN and torch keep unless told


def main() -> int:
    """Print a table and the JSON line; 1 where the batch of 12,288 takes 4 GB or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="batches of 1,024 and 4,096")
    parser.add_argument("--one", type=int, default=0, help="measure this batch in this process")
    parser.add_argument("--steps", type=int, default=0, help="take so many steps of a Llama instead, and watch memory")
    parser.add_argument("--batch", type=int, default=256, help="pairs of one of these steps")
    parser.add_argument("--layers", type=int, default=6, help="blocks of the Llama")
    parser.add_argument("--vocabulary", type=int, default=49_152, help="ids of the Llama")
    parser.add_argument("--unbounded", action="store_true", help="keep as many compiled primitives as torch and oneDNN would")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    if options.steps:
        return watch_steps(options)
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
    """One step of the trainer's parts, as the demo sets them, with the micro-batches of a CPU."""
    import numpy as np
    import torch

    from pipeline_lib.config.presets import preset
    from pipeline_lib.config.training import CPU_TOKENS
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.grad_cache import activation_bytes, batch_gradients
    from pipeline_lib.model.loss import PairHashes, contrastive_loss
    from pipeline_lib.model.micro_batches import cut_micro_batches
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
    config, budget = encoder.backbone.config, demo.train.kept_bytes
    before, started = _high_water_bytes(), time.monotonic()
    batches = cut_micro_batches(texts, CPU_TOKENS)
    cached = activation_bytes(config, sum(batch.padded_tokens for batch in batches), encoder.fused) > budget

    def loss_of(emb_ND: torch.Tensor) -> torch.Tensor:
        x_BD, y_BD = emb_ND.chunk(2)
        return contrastive_loss(x_BD, y_BD, encoder.log_scale, hashes)

    optimizer.zero_grad(set_to_none=True)
    batch_gradients(encoder, batches, loss_of, cached)
    optimizer.step()
    seconds = time.monotonic() - started
    figures = {"before_bytes": before, "peak_bytes": _high_water_bytes(), "seconds": round(seconds, 2)}
    return {**figures, "cached": int(cached), "micro_batch_tokens": CPU_TOKENS}


def watch_steps(options: argparse.Namespace) -> int:
    """Run this module again with the trainer's environment, to take the steps; 1 where memory grew."""
    from pipeline_lib.config.training import TrainConfig
    from pipeline_lib.runtime.machine import PRIMITIVES_KEPT
    from pipeline_lib.train.torchrun import environment

    if os.environ.get(CHILD):
        print(json.dumps(held_by_step(options.steps, options.batch, options.layers, options.vocabulary)))
        return 0
    env = {**os.environ, **environment(TrainConfig(), os.environ.get("TMPDIR", "/tmp")), CHILD: "1"}  # noqa: S108
    if options.unbounded:
        env |= dict.fromkeys(PRIMITIVES_KEPT, USUAL_PRIMITIVES)
    command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]]
    held = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout)
    settled, most = held[len(held) // 10], max(held)
    growth = most / settled - 1
    figures = {"steps": options.steps, "batch": options.batch, "held_bytes_settled": settled, "held_bytes_most": most}
    print(json.dumps({**figures, "growth": round(growth, 4), "bounded": int(not options.unbounded)}))
    return int(growth > MOST_GROWTH)


def held_by_step(n_steps: int, n_pairs: int, layers: int, vocabulary: int) -> list[int]:
    """Bytes that this process holds after each training step."""
    import numpy as np
    import torch
    from transformers import AutoModel, LlamaConfig

    from pipeline_lib.config.training import CPU_TOKENS, TrainConfig
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.grad_cache import activation_bytes, batch_gradients
    from pipeline_lib.model.loss import PairHashes, contrastive_loss
    from pipeline_lib.model.micro_batches import cut_micro_batches
    from pipeline_lib.train.optim import build_optimizer, clip_gradients

    torch.manual_seed(0)
    # SmolLM2-135M's sizes
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    llama = LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=2048, **sizes)
    encoder = Encoder(AutoModel.from_config(llama, attn_implementation="sdpa")).train()
    encoder.precision = "bfloat16"
    config = TrainConfig(embedding_learning_rate=0.0)
    optimizer = build_optimizer(encoder, config)
    hashes = PairHashes(torch.arange(n_pairs), torch.arange(n_pairs, 2 * n_pairs))
    chance = np.random.default_rng(1)

    def loss_of(emb_ND: torch.Tensor) -> torch.Tensor:
        x_BD, y_BD = emb_ND.chunk(2)
        return contrastive_loss(x_BD.contiguous(), y_BD.contiguous(), encoder.log_scale, hashes)

    held = []
    for step in range(n_steps):
        x_B = np.clip(chance.exponential(30, n_pairs), 4, 64).astype(int)
        y_B = np.clip(chance.exponential(60, n_pairs), 8, 128).astype(int)
        texts = [chance.integers(5, vocabulary, n).astype(np.int32) for n in (*x_B, *y_B)]
        batches = cut_micro_batches(texts, CPU_TOKENS)
        tokens = sum(batch.padded_tokens for batch in batches)
        optimizer.zero_grad(set_to_none=True)
        cached = activation_bytes(llama, tokens, encoder.fused) > config.kept_bytes
        batch_gradients(encoder, batches, loss_of, cached)
        clip_gradients(encoder, config.clip_norm)
        optimizer.step()
        held.append(_status_bytes("VmRSS:"))
        if step % max(1, n_steps // 20) == 0 or step + 1 == n_steps:
            print(f"step {step + 1:,}: {held[-1] / 1e6:,.0f} MB", file=sys.stderr)
    return held


class _Vocabulary:
    """What a new encoder asks of its tokenizer."""

    x_open, x_close, y_open, y_close, pad = range(5)

    def __init__(self, size: int) -> None:
        self.vocab_size = size


def _high_water_bytes() -> int:
    return _status_bytes("VmHWM:")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"this kernel tells no {field}")


if __name__ == "__main__":
    raise SystemExit(main())
