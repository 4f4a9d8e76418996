"""Gradient caching: exact gradients of a loss over a whole batch, micro-batch by micro-batch (GradCache, arXiv 2101.06983).

N sequences of the batch (x and y together), D embedding width, T tokens of all micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import MicroBatch, in_input_order
from pipeline_lib.runtime.machine import machine_memory_bytes

GATED = ("llama", "mistral", "qwen2", "qwen3")  # model types whose feed-forward part has a gate
CPU_TOKENS = 16_384
FEWEST_TOKENS = 256

BatchLoss = Callable[[Tensor], Tensor]
BeforeBackward = Callable[[bool], None]


def no_hook(is_last: bool) -> None:
    """For weights that hold their gradients until all of a step's backward passes are done."""


def batch_gradients(
    encoder: Encoder,
    batches: Sequence[MicroBatch],
    loss_of: BatchLoss,
    cached: bool,
    before_backward: BeforeBackward = no_hook,
) -> Tensor:
    """Add the gradients of the batch's loss to the encoder's `.grad`s and return the loss, detached.

    Args:
        encoder: in training mode where dropout is wanted.
        batches: all of the batch's sequences, on the encoder's device.
        loss_of: from the embeddings (N, D), in the order of the sequences, to the scalar loss. Its own parameters
            (the log scale) get their gradients too. In a run of many processes it gathers and calls
            `contrastive_loss(..., rows=...)`.
        cached: False: one forward pass, all activations kept. True: a forward pass without a graph, the loss, then
            forward again micro-batch by micro-batch with the same random numbers: the activations of one micro-batch,
            for about a third more work. The gradients are the same.
        before_backward: called before each backward pass through the encoder with whether it is the last one: weights that
            are cut over processes synchronise their gradients then, or after each.
    """
    compute = _cached if cached else _direct
    return compute(encoder, batches, loss_of, before_backward)


def _direct(encoder: Encoder, batches: Sequence[MicroBatch], loss_of: BatchLoss, before_backward: BeforeBackward) -> Tensor:
    tokens = [_look_up(encoder, batch) for batch in batches]
    pieces = [encoder(batch.ids_BL, batch.lengths_B, tokens_TD) for batch, tokens_TD in zip(batches, tokens, strict=True)]
    loss = loss_of(in_input_order(pieces, batches))
    before_backward(True)
    loss.backward()
    for batch, tokens_TD in zip(batches, tokens, strict=True):
        _hand_on(encoder, batch, tokens_TD)
    return loss.detach()


def _cached(encoder: Encoder, batches: Sequence[MicroBatch], loss_of: BatchLoss, before_backward: BeforeBackward) -> Tensor:
    states, pieces = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(_random_state(encoder.device))
            pieces.append(encoder(batch.ids_BL, batch.lengths_B))
    leaves = [piece.requires_grad_() for piece in pieces]
    loss = loss_of(in_input_order(leaves, batches))
    loss.backward()
    for batch, state, leaf in zip(batches, states, leaves, strict=True):
        assert leaf.grad is not None, "the loss read no embedding of a micro-batch"
        tokens_TD = _look_up(encoder, batch)
        before_backward(batch is batches[-1])
        with _replayed(state, encoder.device):
            encoder(batch.ids_BL, batch.lengths_B, tokens_TD).backward(leaf.grad)
        _hand_on(encoder, batch, tokens_TD)
    return loss.detach()


def _look_up(encoder: Encoder, batch: MicroBatch) -> Tensor | None:
    return encoder.look_up(batch.ids_BL.flatten()) if encoder.fused else None


def _hand_on(encoder: Encoder, batch: MicroBatch, tokens_TD: Tensor | None) -> None:
    if tokens_TD is not None and tokens_TD.grad is not None:
        encoder.add_token_gradients(batch.ids_BL.flatten(), tokens_TD.grad)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Draw the random numbers of an earlier forward pass again; afterwards the generators stand where they stood."""
    cpu_state, cuda_state = state
    with torch.random.fork_rng(devices=[device] if cuda_state is not None else []):
        torch.set_rng_state(cpu_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, device)
        yield


@dataclass(frozen=True)
class Kept:
    """Conditions on what a forward pass keeps for its backward pass.

    Attributes:
        fused: the lean forward, whose last block keeps next to nothing.
        checkpointed: a block keeps its input alone.
        low: matrix products are in 16 bits.
    """

    fused: bool = True
    checkpointed: bool = False
    low: bool = False

    @classmethod
    def by(cls, encoder: Encoder) -> Kept:
        """As the encoder is set."""
        return cls(encoder.fused, encoder.checkpointed, encoder.precision == "bfloat16")


def activation_bytes(config: PretrainedConfig, n_tokens: int, kept: Kept = Kept()) -> int:
    """Bytes that the graphs of that many tokens hold until backward, estimated from the sizes alone.

    A layer keeps eight hidden vectors a token (both norms' inputs and outputs, queries, keys and values, attention's
    output) and two of the feed-forward width, a gated one four; checkpointed, its input alone, with one layer at a time
    computed again. What products read and write is half as large in 16 bits: all but the residuals. The lean forward's last
    layer keeps two, and the look-up two.
    """
    width = config.hidden_size
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None) or 4 * width
    full_layers = config.num_hidden_layers - 1 if kept.fused else config.num_hidden_layers
    of_products = 6 * width + (4 if config.model_type in GATED else 2) * inner
    a_layer = 4 * 2 * width + (2 if kept.low else 4) * of_products
    layers = full_layers * a_layer
    if kept.checkpointed:
        layers = min(layers, full_layers * 4 * width + a_layer)
    return n_tokens * (layers + 4 * 4 * width)


def device_budget(device: torch.device, processes: int = 1) -> int:
    """Bytes that a batch's activations may take where nobody says: beyond them gradients are cached.

    On a GPU half of what is free before the first step: the other half is for gradients, for AdamW's moments, which that step
    makes, and for what the estimate leaves out. On a CPU a quarter of the machine's memory, shared by its processes: of all
    of it, not of what is free, so that a run that goes on decides as it did before.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return machine_memory_bytes() // 4 // processes


def should_cache(config: PretrainedConfig, n_tokens: int, budget_bytes: int, kept: Kept = Kept()) -> bool:
    """True if the graphs of a batch of that many padded tokens pass the budget for activations."""
    return activation_bytes(config, n_tokens, kept) > budget_bytes


def fitting_tokens(config: PretrainedConfig, device: torch.device, budget_bytes: int, kept: Kept = Kept()) -> int:
    """Padded tokens of the largest micro-batch whose activations fit, a power of two.

    On a CPU they fit an eighth of `budget_bytes`, and no more than 16,384 tokens, beyond which the caches lose more than the
    fewer passes gain. On a GPU they fit half of what is free now, see `device_budget`.
    """
    if device.type == "cuda":
        budget_bytes, most = device_budget(device), 1 << 24
    else:
        budget_bytes, most = budget_bytes // 8, CPU_TOKENS
    n_tokens = FEWEST_TOKENS
    while 2 * n_tokens <= most and activation_bytes(config, 2 * n_tokens, kept) <= budget_bytes:
        n_tokens *= 2
    return n_tokens
