"""Global batches of tokenized pairs: which rows they are, their tokens, and the identities of their texts.

B pairs of a global batch, M hard negatives of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline_lib.artifact import Artifact
from pipeline_lib.config import TrainConfig
from pipeline_lib.model.loss import PairHashes
from pipeline_lib.tokens.batches import BatchPlan
from pipeline_lib.tokens.dataset import TokenDataset, TokenRows, labels_of
from pipeline_lib.train.token_dropout import drop_tokens


class PairRows:
    """A split by view, and the order in which it is seen."""

    split = "train"

    def __init__(self, shards: Artifact, mixture: dict[str, float], batch_size: int, seed: int, **order: int) -> None:
        """`order` are BatchPlan's own fields: block_rows, window_blocks."""
        labels = labels_of(shards, self.split)
        views = sorted(view for view in mixture if f"{self.split}-{view}" in labels)
        self.datasets = {view: TokenDataset.open(shards, f"{self.split}-{view}") for view in views}
        sizes = {view: len(dataset) for view, dataset in self.datasets.items()}
        self.plan = BatchPlan(sizes=sizes, mixture=mixture, batch_size=batch_size, seed=seed, digest=shards.digest, **order)

    def pair_ids(self, rows: dict[str, np.ndarray]) -> list[str]:
        """Ids of the pairs of a batch, view by view."""
        return [pair_id for view, rows_n in rows.items() for pair_id in self.datasets[view].pair_ids(rows_n)]

    def describe(self, steps: int) -> str:
        """How often each view is seen."""
        epochs = self.plan.epochs(steps)
        return "; ".join(f"{n:.2f} epochs of {self.plan.sizes[view]:,} {view} pairs" for view, n in epochs.items())


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


def read_batch(source: PairRows, step: int, config: TrainConfig, share: float) -> Batch:
    """Global batch `step` with `share` of the tokens dropped; a pure function of the step, the same on every rank."""
    x_ids: list[np.ndarray] = []
    y_ids: list[np.ndarray] = []
    negative_ids: list[list[np.ndarray]] = []
    found: list[TokenRows] = []
    documents: list[np.ndarray] = []
    seed = config.seed
    for view, rows_n in source.plan.rows(step).items():
        rows = source.datasets[view].rows(rows_n)
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
