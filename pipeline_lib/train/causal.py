"""Causal language modelling (next-token prediction) on packed sequences: one rank's share of each step.

Pairs come in the order of a BatchPlan, as in contrastive training; x and y ids of a step's pairs are one stream, cut into
sequences of equal length, the rest of less than one left out. So a step stays a pure function of its number.

M sequences of a step, m of a micro-batch, L tokens of a sequence, T predicted tokens of a micro-batch, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import check_weights
from pipeline_lib.model.encoder import ONE_FILE, cut_config, draw_delimiters, gpt2_config
from pipeline_lib.model.grad_cache import BeforeBackward, no_hook
from pipeline_lib.model.outline import Weights, draw, read
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.dataset import labels_of, parts_of
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer
from pipeline_lib.train.batches import ReadAhead
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Job
from pipeline_lib.train.objective import StepFigures
from pipeline_lib.train.rows import PairRows, check_views
from pipeline_lib.train.sharding import fill, shard

CHUNK_TOKENS = 2_048  # whose logits a GPU holds at a time
PASS_TOKENS = {"cpu": 2_048, "cuda": 16_384}  # of a forward pass; a GPU is bound by launches in smaller ones


class CausalObjective:
    """A causal language model, its data and the loss; see objective.py."""

    def __init__(
        self,
        job: Job,
        model: PreTrainedModel,
        tokenizer: PairTokenizer,
        rows: PairRows,
        ranks: Ranks,
        weights: Weights | None = None,
    ) -> None:
        assert isinstance(job.config, PretrainConfig), f"a language-model job with a {type(job.config).__name__}"
        self.config: PretrainConfig = job.config
        self.module = model
        self.tokenizer = tokenizer
        self.rows = rows
        self.ranks = ranks
        self._ahead = ReadAhead(self.read_sequences, self.config.steps, self.config.reading.batches_ahead)
        self._sharded = self.config.parallel == "fsdp" and ranks.size > 1
        self._before_backward: BeforeBackward = no_hook
        # a cut head is gathered by the model's own forward alone; a CPU's passes are no longer than a chunk
        self._head = plain_head(model) if ranks.device.type == "cuda" and not self._sharded else None
        if self._sharded:
            self._before_backward = shard(model, ranks, self.config.synchronise)
            if weights is not None:
                fill(model, weights, ranks.device)

    @classmethod
    def build(cls, job: Job, shards: Artifact, tokenizer: Artifact, ranks: Ranks) -> CausalObjective:
        """A new model of the encoder's sizes, its head apart from its table of embeddings, or the given one.

        Raises:
            UserError: sequences are longer than the model's positions, or a step holds less than one sequence a process.
        """
        config = job.config
        assert isinstance(config, PretrainConfig), f"a language-model job with a {type(config).__name__}"
        if (least := config.sequence_tokens * ranks.size) > config.batch_tokens:
            raise UserError(
                f"pretrain.batch_tokens is {config.batch_tokens}: less than one sequence of {config.sequence_tokens} tokens "
                f"for each of {ranks.size} process(es), which is {least}; raise it, or lower sequence_tokens or processes"
            )
        check_views(shards, config)
        rows = _rows_of_steps(shards, config)
        pair_tokenizer = PairTokenizer.load(tokenizer.part_folder())
        model, weights = _build_model(job, pair_tokenizer, outline=config.parallel == "fsdp" and ranks.size > 1)
        positions = getattr(model.config, "max_position_embeddings", config.sequence_tokens)
        if config.sequence_tokens > positions:
            raise UserError(
                f"pretrain.sequence_tokens is {config.sequence_tokens}, the model has {positions} positions: "
                "sequences must fit; lower the first"
            )
        if weights is None:
            nn.Module.to(model, ranks.device)
        model.train()
        if config.checkpoint_activations:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return cls(job, model, pair_tokenizer, rows, ranks, weights)

    def describe(self) -> list[str]:
        """Sizes that matter, before the first step."""
        config, n_weights = self.config, sum(weight.numel() for weight in self.module.parameters())
        return [
            f"language model: {config.steps} steps of about {config.batch_tokens:,} tokens over {self.ranks.size} "
            f"process(es) on {self.ranks.device}",
            f"{self.rows.describe(config.steps)}; {n_weights / 1e6:.1f} million weights, {config.precision}",
            f"rates: {config.rates()}",
        ]

    def read_sequences(self, step: int) -> Tensor:
        """The packed sequences of global step `step`: int64 (M, L), the same on every rank."""
        stream: list[np.ndarray] = []
        for _, rows in self.rows.read(step).values():
            stream += [ids for pair in zip(rows.x_ids, rows.y_ids, strict=True) for ids in pair]
        flat = np.concatenate(stream).astype(np.int64)
        length = self.config.sequence_tokens
        return torch.from_numpy(flat[: len(flat) // length * length].reshape(-1, length))

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient of the mean cross entropy over all predicted tokens of the step."""
        ids_ML = self._ahead.get(step)
        if not len(ids_ML):
            raise UserError(
                f"step {step + 1}: its pairs hold less than one sequence of {self.config.sequence_tokens} tokens; raise "
                f"pretrain.batch_tokens ({self.config.batch_tokens:,}) or lower sequence_tokens"
            )
        predicted = len(ids_ML) * (ids_ML.shape[1] - 1)
        own_ML = ids_ML[self.ranks.rank :: self.ranks.size].to(self.ranks.device)
        tokens = self.config.micro_batch_tokens or PASS_TOKENS[self.ranks.device.type]
        height = max(1, tokens // ids_ML.shape[1])
        # as many passes as the rank with the most sequences makes: cut weights are gathered in each
        passes = math.ceil(math.ceil(len(ids_ML) / self.ranks.size) / height)
        pieces = own_ML.tensor_split(passes) if self._sharded else own_ML.split(height)
        loss = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, ids_mL in enumerate(pieces, 1):
            # a rank that has nothing left, or nothing at all, computes a sequence that does not count
            piece = self._summed_loss(ids_mL if len(ids_mL) else ids_ML[:1].to(own_ML.device)) * (len(ids_mL) > 0) / predicted
            self._before_backward(number == len(pieces))
            piece.backward()
            loss += piece.detach()
        n_pairs = self.rows.plan.batch_size if self.ranks.is_first else 0
        n_tokens = own_ML.numel()
        return StepFigures(loss, n_pairs, n_tokens, n_tokens, wait_seconds=self._ahead.wait_seconds)

    def _summed_loss(self, ids_mL: Tensor) -> Tensor:
        with torch.autocast(ids_mL.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if self._head is not None:
                states_mLD = self.module.base_model(ids_mL, use_cache=False).last_hidden_state
                return chunked_loss(self._head, states_mLD[:, :-1].flatten(0, 1), ids_mL[:, 1:].flatten())
            logits_mLV = self.module(ids_mL, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits_mLV.float().flatten(0, 1), ids_mL[:, 1:].flatten(), reduction="sum")

    def after_step(self) -> None:
        """Do nothing: a language model has no bounds."""

    def temperature(self) -> None:
        """A language model has none."""

    def pair_ids(self, step: int) -> list[str]:
        """The step's pairs, by their ids."""
        return self.rows.pair_ids(self.rows.plan.rows(step))

    def evaluate(self) -> dict[str, float]:
        """Return no figures: no pairs are held out."""
        return {}

    @property
    def saved(self) -> nn.Module:
        """All of it."""
        return self.module

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """A folder that `AutoModelForCausalLM` and `AutoTokenizer` load, and another run takes as its `init`."""
        given = None if weights is None else dict(weights)
        self.module.save_pretrained(folder, state_dict=given, max_shard_size=ONE_FILE)
        self.tokenizer.save(folder)
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=1) + "\n")


