"""Global batches of tokenized pairs: which rows they are, their tokens, and the identities of their texts.

B pairs of a global batch, M hard negatives of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline_lib.config import TrainConfig
from pipeline_lib.model.loss import PairHashes
from pipeline_lib.tokens.dataset import TokenRows
from pipeline_lib.train.token_dropout import drop_tokens
from pipeline_lib.train.training_rows import PairRows


@dataclass(frozen=True)
class Batch:
    """A global batch in row order, view by view; the same on every rank."""

    x_ids: list[np.ndarray]
    y_ids: list[np.ndarray]
    negative_ids: list[list[np.ndarray]]  # of each pair
    hashes: PairHashes  # hard negatives in the order of their pairs

    def lengths(self) -> np.ndarray:
        """Tokens of each pair, both sides and hard negatives: (B,)."""
        rows = zip(self.x_ids, self.y_ids, self.negative_ids, strict=True)
        return np.array([len(x) + len(y) + sum(map(len, negatives)) for x, y, negatives in rows])

    def sequences(self, pairs: np.ndarray) -> list[np.ndarray]:
        """All x of these pairs, then all y, then all hard negatives."""
        negatives = [sequence for i in pairs for sequence in self.negative_ids[i]]
        return [self.x_ids[i] for i in pairs] + [self.y_ids[i] for i in pairs] + negatives

    def hashes_of(self, order_B: np.ndarray) -> PairHashes:
        """The hashes with the pairs in another order."""
        hashes, order = self.hashes, torch.from_numpy(order_B)
        document_B = None if hashes.document_B is None else hashes.document_B[order]
        if hashes.negative_M is None:
            return PairHashes(hashes.x_B[order], hashes.y_B[order], document_B)
        of_pair = hashes.negative_M.split(list(map(len, self.negative_ids)))
        return PairHashes(hashes.x_B[order], hashes.y_B[order], document_B, torch.cat([of_pair[i] for i in order_B]))


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
        x_ids += drop_tokens(rows.x_ids, rows_n, share, (seed, step, view, "x"))
        y_ids += drop_tokens(rows.y_ids, rows_n, share, (seed, step, view, "y"))
        negative_ids += _thinned(rows.negative_ids, rows_n, share, (seed, step, view, "negative"))
        found.append(rows)
        masked = view in config.mask_same_document
        documents.append(rows.document_hash if masked else np.arange(len(x_ids) - len(rows_n), len(x_ids)))
    x_B, y_B = (torch.from_numpy(np.concatenate([getattr(rows, name) for rows in found])) for name in ("x_hash", "y_hash"))
    document_B = torch.from_numpy(np.concatenate(documents)) if config.mask_same_document else None
    negatives = np.concatenate([row for rows in found for row in rows.negative_hashes])
    negative_M = torch.from_numpy(negatives) if len(negatives) else None
    return Batch(x_ids, y_ids, negative_ids, PairHashes(x_B, y_B, document_B, negative_M))


def _thinned(
    ids: list[list[np.ndarray]], rows_n: np.ndarray, share: float, stream: tuple[object, ...]
) -> list[list[np.ndarray]]:
    """Token dropout for hard negatives: the k-th of a row draws its own numbers."""
    places = [(row << np.int64(16)) + k for row, texts in zip(rows_n, ids, strict=True) for k in range(len(texts))]
    dropped = iter(drop_tokens([text for texts in ids for text in texts], np.array(places), share, stream))
    return [[next(dropped) for _ in texts] for texts in ids]
