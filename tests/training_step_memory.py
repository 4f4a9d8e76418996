"""A process that takes training steps of a run's sizes and prints the memory that they took (bytes), over that of its imports.

python training_step_memory.py CONFIG.json MICRO_BATCH_TOKENS CACHED
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from pipeline_lib.config.run import RunConfig
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.grad_cache import batch_gradients
from pipeline_lib.model.lora import attach
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import cut_micro_batches
from pipeline_lib.train import optim

STEPS = 3


def status_bytes(field: str) -> int:
    """A line of /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def take_steps(config: RunConfig, micro_batch_tokens: int, cached: bool) -> None:
    """Texts at their longest, as the planner takes them to be."""
    pairs, shards = config.train.batch_size, config.shards
    vocabulary = SimpleNamespace(
        vocab_size=config.tokenizer.vocab_size, x_open=0, x_close=1, y_open=2, y_close=3, pad=4, appended=()
    )
    encoder = Encoder.build(config.model, vocabulary, seed=1).train()  # type: ignore[arg-type]
    if config.model.lora.rank:
        attach(encoder, config.model.lora, (), seed=1)
    encoder.precision = config.train.precision
    if config.train.checkpoint_activations:
        encoder.checkpoint_activations()
    optimizer = optim.build_optimizer(encoder, config.train)
    chance = np.random.default_rng(0)
    lengths = [shards.max_x_tokens] * pairs + [shards.max_y_tokens] * pairs
    sequences = [chance.integers(5, config.tokenizer.vocab_size, length) for length in lengths]
    batches = cut_micro_batches(sequences, micro_batch_tokens)
    hashes = PairHashes(torch.arange(pairs), torch.arange(pairs, 2 * pairs))

    def loss_of(emb_ND: torch.Tensor) -> torch.Tensor:
        x_BD, y_BD = emb_ND.chunk(2)
        return contrastive_loss(x_BD.contiguous(), y_BD.contiguous(), encoder.log_scale, hashes)

    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        batch_gradients(encoder, batches, loss_of, cached)
        optim.clip_gradients(encoder, config.train.clip_norm)
        optimizer.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    small = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
    torch.randn(64, 64).matmul(torch.randn(64, 64))  # the libraries' own buffers
    before = status_bytes("VmRSS")
    take_steps(small, int(sys.argv[2]), sys.argv[3] == "cached")
    print(status_bytes("VmHWM") - before)