@torch.no_grad()
def plain_head(model: PreTrainedModel) -> nn.Module | None:
    """The head of a model whose logits are its output on the last states and nothing more; None for a capped or scaled one."""
    head, training = model.get_output_embeddings(), model.training
    if head is None:
        return None
    ids_1L = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    model.eval()
    states_1LD = model.base_model(ids_1L, use_cache=False).last_hidden_state
    is_plain = torch.allclose(head(states_1LD), model(ids_1L, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    model.train(training)
    return head if is_plain else None


def chunked_loss(head: nn.Module, states_TD: Tensor, target_T: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Summed cross entropy of the head's logits, of which a chunk at a time is held: in full they take 10 T V bytes and more.

    Each chunk's are computed again on the way back. torch's own linear_cross_entropy sums in the precision of the products:
    in bfloat16 its loss was 5 % off.
    """
    chunks = zip(states_TD.split(chunk_tokens), target_T.split(chunk_tokens), strict=True)
    return torch.stack([checkpoint(_chunk_loss, head, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def _chunk_loss(head: nn.Module, states_tD: Tensor, target_t: Tensor) -> Tensor:
    return F.cross_entropy(head(states_tD).float(), target_t, reduction="sum")


def _build_model(job: Job, tokenizer: PairTokenizer, outline: bool) -> tuple[PreTrainedModel, Weights | None]:
    """A new language model or the given one; its outline, and its weights apart, where it is to be cut."""
    if job.start:
        folder, layers = Path(job.start), job.model.keep_layers
        check_weights(folder)
        if outline:
            return read(folder, layers, AutoModelForCausalLM, lambda kept: _given_model(job, tokenizer, kept))
        return _given_model(job, tokenizer, layers), None
    config = gpt2_config(job.model, tokenizer)
    # the encoder reads the rows as input alone: tied to the head they get a common vector, and the start is worth half
    config.tie_word_embeddings = False

    def make() -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")

    if outline:
        return draw(make, job.config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(job.config.seed)
        return make(), None


def _given_model(job: Job, tokenizer: PairTokenizer, layers: int | None) -> PreTrainedModel:
    """The language model to go on with, as many of its blocks as are kept, with a row for each id of the tokenizer.

    Raises:
        UserError: it is an embedding model.
    """
    if is_sentence_transformer(Path(job.start)):
        raise UserError(f"{job.start}: an embedding model, which has no words to predict; set pretrain.steps to 0")
    model = AutoModelForCausalLM.from_pretrained(
        job.start,
        config=cut_config(Path(job.start), layers),
        local_files_only=True,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )
    draw_delimiters(model, tokenizer, job.config.seed)
    model.config.name_or_path = ""
    return model


def _rows_of_steps(shards: Artifact, config: PretrainConfig) -> PairRows:
    """Rows of each step, as many pairs as come to `batch_tokens` on average."""
    labels = labels_of(shards, PairRows.split)
    weights = {view: weight for view, weight in config.mixture.items() if f"{PairRows.split}-{view}" in labels}
    tokens = sum(weight * _mean_tokens(shards, view) for view, weight in weights.items())
    n_pairs = max(1, round(config.batch_tokens * sum(weights.values()) / tokens)) if tokens else 1
    return PairRows(shards, config.mixture, n_pairs, config.seed, config.reading)


def _mean_tokens(shards: Artifact, view: str) -> float:
    facts = [part.facts for part in parts_of(shards, f"train-{view}")]
    return sum(fact["x_tokens"] + fact["y_tokens"] for fact in facts) / sum(fact["rows"] for fact in facts)
