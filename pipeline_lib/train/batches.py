"""Global batches of tokenized pairs: their tokens, token dropout, the identities of their texts, and prefetching.

Token dropout leaves some of each text's tokens out, the same ones whichever process the pair is dealt to: each decision is a
hash of (seed, step, side, row of the dataset, position in the text). This counter-based generator, splitmix64, has no state, so
that neither the order of pairs nor the number of ranks matters.

The next steps' batches are read while this one computes: the order is arithmetic, so that the next rows are known.

B pairs of a global batch, M hard negatives of all of them. Dropout: N sequences of one side and kind, T tokens of all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.model.loss import Guidance, PairHashes
from pipeline_lib.tokens.batches import mix
from pipeline_lib.tokens.dataset import TokenRows
from pipeline_lib.tokens.guide import GuideTable
from pipeline_lib.tokens.rows import PairRows

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def drop_tokens(
    ids: Sequence[np.ndarray],
    rows_N: np.ndarray,
    share: float,
    stream: tuple[object, ...],
    around: tuple[int, int] = (1, 1),
) -> list[np.ndarray]:
    """The sequences with `share` of their inner tokens left out on average, each with a share of its own.

    A text's share is drawn evenly from 0 to twice `share`, so that some are seen nearly whole, as all are outside of training.
    The delimiters always stay; a text that would lose all its tokens keeps them all.

    Args:
        ids: token ids with their delimiters.
        rows_N: each sequence's row in its dataset.
        share: 0 to 0.5, of the inner tokens.
        stream: what else the choice depends on: seed, step, kind, side.
        around: delimiters before and behind each text.
    """
    if share == 0.0 or not ids:
        return list(ids)
    flat_T = np.concatenate(ids)
    lengths_N = np.array([len(sequence) for sequence in ids])
    starts_N = np.cumsum(lengths_N) - lengths_N
    positions_T = np.arange(len(flat_T)) - np.repeat(starts_N, lengths_N)
    keys_N = _sample_keys(rows_N, stream)
    share_N = 2 * share * _uniform(keys_N, np.full(len(ids), -1))  # drawn at a place that no token has
    keep_T = _uniform(np.repeat(keys_N, lengths_N), positions_T) >= np.repeat(share_N, lengths_N)
    keep_T |= (positions_T < around[0]) | (positions_T >= np.repeat(lengths_N - around[1], lengths_N))
    kept_N = np.add.reduceat(keep_T, starts_N, dtype=np.int64)
    none_N = kept_N <= sum(around)
    keep_T |= np.repeat(none_N, lengths_N)
    kept_N = np.where(none_N, lengths_N, kept_N)
    return np.split(flat_T[keep_T], np.cumsum(kept_N)[:-1])


def _sample_keys(rows_N: np.ndarray, stream: tuple[object, ...]) -> np.ndarray:
    digest = hashlib.sha256(repr(stream).encode()).digest()
    return mix(mix(rows_N.astype(np.uint64)) ^ np.uint64(int.from_bytes(digest[:8], "big")))


def _uniform(keys_T: np.ndarray, positions_T: np.ndarray) -> np.ndarray:
    bits_T = mix(keys_T + positions_T.astype(np.uint64) * GOLDEN)
    return (bits_T >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Batch:
    """A global batch in row order, view by view; the same on every rank."""

    x_ids: list[np.ndarray]
    y_ids: list[np.ndarray]
    negative_ids: list[list[np.ndarray]]  # of each pair
    hashes: PairHashes  # hard negatives in the order of their pairs
    guide: tuple[torch.Tensor, torch.Tensor] | None = None  # its vectors of every x; of every y, then every hard negative

    def lengths(self) -> np.ndarray:
        """Tokens of each pair, both sides and hard negatives: (B,)."""
        rows = zip(self.x_ids, self.y_ids, self.negative_ids, strict=True)
        return np.array([len(x) + len(y) + sum(map(len, negatives)) for x, y, negatives in rows])

    def sequences(self, pairs: np.ndarray) -> list[np.ndarray]:
        """Sequences of these pairs: all x, then all y, then all hard negatives."""
        negatives = [sequence for i in pairs for sequence in self.negative_ids[i]]
        return [self.x_ids[i] for i in pairs] + [self.y_ids[i] for i in pairs] + negatives

    def hashes_of(self, order_B: np.ndarray) -> PairHashes:
        """The hashes with the pairs in another order."""
        hashes, order = self.hashes, torch.from_numpy(order_B)
        document_B = None if hashes.document_B is None else hashes.document_B[order]
        if hashes.negative_M is None:
            return PairHashes(hashes.x_B[order], hashes.y_B[order], document_B)
        of_pairs = self._of_pairs(hashes.negative_M)
        negative_M = torch.cat([of_pairs[i] for i in order_B])
        return PairHashes(hashes.x_B[order], hashes.y_B[order], document_B, negative_M)

    def _of_pairs(self, of_negatives: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows of all hard negatives, pair by pair."""
        return of_negatives.split(list(map(len, self.negative_ids)))

    def guided_by(self, table: GuideTable) -> Batch:
        """The same with the guide's vectors of its texts."""
        hashes = self.hashes
        y_K = hashes.y_B if hashes.negative_M is None else torch.cat([hashes.y_B, hashes.negative_M])
        x_BG, y_KG = table.vectors(hashes.x_B.numpy(), "x"), table.vectors(y_K.numpy(), "y")
        return replace(self, guide=(torch.from_numpy(x_BG), torch.from_numpy(y_KG)))

    def guidance_of(self, order_B: np.ndarray, config: TrainConfig, step: int) -> Guidance | None:
        """What scores say of the batch in another order, at a step; None where they have no say."""
        rule, teacher = config.false_negatives, config.teacher
        masks = rule.by != "off" and step >= rule.unmasked_steps
        if not masks and not teacher.kl_weight and not teacher.margin_mse_weight:
            return None
        owner_M = torch.from_numpy(np.repeat(np.arange(len(order_B)), [len(self.negative_ids[i]) for i in order_B]))
        x_BG: torch.Tensor | None = None
        y_KG: torch.Tensor | None = None
        if self.guide is not None:
            order, n_pairs = torch.from_numpy(order_B), len(order_B)
            of_pairs = self._of_pairs(self.guide[1][n_pairs:])
            x_BG = self.guide[0][order]
            y_KG = torch.cat([self.guide[1][:n_pairs][order], *(of_pairs[i] for i in order_B)])
        return Guidance(
            margin=rule.margin if masks else None,
            relative=rule.kind == "relative",
            x_BG=x_BG,
            y_KG=y_KG,
            by_own=rule.by == "own",
            by_whole=bool(config.matryoshka.dims) and rule.vectors == "whole",
            kl_weight=teacher.kl_weight,
            kl_temperature=teacher.temperature,
            margin_mse_weight=teacher.margin_mse_weight,
            owner_M=owner_M,
        )


