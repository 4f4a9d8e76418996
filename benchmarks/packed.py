"""Training steps on packed micro-batches against padded ones: `python -m benchmarks.packed [--quick] [--device cuda]`.

Same model, texts, batch and threads, steps taken in turn, one of each before the clock runs. Texts have random ids and
lengths of the demo's bounds (log-normal, median 24 tokens for x and 64 for y). On a GPU in bfloat16, where the kernel of
variable length runs; on a CPU in float32, where attention is computed length by length. A ratio above 1 is packed's gain.
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import torch

    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.micro_batches import MicroBatch
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

MEDIANS, LONGEST, SPREAD = (24, 64), (96, 128), 0.7  # tokens of x and y; the standard deviation of a length's logarithm
MICRO_BATCH_TOKENS = 16_384
MODELS = {
    "demo": {"layers": 1, "width": 512, "heads": 4, "inner": 128, "positions": 160},
    "deep": {"layers": 4, "width": 256, "heads": 4, "inner": 1024, "positions": 160},
}
VOCABULARY = SimpleNamespace(vocab_size=24_576, x_open=0, x_close=1, y_open=2, y_close=3, pad=4)


def main() -> None:
    """Time, and print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="batch 256 in place of 512, and fewer rounds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from pipeline_lib.config.model import ModelConfig

    device = torch.device(options.device)
    batch_size, rounds = (256, 3) if options.quick else (512, 5)
    results: dict[str, float] = {}
    print("| model | padding | padded, ms | packed, ms | ratio |\n|---|---|---|---|---|", file=sys.stderr)
    for name, sizes in MODELS.items():
        found = compare(ModelConfig.model_validate(sizes), batch_size, rounds, device)
        results |= {f"{name}_{key}": figure for key, figure in found.items()}
        milliseconds = " | ".join(f"{1000 * found[f'{kind}_seconds']:.1f}" for kind in ("padded", "packed"))
        print(f"| {name} | {found['padding_share']:.1%} | {milliseconds} | {found['ratio']:.2f} |", file=sys.stderr)
    print(json.dumps(results))


def compare(model: ModelConfig, batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a step each way (of the processor on a CPU), their ratio, and the share of padding."""
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.micro_batches import cut_micro_batches, padding_share

    encoder = Encoder.build(model, cast("PairTokenizer", VOCABULARY), seed=1).to(device).train()
    encoder.precision = "bfloat16" if device.type == "cuda" else "float32"
    sequences = _sequences(batch_size)
    share, seconds = 0.0, {False: list[float](), True: list[float]()}
    for _ in range(rounds + 1):
        for packed, timed in seconds.items():
            begin = _now(device)
            batches = cut_micro_batches(sequences, MICRO_BATCH_TOKENS, packed=packed)
            share = max(share, padding_share(batches))
            _step(encoder, [batch.to(device) for batch in batches], batch_size)
            timed.append(_now(device) - begin)
    padded, packed_seconds = (statistics.median(timed[1:]) for timed in seconds.values())
    figures = {"padded_seconds": padded, "packed_seconds": packed_seconds}
    return {**figures, "ratio": padded / packed_seconds, "padding_share": share}


def _step(encoder: Encoder, batches: list[MicroBatch], batch_size: int) -> None:
    """Forward, loss and backward; the optimizer's part is the same both ways."""
    import torch

    from pipeline_lib.model.grad_cache import batch_gradients
    from pipeline_lib.model.loss import PairHashes, contrastive_loss

    texts_B = torch.arange(batch_size, device=encoder.device)
    hashes = PairHashes(texts_B, texts_B + batch_size)
    encoder.zero_grad()
    batch_gradients(
        encoder,
        batches,
        lambda emb_ND: contrastive_loss(emb_ND[:batch_size], emb_ND[batch_size:], encoder.log_scale, hashes),
        cached=False,
    )


def _sequences(batch_size: int) -> list[np.ndarray]:
    chance = np.random.default_rng(5)
    sides = [chance.lognormal(np.log(median), SPREAD, batch_size) for median in MEDIANS]
    lengths = np.concatenate([side.clip(3, most) for side, most in zip(sides, LONGEST, strict=True)]).astype(int)
    return [chance.integers(5, VOCABULARY.vocab_size, length) for length in lengths]


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
