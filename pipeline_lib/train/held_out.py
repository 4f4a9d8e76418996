"""Loss and in-batch MRR on held-out pairs during training, the work shared by all ranks.

Every rank embeds its share and ranks its own pairs among all of them: the only waiting is that of two small collectives that
all ranks reach after equal work, so that none of them runs into a timeout while another one measures.

P held-out pairs, p of this rank, D embedding width.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.loss import contrastive_loss, false_negatives
from pipeline_lib.model.micro_batches import count_micro_batches, cut_micro_batches, in_input_order
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.dataset import labels_of
from pipeline_lib.train.batches import Batch, at_least, read_batch
from pipeline_lib.train.distributed import Ranks, gather_sides, sum_over_ranks
from pipeline_lib.train.rows import PairRows


class ValidationRows(PairRows):
    """Rows of the validation split."""

    split = "validation"


class HeldOut:
    """A fixed batch of the validation split.

    Args:
        shards: with the validation split, where pairs are asked for.
        config: how many, and of which views.

    Raises:
        UserError: no held-out row of any view.
    """

    def __init__(self, shards: Artifact, config: TrainConfig) -> None:
        sizes = [part.counts.n_out for part in shards.manifest.parts if part.label.startswith("validation-")]
        n_pairs = min(config.evaluation_pairs, sum(sizes)) if labels_of(shards, "validation") else config.evaluation_pairs
        rows = ValidationRows(shards, config.mixture, n_pairs, config.seed)
        self.batch: Batch = read_batch(rows, 0, config, 0.0)
        self.config = config

    @torch.no_grad()
    def measure(self, encoder: Encoder, limit: int, ranks: Ranks) -> dict[str, float]:
        """ "loss" and "mrr" of all pairs, the same on every rank; every rank has to call."""
        batch = self.batch
        n_pairs = len(batch.x_ids)
        shares = [np.arange(n_pairs)[rank :: ranks.size] for rank in range(ranks.size)]
        texts = [batch.sequences(share) for share in shares]
        packed = encoder.packed
        passes = max(count_micro_batches(np.array([*map(len, sequences)]), limit, packed) for sequences in texts)
        own = texts[ranks.rank]
        cut = cut_micro_batches(at_least(own, passes, batch), limit, at_least=passes, packed=packed)
        pieces = [piece.to(ranks.device) for piece in cut]
        encoder.eval()
        emb_ND = in_input_order([encoder(piece.ids_BL, piece.lengths_B) for piece in pieces], pieces)[: len(own)]
        encoder.train()
        sizes = [len(share) for share in shares]
        negatives = [sum(len(batch.negative_ids[i]) for i in share) for share in shares]
        x_PD, y_KD = gather_sides(emb_ND, sizes, negatives, ranks)
        begin, end = sum(sizes[: ranks.rank]), sum(sizes[: ranks.rank + 1])
        hashes = batch.hashes_of(np.concatenate(shares)).to(ranks.device)
        loss = contrastive_loss(x_PD, y_KD, encoder.log_scale, hashes, slice(begin, end), self.config.directions)
        left_out_pP = false_negatives(hashes.pairs_alone(), torch.arange(begin, end, device=ranks.device))
        scores_pP = (x_PD[begin:end] @ y_KD[:n_pairs].T).masked_fill(left_out_pP, -torch.inf)
        reciprocal = 1.0 / (scores_pP >= scores_pP.diagonal(begin)[:, None]).sum(dim=1).double()
        total_loss, total_reciprocal = sum_over_ranks([float(loss), float(reciprocal.sum())], ranks)
        return {"loss": total_loss, "mrr": total_reciprocal / n_pairs}
