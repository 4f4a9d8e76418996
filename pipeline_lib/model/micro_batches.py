"""Micro-batches: sequences of any length cut into batches of similar length, right-padded, or packed without padding.

Embedding outside of training, `embed_ids`, runs over the same micro-batches.

N sequences, B rows of a micro-batch, L its longest row in tokens, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.model.attention import to_device
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.runtime.progress import Progress, by_tokens, silent

PADDING_DIVISOR = 64
# of a forward pass without gradients: a CPU's caches hold so many, and SmolLM2's first six blocks then embed 1.25 times the
# tokens a second that they do at 16,384 (2 cores, bfloat16); a GPU is bound by launches in smaller ones
EMBEDDED_TOKENS = {"cpu": 4_096, "cuda": 16_384}


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass, and where they stood among the sequences they were cut from."""

    ids_BL: Tensor  # int64, right-padded; packed: one row of all tokens, of shape (T,)
    lengths_B: Tensor  # int64, delimiters included; on the host, which plans by them
    rows_B: Tensor  # int64, position in the input; on the host

    @property
    def padded_tokens(self) -> int:
        """Tokens that the forward pass computes, padding included."""
        return self.ids_BL.numel()

    def to(self, device: torch.device) -> MicroBatch:
        """The same rows with their ids on another device."""
        return MicroBatch(to_device(self.ids_BL, device), self.lengths_B, self.rows_B)


def cut_micro_batches(
    sequences: Sequence[Sequence[int] | np.ndarray], max_tokens: int, at_least: int = 1, packed: bool = False
) -> list[MicroBatch]:
    """Sort by length (ties in input order) and cut where a micro-batch would pass `max_tokens`, or a 64th of it in padding.

    Sorting happens inside one global batch, so neither its loss nor its gradient changes; it is what makes padding rare.
    A single sequence longer than `max_tokens` is a micro-batch of its own.

    Args:
        sequences: token ids, delimiters included.
        max_tokens: padded tokens of one micro-batch.
        at_least: so many micro-batches, where there are so many sequences: processes whose weights are cut over each other
            have to make equally many passes.
        packed: lay sequences end to end; nothing is padded, and only real tokens count.

    Raises:
        ValueError: a sequence is empty, and so has no closing delimiter to pool at.
    """
    lengths_N = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
    if len(lengths_N) and lengths_N.min() == 0:
        raise ValueError(f"sequence {int(lengths_N.argmin())} is empty: expected both delimiters at least")
    order_N = np.argsort(lengths_N, kind="stable")
    cuts = _halved(_cuts(lengths_N[order_N].tolist(), max_tokens, packed), at_least)
    rows = [order_N[begin:end] for begin, end in pairwise(cuts)]
    if packed:
        return [_lay_end_to_end(sequences, rows_B, lengths_N) for rows_B in rows]
    return [_pad_rows(sequences, rows_B, lengths_N) for rows_B in rows]


def _cuts(ascending: list[int], max_tokens: int, packed: bool = False) -> list[int]:
    """Bounds of the micro-batches; a cut costs some milliseconds, padding costs in proportion."""
    cuts, tokens = [0], 0
    for row, length in enumerate(ascending):
        padded = tokens + length if packed else (row + 1 - cuts[-1]) * length
        if row > cuts[-1] and (padded > max_tokens or padded - tokens - length > max_tokens / PADDING_DIVISOR):
            cuts.append(row)
            tokens = 0
        tokens += length
    return [*cuts, len(ascending)] if ascending else [0]


def _halved(cuts: list[int], at_least: int) -> list[int]:
    """The cuts with the micro-batch of the most rows halved until there are enough."""
    while len(cuts) - 1 < min(at_least, cuts[-1]):
        most = max(range(1, len(cuts)), key=lambda i: cuts[i] - cuts[i - 1])
        cuts.insert(most, (cuts[most - 1] + cuts[most]) // 2)
    return cuts


def count_micro_batches(lengths_N: np.ndarray, max_tokens: int, packed: bool = False) -> int:
    """Number of micro-batches that `cut_micro_batches` makes of sequences of these lengths."""
    return len(_cuts(np.sort(lengths_N).tolist(), max_tokens, packed)) - 1


def _lay_end_to_end(sequences: Sequence[Sequence[int] | np.ndarray], rows_B: np.ndarray, lengths_N: np.ndarray) -> MicroBatch:
    ids_T = np.concatenate([sequences[row] for row in rows_B]).astype(np.int64)
    return MicroBatch(torch.from_numpy(ids_T), torch.from_numpy(lengths_N[rows_B]), torch.from_numpy(rows_B))


def _pad_rows(sequences: Sequence[Sequence[int] | np.ndarray], rows_B: np.ndarray, lengths_N: np.ndarray) -> MicroBatch:
    lengths_B = lengths_N[rows_B]
    ids_BL = np.zeros((len(rows_B), int(lengths_B.max())), dtype=np.int64)
    # one masked assignment of all tokens: a loop over rows cost 3 times as much
    ids_BL[np.arange(ids_BL.shape[1]) < lengths_B[:, None]] = np.concatenate([sequences[row] for row in rows_B])
    return MicroBatch(torch.from_numpy(ids_BL), torch.from_numpy(lengths_B), torch.from_numpy(rows_B))


def padding_share(batches: Sequence[MicroBatch]) -> float:
    """Share of the computed tokens that are padding, from 0 to 1."""
    computed = sum(batch.padded_tokens for batch in batches)
    return 1.0 - sum(int(batch.lengths_B.sum()) for batch in batches) / computed if computed else 0.0


def in_input_order(pieces: Sequence[Tensor], batches: Sequence[MicroBatch]) -> Tensor:
    """Rows computed micro-batch by micro-batch, (N, D), back in the order of the sequences; differentiable."""
    rows_N = torch.cat([batch.rows_B for batch in batches])
    emb_ND = torch.cat(list(pieces))
    return emb_ND[to_device(torch.argsort(rows_N), emb_ND.device)]


def embed_ids(
    encoder: Encoder,
    sequences: Sequence[Sequence[int] | np.ndarray],
    batch_tokens: int | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Unit vectors of token sequences, float32 (N, D), in their order.

    Args:
        encoder: its mode is restored afterwards; dropout is off meanwhile.
        sequences: ids with their delimiters, as `PairTokenizer.encode` gives them.
        batch_tokens: padded tokens of one forward pass; None: as many as suit the device. The vectors are the same but for
            rounding.
        progress: callback after each forward pass with the texts done, counted by their tokens.
    """
    # on the encoder's device until all are there: a copy of each micro-batch would wait for it
    emb_ND = torch.empty((len(sequences), encoder.width), device=encoder.device)
    was_training = encoder.training
    encoder.eval()
    most = batch_tokens or EMBEDDED_TOKENS.get(encoder.device.type, EMBEDDED_TOKENS["cuda"])
    tell = by_tokens(progress, [len(ids) for ids in sequences])
    try:
        with torch.inference_mode():
            for batch in cut_micro_batches(sequences, most, packed=encoder.packed):
                emb_BD = encoder(batch.to(encoder.device).ids_BL, batch.lengths_B)
                emb_ND[to_device(batch.rows_B, encoder.device)] = emb_BD.float()
                tell(batch.lengths_B.tolist())
    finally:
        encoder.train(was_training)
    return emb_ND.cpu().numpy()
