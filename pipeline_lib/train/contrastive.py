"""Symmetric in-batch contrastive training of the encoder (paper, section 2): one rank's share of each global batch.

A step reads its batch, deals the pairs to ranks, cuts this rank's into micro-batches, embeds them, gathers all ranks'
embeddings and backpropagates the loss.

B pairs of the global batch, b of this rank's share, m hard negatives that these pairs bring, N = 2 b + m sequences of the
share (all x, then all y, then all hard negatives), K candidates of an x, P held-out pairs, p of this rank, D embedding width.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_lib.config.model import check_dims
from pipeline_lib.config.training import CPU_TOKENS, TrainConfig, check_divides
from pipeline_lib.errors import UserError
from pipeline_lib.model.adapter import dropped_inputs
from pipeline_lib.model.attention import kernel_obstacle
from pipeline_lib.model.encoder import Encoder, clamp_temperature, fast_bfloat16, set_temperature
from pipeline_lib.model.families import pools_padded
from pipeline_lib.model.grad_cache import BatchLoss, BeforeBackward, activation_bytes, batch_gradients, no_hook
from pipeline_lib.model.lora import attach, with_adapters, write_options
from pipeline_lib.model.loss import contrastive_loss, false_negatives, over_prefixes
from pipeline_lib.model.micro_batches import MicroBatch, count_micro_batches, cut_micro_batches, in_input_order
from pipeline_lib.model.outline import Weights, outline_encoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.batches import split_for_ranks
from pipeline_lib.tokens.dataset import labels_of
from pipeline_lib.tokens.frequency import token_weights
from pipeline_lib.tokens.guide import GuideTable
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.rows import PairRows, check_views
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer
from pipeline_lib.train.batches import Batch, ReadAhead, at_least, read_batch
from pipeline_lib.train.distributed import Ranks, gather_sides, largest, sum_over_ranks
from pipeline_lib.train.job import Job
from pipeline_lib.train.metrics import Stopwatch, effective_rank, rows_not_finite
from pipeline_lib.train.objective import StepFigures
from pipeline_lib.train.sharding import cut_again, deviation, fill, shard

AUTO_STEPS = 1_000  # of which the minute of compiling is a small part
RANK_EVERY = {"cpu": 1, "cuda": 10}  # steps; a GPU waits for the decomposition, which takes some milliseconds
DESCRIBED = "a GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 or Qwen3 (model/families.py)"


def should_compile(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> bool:
    """Resolve `compile` for this model and machine.

    Raises:
        UserError: "on", where it cannot be.
    """
    # of a gated model's step in bfloat16 on a CPU a third is no product of matrices; a GPT-2's gained nothing
    gains = ranks.device.type == "cuda" or (config.precision == "bfloat16" and not pools_padded(encoder.backbone))
    pays = gains and config.steps >= AUTO_STEPS
    return _resolve("compile", config.compile, "on", _compiling_obstacle(config, encoder, ranks), pays)


def should_pack(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> bool:
    """Resolve `attention` for this model and machine: True for rows end to end, False for padded ones.

    Raises:
        UserError: "packed", where it cannot be.
    """
    by_kernel = ranks.device.type == "cuda" and config.precision == "bfloat16"
    # a GPT-2's single layer is pooled: padded, it forms no keys and values, which took a sixth of the time on a CPU
    pays = not pools_padded(encoder.backbone) or (by_kernel and encoder.backbone.config.num_hidden_layers > 1)
    return _resolve("attention", config.attention, "packed", _packing_obstacle(config, encoder, ranks, by_kernel), pays)


def _resolve(name: str, choice: str, wanted: str, obstacle: str, pays: bool) -> bool:
    """The answer to a field that names a way, "auto" or something else: "auto" takes the way where it can and pays."""
    if choice == "auto":
        return pays and not obstacle
    if choice == wanted and obstacle:
        raise UserError(f"train.{name} is {wanted}, but {obstacle}; take {name}={'off' if wanted == 'on' else 'padded'}")
    return choice == wanted


def _compiling_obstacle(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> str:
    if not encoder.fused:
        return f"only {DESCRIBED} is compiled"
    if config.parallel == "fsdp" and ranks.size > 1:
        return "weights that are cut over processes (parallel=fsdp) are gathered between layers"
    if ranks.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        return "this machine has no C++ compiler (g++, or the one that CXX names)"
    return ""


def _packing_obstacle(config: TrainConfig, encoder: Encoder, ranks: Ranks, by_kernel: bool) -> str:
    if not encoder.fused:
        return f"only {DESCRIBED} is packed"
    if config.parallel == "fsdp" and ranks.size > 1:
        return "weights that are cut over processes (parallel=fsdp) are gathered by the model's own forward, which pads"
    if by_kernel and config.attention != "padded" and pools_padded(encoder.backbone):
        model = encoder.backbone.config
        return kernel_obstacle(ranks.device, model.hidden_size // model.num_attention_heads)
    return ""


LARGEST_TABLE_STEP = 0.1  # AdamW moves a weight by about its rate: this share of the table's deviation in one step


class ContrastiveObjective:
    """The encoder, its data and the loss; see objective.py."""

    items = "pairs"

    def __init__(self, job: Job, encoder: Encoder, rows: PairRows, ranks: Ranks, weights: Weights | None = None) -> None:
        assert isinstance(job.config, TrainConfig), f"a contrastive job with a {type(job.config).__name__}"
        self.config: TrainConfig = job.config
        self.lora, self._start = job.model.lora, job.start_digest
        self.module = encoder
        if encoder.token_weights_V is not None:
            encoder.token_weights_V = encoder.token_weights_V.to(ranks.device)
        self.rows = rows
        self.ranks = ranks
        self._ahead = ReadAhead(self.read_batch, self.config.steps, self.config.reading.batches_ahead)
        self._sharded = self.config.parallel == "fsdp" and ranks.size > 1
        self._before_backward: BeforeBackward = no_hook
        if self._sharded:
            encoder.fused = False  # it reads the blocks' weights past the hooks that gather them
            self._before_backward = shard(encoder.backbone, ranks, self.config.synchronise)
            if weights is not None:
                fill(encoder.backbone, weights, ranks.device)
                encoder.log_scale.data = encoder.log_scale.data.to(ranks.device)
        self._table_deviation = deviation(encoder.backbone.get_input_embeddings().weight, ranks)  # its rate is held against it
        self.micro_batch_tokens = self.config.micro_batch_tokens or CPU_TOKENS  # the launcher settles it by the devices
        self.held_out: HeldOut | None = None
        self.guide: GuideTable | None = None
        self._masked: list[Tensor] = []  # entries of the last step's loss that scores left out, of each of its terms
        self._seen: tuple[Tensor, Tensor] | None = None  # the last step's embeddings: x (B, D), candidates (K, D)
        self._watch = Stopwatch()

    @classmethod
    def build(cls, job: Job, shards: Artifact, tokenizer: Artifact, ranks: Ranks) -> ContrastiveObjective:
        """A new or given encoder on this rank's device, the same weights on every rank.

        Raises:
            UserError: the model, the tokenizer or the mixture do not fit.
        """
        config = job.config
        assert isinstance(config, TrainConfig)
        check_divides(config.batch_size, ranks.size)
        check_views(shards, config)
        model = job.model.model_copy(update={"init": job.start})
        pair_tokenizer = PairTokenizer.load(tokenizer.part_folder())
        weights: Weights | None = None
        given_whole = model.init and is_sentence_transformer(Path(model.init))
        if config.parallel == "fsdp" and ranks.size > 1 and not given_whole:  # no process holds it whole
            encoder, weights = outline_encoder(model, pair_tokenizer, config.seed)
        else:
            encoder = Encoder.build(model, pair_tokenizer, config.seed)
        encoder.leave_out_prompts(pair_tokenizer)
        check_dims(config.matryoshka.dims, encoder.width, "train.matryoshka.dims")
        if model.lora.rank:
            attach(encoder, model.lora, pair_tokenizer.appended, config.seed)
            weights = weights and with_adapters(encoder, weights)
        if weights is None:
            encoder = encoder.to(ranks.device)
        assert config.precision != "auto", "launch.py resolves it, since the run is named by it"
        encoder.precision = config.precision
        encoder.packed = should_pack(config, encoder, ranks)
        if should_compile(config, encoder, ranks):
            encoder.compile_layers()
        if config.checkpoint_activations:
            encoder.checkpoint_activations()
        set_temperature(encoder, config.temperature)
        encoder.log_scale.requires_grad_(config.train_temperature)
        order = {name: getattr(config, name) for name in ("block_rows", "window_blocks", "batches_from")}
        rows = PairRows(shards, config.mixture, config.batch_size, config.seed, config.reading, pair_tokenizer.around, **order)
        if encoder.lacks_token_weights:
            counted_V = token_weights(rows.datasets.values(), encoder.backbone.config.vocab_size)
            encoder.token_weights_V = torch.from_numpy(counted_V)
        objective = cls(job, encoder.train(), rows, ranks, weights)
        objective.held_out = HeldOut(shards, config) if config.evaluation_pairs else None
        return objective

    def describe(self) -> list[str]:
        """Sizes that matter, before the first step."""
        config, n_weights = self.config, sum(weight.numel() for weight in self.module.parameters())
        lines = [
            f"{config.steps} steps of {config.batch_size:,} pairs over {self.ranks.size} process(es) on "
            f"{self.ranks.device}: {config.batch_size - 1:,} in-batch negatives for each x and each y",
            f"{self.rows.describe(config.steps)}; {n_weights / 1e6:.1f} million weights, {config.precision}, "
            f"micro-batches of {self.micro_batch_tokens:,} tokens" + (", packed" if self.module.packed else ""),
            f"rates: {config.rates()}",
        ]
        if prefixes := config.matryoshka.weighted:
            width, longest = self.module.width, max(config.matryoshka.dims)
            untrained = f"; the last {width - longest} of {width} are not trained" if longest < width else ""
            told = ", ".join(f"{dim} x {weight:g}" for dim, weight in prefixes)
            lines.append(f"loss: the sum over prefixes of the vector, dimensions x weight: {told}{untrained}")
        rate = config.embedding_learning_rate or config.learning_rate
        if self.lora.rank:
            trained = sum(weight.numel() for weight in self.module.parameters() if weight.requires_grad)
            lines.append(f"LoRA of rank {self.lora.rank}: {trained:,} weights are trained, {trained / n_weights:.2%} of all")
        elif rate > self._table_deviation * LARGEST_TABLE_STEP:
            lines.append(
                f"the token table's rate, {rate:g}, is {rate / self._table_deviation:.2g} times the standard deviation of its "
                f"weights, {self._table_deviation:.2g}: a few steps overwrite it. That may suit random weights; it ruins a "
                "language model, which wants train.embedding_learning_rate null (as of all others)"
            )
        if config.precision == "bfloat16" and not fast_bfloat16(self.ranks.device.type):
            lines.append("bfloat16 has no hardware support here and will be slow: precision=float32 is faster")
        if (rule := config.false_negatives).by != "off":
            unmasked = f", none in the first {rule.unmasked_steps} steps" if rule.unmasked_steps else ""
            lines.append(f"false negatives by {rule.by} scores are left out: margin {rule.margin:g}, {rule.kind}{unmasked}")
        if (teacher := config.teacher).kl_weight or teacher.margin_mse_weight:
            lines.append(f"a guide teaches: KL x {teacher.kl_weight:g}, MarginMSE x {teacher.margin_mse_weight:g}")
        return lines

    def read_batch(self, step: int) -> Batch:
        """Global batch `step`, tokens dropped; a pure function of the step, the same on every rank."""
        batch = read_batch(self.rows, step, self.config, self.config.token_dropout)
        return batch if self.guide is None else batch.guided_by(self.guide)

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient; all its sequences are one pass over micro-batches of similar length."""
        batch = self._ahead.get(step)
        shares = split_for_ranks(batch.lengths(), self.ranks.size)
        sequences = batch.sequences(shares[self.ranks.rank])
        micro_batches = self._cut(sequences, batch, shares)
        loss_of = self._watch.timed("loss")(self._loss_of(step, batch, shares))
        cached = self._should_cache(micro_batches)
        loss = batch_gradients(self.module, micro_batches, loss_of, cached, self._before_backward)
        assert self._seen is not None, "a step without a loss"
        (x_BD, y_KD), self._seen = self._seen, None
        is_ranked = step % RANK_EVERY[self.ranks.device.type] == 0
        return StepFigures(
            loss=loss,
            pairs=len(shares[self.ranks.rank]),
            tokens=sum(map(len, sequences)),
            padded_tokens=sum(piece.padded_tokens for piece in micro_batches),
            temperature=torch.exp(-self.module.log_scale.detach().double()),
            finite=torch.isfinite(x_BD).all() & torch.isfinite(y_KD).all(),
            name_not_finite=lambda: self._name_not_finite(step, x_BD, y_KD, np.concatenate(shares)),
            wait_seconds=self._ahead.wait_seconds,
            effective_rank=min(effective_rank(x_BD), effective_rank(y_KD[: len(x_BD)])) if is_ranked else None,
            loss_seconds=self._watch.lap()["loss"],
            masked=self._count_masked(loss),
        )

    def _count_masked(self, loss: Tensor) -> Tensor | None:
        """Entries of this rank's loss that scores left out; None where they never do."""
        counts, self._masked = self._masked, []
        return None if self.config.false_negatives.by == "off" else sum(counts, torch.zeros_like(loss, dtype=torch.int64))

    def _cut(self, sequences: list[np.ndarray], batch: Batch, shares: list[np.ndarray]) -> list[MicroBatch]:
        """Micro-batches on this rank's device; under FSDP as many as the rank with the most makes: each is a collective."""
        passes = 1
        if self._sharded:
            lengths = [np.array([len(ids) for ids in batch.sequences(share)]) for share in shares]
            passes = max(count_micro_batches(lengths_N, self.micro_batch_tokens) for lengths_N in lengths)
            sequences = at_least(sequences, passes, batch)
        cut = cut_micro_batches(sequences, self.micro_batch_tokens, at_least=passes, packed=self.module.packed)
        return [piece.to(self.ranks.device) for piece in cut]

    def _should_cache(self, micro_batches: list[MicroBatch]) -> bool:
        """True if embeddings are cached and computed again on the way back, since all activations would not fit."""
        low = self.module.precision == "bfloat16"
        how = (self.module.fused, self.module.checkpointed, low, dropped_inputs(self.module.backbone))
        padded_tokens = sum(piece.padded_tokens for piece in micro_batches)
        cached = activation_bytes(self.module.backbone.config, padded_tokens, *how) > self.config.kept_bytes
        if not self._sharded:
            return cached
        # cut weights are gathered for one forward and one backward pass at a time; caching makes one forward more, so
        # that ranks whose padded tokens lie on both sides of the budget have to decide together
        return bool(largest(cached or len(micro_batches) > 1, self.ranks))

    def _loss_of(self, step: int, batch: Batch, shares: list[np.ndarray]) -> BatchLoss:
        """This rank's part of the global loss, as a function of its embeddings (N, D), differentiable through the gather."""
        order_B = np.concatenate(shares)
        config, guidance = self.config, batch.guidance_of(order_B, self.config, step)
        hashes = replace(batch.hashes_of(order_B), guidance=guidance)
        self._masked = [] if guidance is None else guidance.masked
        sizes = [len(share) for share in shares]
        n_negatives = [sum(len(batch.negative_ids[i]) for i in share) for share in shares]
        begin = sum(sizes[: self.ranks.rank])
        own = slice(begin, begin + sizes[self.ranks.rank]) if self.ranks.size > 1 else None
        n_own = 2 * sizes[self.ranks.rank] + n_negatives[self.ranks.rank]  # behind them stand fillers

        def loss_of(emb_ND: Tensor) -> Tensor:
            x_BD, y_KD = gather_sides(emb_ND[:n_own], sizes, n_negatives, self.ranks)
            self._seen = x_BD.detach(), y_KD.detach()
            of_batch = partial(contrastive_loss, hashes=hashes.judged_by(x_BD, y_KD), rows=own, directions=config.directions)
            of_vectors = partial(of_batch, log_scale=self.module.log_scale)
            return over_prefixes(of_vectors, x_BD, y_KD, config.matryoshka.weighted)

        return loss_of

    def _name_not_finite(self, step: int, x_BD: Tensor, y_KD: Tensor, order_B: np.ndarray) -> str:
        """The sides whose embeddings are not finite, how many, and the first pair of each; empty where all are."""
        n_pairs, found = len(x_BD), []
        for side, emb_ND in (("x", x_BD), ("y", y_KD[:n_pairs]), ("hard negatives", y_KD[n_pairs:])):
            if rows := rows_not_finite(emb_ND):
                first = f" (pair {self.pair_ids(step)[int(order_B[rows[0]])]} first)" if side in ("x", "y") else ""
                found.append(f"{len(rows)} of {len(emb_ND)} {side}{first}")
        return f"embeddings are not finite: {', '.join(found)}" if found else ""

    def after_step(self) -> None:
        """Clamp a trained temperature from below."""
        if self.config.train_temperature:
            clamp_temperature(self.module, self.config.min_temperature)

    def temperature(self) -> float:
        """exp(-tau); infinite where that passes all numbers."""
        return float(torch.exp(-self.module.log_scale.detach().double()))

    def pair_ids(self, step: int) -> list[str]:
        """The global batch by the ids of its pairs, in row order."""
        return self.rows.pair_ids(self.rows.plan.rows(step))

    def evaluate(self) -> dict[str, float]:
        """Loss and MRR of the held-out pairs, if any are asked for."""
        if self.held_out is None:
            return {}
        figures = self.held_out.measure(self.module, self.micro_batch_tokens, self.ranks)
        if self._sharded:  # else the averaged weights would be the next step's, and no file's
            cut_again(self.module.backbone)
        return figures

    @property
    def saved(self) -> nn.Module:
        """The backbone: the logit scale is no part of a model's folder; with adapters, all that has some of what is trained."""
        return self.module if self.lora.rank else self.module.backbone

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """A folder that `AutoModel` loads; of adapters, what stands beside their weights."""
        if self.lora.rank:
            write_options(self.module, self.lora, self._start, folder)
            return
        self.module.save(folder, None if weights is None else dict(weights))


