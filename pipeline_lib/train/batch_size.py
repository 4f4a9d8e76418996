"""Gradient noise scale and mutual-information bound of a checkpoint: where a larger batch stops paying on its corpus.

The simple noise scale (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1) is the batch at which noise and signal of the
gradient are equal: far below it twice the batch saves nearly half of the steps, far above it nearly nothing. In a contrastive
loss a larger batch also brings negatives: log2(B) - loss / log(2) bounds what an embedding tells of its partner (bits; van den
Oord et al. 2018), and once a doubling of B does not raise the bound, further negatives are as easy as those before.

B pairs, K slices of the batch, D width.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint, labels_of_run
from pipeline_lib.model.encoder import Encoder, set_temperature
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import cut_micro_batches, embed_ids, in_input_order
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.batches import BatchPlan
from pipeline_lib.train.batches import Batch
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Job

SLICES = 8
NOISE_PAIRS = 256
CURVE_PAIRS = 4096
SMALLEST = 16
WORTH_BITS = 0.1  # a doubling that brings less is not worth its memory


@dataclass(frozen=True)
class BatchAdvice:
    """Measurements, and the advice that follows.

    Attributes:
        noise_scale: pairs; not finite where it cannot be measured: the gradient or its noise is lost in the other.
        losses: batch size to the mean loss of batches of that size, of the same pairs.
    """

    noise_scale: float
    losses: dict[int, float]

    @property
    def bits(self) -> dict[int, float]:
        """The bound on what an embedding tells of its partner, by batch size."""
        return {size: math.log2(size) - loss / math.log(2) for size, loss in self.losses.items()}

    @property
    def gains(self) -> dict[int, float]:
        """Bits that the doubling to this batch size brought; 1 is the most that there is."""
        bits = self.bits
        return {size: bits[size] - bits[size // 2] for size in bits if size // 2 in bits}

    @property
    def negatives_pay_until(self) -> int:
        """The largest batch of those measured to which doubling brought a tenth of a bit."""
        worth = [size for size, gain in self.gains.items() if gain >= WORTH_BITS]
        return max(worth, default=min(self.losses))

    def sentence(self) -> str:
        """The verdict, for people."""
        largest, until = max(self.losses), self.negatives_pay_until
        bound = f"beyond {largest:,} pairs, the largest measured" if until == largest else f"up to {until:,} pairs"
        text = f"negatives of a larger batch pay {bound} ({WORTH_BITS} bits a doubling)"
        if not math.isfinite(self.noise_scale):
            return text
        return f"{text}; the gradient's noise scale is {self.noise_scale:,.0f} pairs"


def simple_noise_scale(big_squared: float, small_squared: float, big: int, small: int) -> float:
    """tr(covariance) / |gradient|^2 from squared norms at two batch sizes, both unbiased.

    Infinite where no signal is left, not a number where the estimate of the noise is negative: neither is an answer.
    """
    signal = (big * big_squared - small * small_squared) / (big - small)
    noise = (small_squared - big_squared) / (1 / small - 1 / big)
    if noise < 0:
        return math.nan
    return noise / signal if signal > 0 else math.inf


def gradient_noise(encoder: Encoder, batch: Batch, progress: Progress = silent) -> float:
    """The noise scale (pairs) of one batch: gradients of its slices against all of its candidates, and of the whole.

    The formula takes the slices for independent. They share their candidates, so that their gradients are alike beyond the
    signal: the scale comes out too small, a lower bound.
    """
    sequences = [*batch.x_ids, *batch.y_ids]
    pieces = cut_micro_batches(sequences, 1 << 14)
    emb_ND = in_input_order([encoder(piece.ids_BL, piece.lengths_B) for piece in pieces], pieces)
    x_BD, y_BD = (side.contiguous() for side in emb_ND.chunk(2))
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    n_pairs, share = len(x_BD), len(x_BD) // SLICES
    hashes = _part(batch.hashes, 0, n_pairs)
    total, squares = [torch.zeros_like(weight) for weight in weights], []
    for first in range(0, share * SLICES, share):
        part = contrastive_loss(x_BD, y_BD, encoder.log_scale, hashes, slice(first, first + share))
        found = torch.autograd.grad(part * (n_pairs / share), weights, retain_graph=True, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        squares.append(_squared(gradients))
        torch._foreach_add_(total, gradients, alpha=1 / SLICES)
        progress(len(squares), SLICES + 1)  # the curve is one more
    return simple_noise_scale(_squared(total), sum(squares) / SLICES, share * SLICES, share)


def loss_by_batch_size(encoder: Encoder, batch: Batch) -> dict[int, float]:
    """Mean loss of the batch's consecutive blocks of 16, 32, 64, ... pairs, embedded once."""
    x_BD, y_BD = (torch.from_numpy(embed_ids(encoder, ids)) for ids in (batch.x_ids, batch.y_ids))
    scale, losses, size = encoder.log_scale.detach(), {}, SMALLEST
    while size <= len(x_BD):
        starts = range(0, len(x_BD) - size + 1, size)
        blocks = [contrastive_loss(x_BD[a : a + size], y_BD[a : a + size], scale, _part(batch.hashes, a, size)) for a in starts]
        losses[size] = float(torch.stack(blocks).mean())
        size *= 2
    return losses


