"""Symmetric in-batch contrastive training of the encoder (paper, section 2): what one rank does with its share of a batch.

B pairs of the global batch, b of this rank's share, m hard negatives that these pairs bring, N = 2 b + m sequences of the
share (all x, then all y, then all hard negatives), K candidates of an x, D embedding width.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.artifact import Artifact
from pipeline_lib.config import TrainConfig
from pipeline_lib.model.encoder import Encoder, clamp_temperature, set_temperature
from pipeline_lib.model.grad_cache import BatchLoss, BeforeBackward, batch_gradients, not_told, should_cache
from pipeline_lib.model.loss import HardNegative, PairHashes, contrastive_loss, hardest_negatives
from pipeline_lib.model.micro_batches import count_micro_batches, cut_micro_batches
from pipeline_lib.model.precision import fast_bfloat16
from pipeline_lib.tokens.batches import BatchPlan, split_for_ranks
from pipeline_lib.tokens.dataset import TokenDataset, TokenRows, labels_of
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.train.distributed import Ranks, gather_rows
from pipeline_lib.train.job import Job
from pipeline_lib.train.read_ahead import ReadAhead
from pipeline_lib.train.sharding import shard
from pipeline_lib.train.token_dropout import drop_tokens
from pipeline_lib.train.trainer import StepFigures

HARDEST = 50  # in-batch negatives kept for the report
HARDEST_STEPS = 10  # the last steps, from which they are taken
NEGATIVES_FILE = "negatives.json"


class TrainingRows:
    """The training split by view, and the order in which it is seen."""

    def __init__(self, shards: Artifact, mixture: dict[str, float], batch_size: int, seed: int, **order: int) -> None:
        """`order` are BatchPlan's own fields: block_rows, window_blocks."""
        labels = labels_of(shards, "train")
        views = sorted(view for view in mixture if f"train-{view}" in labels)
        self.datasets = {view: TokenDataset.open(shards, f"train-{view}") for view in views}
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