class ValidationRows(PairRows):
    """Rows of the validation split."""

    split = "validation"


class HeldOut:
    """Loss and in-batch MRR on a fixed batch of the validation split, the work shared by all ranks.

    Every rank embeds its share and ranks its own pairs among all of them: the only waiting is that of two small collectives
    that all ranks reach after equal work, so that none of them runs into a timeout while another one measures.

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
        hashes = batch.hashes_of(np.concatenate(shares))

        def loss_of(x_PD: Tensor, y_KD: Tensor) -> Tensor:
            return contrastive_loss(x_PD, y_KD, encoder.log_scale, hashes, slice(begin, end), self.config.directions)

        loss = over_prefixes(loss_of, x_PD, y_KD, self.config.matryoshka.weighted)
        left_out_pP = false_negatives(hashes.pairs_alone().to(ranks.device), torch.arange(begin, end, device=ranks.device))
        scores_pP = (x_PD[begin:end] @ y_KD[:n_pairs].T).masked_fill(left_out_pP, -torch.inf)
        reciprocal = 1.0 / (scores_pP >= scores_pP.diagonal(begin)[:, None]).sum(dim=1).double()
        total_loss, total_reciprocal = sum_over_ranks([float(loss), float(reciprocal.sum())], ranks)
        return {"loss": total_loss, "mrr": total_reciprocal / n_pairs}
