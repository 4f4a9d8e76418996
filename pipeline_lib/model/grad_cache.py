"""Gradient caching: exact gradients of a loss over a whole batch, micro-batch by micro-batch (GradCache, arXiv 2101.06983).

N sequences of the batch (x and y together), D embedding width, T tokens of all micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from pipeline_lib.config.model import Shape
from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import MicroBatch, in_input_order
from pipeline_lib.model.pooling import POOLING_FIELD

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


def activation_bytes(
    config: PretrainedConfig,
    n_tokens: int,
    fused: bool = True,
    checkpointed: bool = False,
    low: bool = False,
    dropped: int = 0,
) -> int:
    """Bytes that the graphs of that many tokens hold until backward, estimated from the sizes alone; see `Shape.kept_bytes`.

    Args:
        fused: by the forward of decoder.py.
        checkpointed: layers keep their inputs; the one that is computed again is counted too.
        low: matrix products in bfloat16.
        dropped: see `Shape`.
    """
    mean = getattr(config, POOLING_FIELD, "last") != "last"
    shape = replace(_shape_of(config), fused=fused, mean=mean, dropped=dropped)
    kept = shape.kept_bytes(n_tokens, low)
    if checkpointed:
        kept = min(kept, shape.kept_bytes(n_tokens, low, checkpointed) + n_tokens * shape.layer_bytes(low))
    return kept


def _shape_of(config: PretrainedConfig) -> Shape:
    """The sizes of a model; of a family that is not known as if its layers were GPT-2's."""
    try:
        return Shape.of(config.to_dict(), config.model_type)
    except UserError:
        width, layers = config.hidden_size, config.num_hidden_layers
        inner = getattr(config, "intermediate_size", None) or 4 * width
        return Shape(layers, width, inner, queries=width, keys=width, vocabulary=config.vocab_size, vectors=0, final=0)