class ContrastiveObjective:
    """The encoder, its data and the loss; see `trainer.Objective`."""

    def __init__(self, job: Job, encoder: Encoder, rows: TrainingRows, ranks: Ranks) -> None:
        assert isinstance(job.config, TrainConfig), f"a contrastive job with a {type(job.config).__name__}"
        self.config: TrainConfig = job.config
        self.module = encoder
        self.rows = rows
        self.ranks = ranks
        self._ahead = ReadAhead(self.read_batch, self.config.steps)
        self._sharded = self.config.parallel == "fsdp" and ranks.size > 1
        self._before_backward: BeforeBackward = not_told
        if self._sharded:
            encoder.lean = False  # it reads the blocks' weights past the hooks that gather them
            self._before_backward = shard(encoder.backbone, ranks, self.config.synchronise)
        self._hardest: dict[tuple[str, str], float] = {}

    @classmethod
    def build(cls, job: Job, shards: Artifact, tokenizer: Artifact, ranks: Ranks) -> ContrastiveObjective:
        """A new or given encoder on this rank's device, the same weights on every rank.

        Raises:
            UserError: the model, the tokenizer or the mixture do not fit.
        """
        config = job.config
        assert isinstance(config, TrainConfig), f"a contrastive job with a {type(config).__name__}"
        model = job.model.model_copy(update={"init": job.start})
        encoder = Encoder.build(model, PairTokenizer.load(tokenizer.part_folder()), config.seed)
        encoder.precision = config.precision
        set_temperature(encoder, config.temperature)
        encoder.log_scale.requires_grad_(config.train_temperature)
        order = {"block_rows": config.block_rows, "window_blocks": config.window_blocks}
        rows = TrainingRows(shards, config.mixture, config.batch_size, config.seed, **order)
        return cls(job, encoder.to(ranks.device).train(), rows, ranks)

    def describe(self) -> list[str]:
        """Sizes that matter, before the first step."""
        config, n_weights = self.config, sum(weight.numel() for weight in self.module.parameters())
        lines = [
            f"{config.steps} steps of {config.batch_size:,} pairs over {self.ranks.size} process(es) on "
            f"{self.ranks.device}: {config.batch_size - 1:,} in-batch negatives for each x and each y",
            f"{self.rows.describe(config.steps)}; {n_weights / 1e6:.1f} million weights, {config.precision}",
        ]
        if config.precision == "bfloat16" and not fast_bfloat16(self.ranks.device.type):
            lines.append("bfloat16 has no hardware support here and will be slow: precision=float32 is faster")
        return lines

    def read_batch(self, step: int) -> Batch:
        """Global batch `step`, tokens dropped; a pure function of the step, the same on every rank."""
        x_ids: list[np.ndarray] = []
        y_ids: list[np.ndarray] = []
        negative_ids: list[list[np.ndarray]] = []
        found: list[TokenRows] = []
        documents: list[np.ndarray] = []
        share, seed = self.config.token_dropout, self.config.seed
        for view, rows_n in self.rows.plan.rows(step).items():
            rows = self.rows.datasets[view].rows(rows_n)
            x_ids += drop_tokens(rows.x_ids, rows_n, share, (seed, step, view, "x"))
            y_ids += drop_tokens(rows.y_ids, rows_n, share, (seed, step, view, "y"))
            negative_ids += _thinned(rows.negative_ids, rows_n, share, (seed, step, view, "negative"))
            found.append(rows)
            masked = view in self.config.mask_same_document
            documents.append(rows.document_hash if masked else np.arange(len(x_ids) - len(rows_n), len(x_ids)))
        x_B, y_B = (torch.from_numpy(np.concatenate([getattr(rows, name) for rows in found])) for name in ("x_hash", "y_hash"))
        document_B = torch.from_numpy(np.concatenate(documents)) if self.config.mask_same_document else None
        negatives = np.concatenate([row for rows in found for row in rows.negative_hashes])
        negative_M = torch.from_numpy(negatives) if len(negatives) else None
        return Batch(x_ids, y_ids, negative_ids, PairHashes(x_B, y_B, document_B, negative_M))

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient; all its sequences are one pass over micro-batches of similar length."""
        batch = self._ahead.get(step)
        shares = split_for_ranks(batch.lengths(), self.ranks.size)
        own_b = shares[self.ranks.rank]
        sequences = batch.sequences(own_b)
        passes = self._equal_passes(batch, shares)
        cut = cut_micro_batches(sequences, self.config.micro_batch_tokens, at_least=passes)
        micro_batches = [piece.to(self.ranks.device) for piece in cut]
        padded_tokens = sum(piece.padded_tokens for piece in micro_batches)
        cached = should_cache(self.module.backbone.config, padded_tokens, self.config.activation_bytes, self.module.lean)
        # cut weights are gathered for one forward and one backward pass at a time
        cached |= self._sharded and len(micro_batches) > 1
        loss = batch_gradients(self.module, micro_batches, self._loss_of(step, batch, shares), cached, self._before_backward)
        return StepFigures(float(loss), len(own_b), int(sum(map(len, sequences))), padded_tokens, self._ahead.wait_seconds)

    def _equal_passes(self, batch: Batch, shares: list[np.ndarray]) -> int:
        """Micro-batches that every rank has to make at least: the most of any, where each pass is a collective."""
        if not self._sharded:
            return 1
        lengths = [np.array([len(ids) for ids in batch.sequences(share)]) for share in shares]
        return max(count_micro_batches(lengths_N, self.config.micro_batch_tokens) for lengths_N in lengths)

    def _loss_of(self, step: int, batch: Batch, shares: list[np.ndarray]) -> BatchLoss:
        """This rank's part of the global loss, as a function of its embeddings (N, D), differentiable through the gather."""
        order_B = np.concatenate(shares)
        hashes = batch.hashes_of(order_B).to(self.ranks.device)
        sizes = [len(share) for share in shares]
        n_negatives = [sum(len(batch.negative_ids[i]) for i in share) for share in shares]
        begin = sum(sizes[: self.ranks.rank])
        own = slice(begin, begin + sizes[self.ranks.rank]) if self.ranks.size > 1 else None

        def loss_of(emb_ND: Tensor) -> Tensor:
            x_BD, y_KD = gather_sides(emb_ND, sizes, n_negatives, self.ranks)
            if self.ranks.is_first and step >= self.config.steps - HARDEST_STEPS:
                self._note_hardest(step, hardest_negatives(x_BD, y_KD[: len(x_BD)], hashes, HARDEST), order_B)
            return contrastive_loss(x_BD, y_KD, self.module.log_scale, hashes, own, self.config.directions)

        return loss_of

    def _note_hardest(self, step: int, found: list[HardNegative], order_B: np.ndarray) -> None:
        ids = self.pair_ids(step)
        for negative in found:
            key = ids[int(order_B[negative.x_row])], ids[int(order_B[negative.y_row])]
            self._hardest[key] = max(negative.score, self._hardest.get(key, -math.inf))
        best = sorted(self._hardest.items(), key=lambda item: (-item[1], item[0]))
        self._hardest = dict(best[:HARDEST])

    def after_step(self) -> None:
        """Clamp a trained temperature from below."""
        if self.config.train_temperature:
            clamp_temperature(self.module, self.config.min_temperature)

    def temperature(self) -> float:
        """exp(-tau)."""
        return math.exp(-float(self.module.log_scale.detach()))

    def pair_ids(self, step: int) -> list[str]:
        """The global batch by the ids of its pairs, in row order."""
        return self.rows.pair_ids(self.rows.plan.rows(step))

    def save(self, folder: Path) -> None:
        """A folder that `AutoModel` loads."""
        self.module.save(folder)

    def texts(self) -> dict[str, str]:
        """negatives.json: [[cosine, id of x's pair, id of y's pair], ...], the highest first."""
        rows = [[score, x_id, y_id] for (x_id, y_id), score in self._hardest.items()]
        return {NEGATIVES_FILE: json.dumps(rows, indent=0) + "\n"}

    def restore_texts(self, texts: dict[str, str]) -> None:
        """Go on from a state's negatives.json."""
        self._hardest = {(x_id, y_id): score for score, x_id, y_id in json.loads(texts[NEGATIVES_FILE])}


def gather_sides(emb_ND: Tensor, pairs: list[int], negatives: list[int], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """x (B, D) and candidates (K, D) of all ranks: every y, then every hard negative; one collective, differentiable.

    Args:
        emb_ND: this rank's x, y and hard negatives.
        pairs: of every rank.
        negatives: of every rank.
        ranks: this process among the others.
    """
    sizes = [[n, n, m] for n, m in zip(pairs, negatives, strict=True)]
    blocks = gather_rows(emb_ND, [sum(size) for size in sizes], ranks).split([n for size in sizes for n in size])
    return torch.cat(blocks[0::3]), torch.cat([*blocks[1::3], *blocks[2::3]])


def _thinned(
    ids: list[list[np.ndarray]], rows_n: np.ndarray, share: float, stream: tuple[object, ...]
) -> list[list[np.ndarray]]:
    """Token dropout for hard negatives: the k-th of a row draws its own numbers."""
    places = [(row << np.int64(16)) + k for row, texts in zip(rows_n, ids, strict=True) for k in range(len(texts))]
    dropped = iter(drop_tokens([text for texts in ids for text in texts], np.array(places), share, stream))
    return [[next(dropped) for _ in texts] for texts in ids]