def advise(store: Store, run: str, curve_pairs: int = CURVE_PAIRS, progress: Progress = silent) -> BatchAdvice:
    """Measure a finished run's checkpoint on its training pairs: some seconds with the demo's model.

    Args:
        store: of the run.
        run: "KEY/step-000240" of a `train` artifact.
        curve_pairs: largest batch of the curve.
        progress: callback with the share done.

    Raises:
        UserError: there is no such run or checkpoint, or its training split has fewer pairs than the largest batch takes.
    """
    key, _, label = run.partition("/")
    trained = store.open("train", key)
    if label not in (labels := labels_of_run(trained)):
        raise UserError(f"--run {run!r}: expected {trained.manifest.key}/LABEL with one of {', '.join(labels)}")
    job = Job.model_validate_json((Path(store.root) / "train" / trained.manifest.key / "job.json").read_text())
    place = weights_folder(Checkpoint(trained, label, job.tokenizer.open(store), ShardConfig()))
    whole = job.model.model_copy(update={"lora": LoraConfig()})
    job = job.model_copy(update={"root": str(store.root), "start": str(place), "model": whole})
    temperature = float(json.loads((place / "state.json").read_text())["temperature"])
    small, large = (_objective(store, job, size, temperature) for size in (NOISE_PAIRS, curve_pairs))
    for size, made in ((NOISE_PAIRS, small), (curve_pairs, large)):
        _check_enough(made.rows.plan, size)
    noise = gradient_noise(small.module.eval(), small.read_batch(0), progress=progress)
    return BatchAdvice(noise, loss_by_batch_size(large.module, large.read_batch(0)))


def _objective(store: Store, job: Job, pairs: int, temperature: float) -> ContrastiveObjective:
    assert isinstance(job.config, TrainConfig), f"a run of stage {job.stage.name}"
    config = job.config.model_copy(update={"batch_size": pairs, "token_dropout": 0.0, "processes": 1})
    inputs = job.shards.open(store), job.tokenizer.open(store)
    made = ContrastiveObjective.build(job.model_copy(update={"config": config}), *inputs, Ranks())
    set_temperature(made.module, temperature)
    return made


def _check_enough(plan: BatchPlan, size: int) -> None:
    """Refuse a batch that holds a pair twice: the repeated ones are masked, and the loss falls for want of negatives.

    Raises:
        UserError: a view has fewer pairs than its share of the batch.
    """
    taken = {view: len(rows) for view, rows in plan.rows(0).items()}
    if lacking := [f"{view} has {plan.sizes[view]:,} of {n:,}" for view, n in taken.items() if n > plan.sizes[view]]:
        raise UserError(f"the training split has fewer pairs than a batch of {size:,} takes: {', '.join(lacking)}")


def _part(hashes: PairHashes, first: int, size: int) -> PairHashes:
    """Gradient of consecutive pairs, without their hard negatives."""
    rows = slice(first, first + size)
    return PairHashes(hashes.x_B[rows], hashes.y_B[rows], None if hashes.document_B is None else hashes.document_B[rows])


def _squared(gradients: list[Tensor]) -> float:
    return float(sum(gradient.double().square().sum() for gradient in gradients))