def at_least(sequences: list[np.ndarray], passes: int, batch: Batch) -> list[np.ndarray]:
    """The sequences, and copies of the batch's first x behind them up to so many: a rank that has fewer makes as many passes.

    The copies' embeddings are no part of anything; their gradients are zero.
    """
    return sequences + [batch.x_ids[0]] * (passes - len(sequences))


def read_batch(source: PairRows, step: int, config: TrainConfig, share: float) -> Batch:
    """Global batch `step` with `share` of the tokens dropped; a pure function of the step, the same on every rank."""
    x_ids: list[np.ndarray] = []
    y_ids: list[np.ndarray] = []
    negative_ids: list[list[np.ndarray]] = []
    found: list[TokenRows] = []
    documents: list[np.ndarray] = []
    seed = config.seed
    for view, (rows_n, rows) in source.read(step).items():
        x_ids += drop_tokens(rows.x_ids, rows_n, share, (seed, step, view, "x"), source.around[view]["x"])
        y_ids += drop_tokens(rows.y_ids, rows_n, share, (seed, step, view, "y"), source.around[view]["y"])
        negative_ids += _thinned(rows.negative_ids, rows_n, share, (seed, step, view, "negative"), source.around[view]["y"])
        found.append(rows)
        masked = view in config.mask_same_document
        documents.append(rows.document_hash if masked else np.arange(len(x_ids) - len(rows_n), len(x_ids)))
    x_B, y_B = (torch.from_numpy(np.concatenate([getattr(rows, name) for rows in found])) for name in ("x_hash", "y_hash"))
    document_B = torch.from_numpy(np.concatenate(documents)) if config.mask_same_document else None
    negatives = np.concatenate([row for rows in found for row in rows.negative_hashes])
    negative_M = torch.from_numpy(negatives) if len(negatives) else None
    return Batch(x_ids, y_ids, negative_ids, PairHashes(x_B, y_B, document_B, negative_M))


def _thinned(
    ids: list[list[np.ndarray]], rows_n: np.ndarray, share: float, stream: tuple[object, ...], around: tuple[int, int]
) -> list[list[np.ndarray]]:
    """Token dropout for hard negatives: the k-th of a row draws its own numbers."""
    places = [(row << np.int64(16)) + k for row, texts in zip(rows_n, ids, strict=True) for k in range(len(texts))]
    dropped = iter(drop_tokens([text for texts in ids for text in texts], np.array(places), share, stream, around))
    return [[next(dropped) for _ in texts] for texts in ids]


T = TypeVar("T")


class ReadAhead(Generic[T]):
    """One thread that reads some batches ahead.

    Args:
        read: a step's number to its batch; a pure function, so that reading early changes nothing.
        steps: of the run; nothing is read beyond them.
        depth: batches that wait at most: a slow one is hidden behind so many steps.
    """

    def __init__(self, read: Callable[[int], T], steps: int, depth: int = 1) -> None:
        self._read = read
        self._steps = steps
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._waiting: deque[tuple[int, Future[T]]] = deque()
        self.wait_seconds = 0.0  # that the last `get` took

    def get(self, step: int) -> T:
        """The batch of a step; later ones are being read when this returns. Raises what `read` raises for this step."""
        start = time.monotonic()
        if not self._waiting or self._waiting[0][0] != step:
            self._restart(step)
        batch = self._waiting.popleft()[1].result()
        self.wait_seconds = time.monotonic() - start
        for later in range(step + 1 + len(self._waiting), min(step + 1 + self._depth, self._steps)):
            self._waiting.append((later, self._pool.submit(self._read, later)))
        return batch

    def _restart(self, step: int) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._waiting = deque([(step, self._pool.submit(self._read, step))])
