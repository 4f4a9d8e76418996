"""Causal language modelling (next-token prediction) on packed sequences: one rank's share of each step.

The finished model's loss on the validation split stands beside the entropy of the same tokens under the training split's
unigram distribution: above it, a model has not even learned how often each token comes.

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
from pipeline_lib.model.encoder import ONE_FILE, gpt2_config
from pipeline_lib.model.given import check_start, cut_config, draw_delimiters
from pipeline_lib.model.grad_cache import BeforeBackward, no_hook
from pipeline_lib.model.outline import Weights, draw, read
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer
from pipeline_lib.tokens.text_shards import end_of_text
from pipeline_lib.train.batches import ReadAhead
from pipeline_lib.train.distributed import Ranks, sum_over_ranks
from pipeline_lib.train.job import Job
from pipeline_lib.train.language_text import LanguageText, figures_of, open_text, unigram_entropy
from pipeline_lib.train.objective import StepFigures
from pipeline_lib.train.sharding import cut_again, fill, shard

CHUNK_TOKENS = 2_048  # whose logits a GPU holds at a time
IGNORED = -100  # target that cross entropy leaves out
PASS_TOKENS = {"cpu": 2_048, "cuda": 16_384}  # of a forward pass; a GPU is bound by launches in smaller ones


class CausalObjective:
    """A causal language model, its data and the loss; see objective.py."""

    def __init__(
        self,
        job: Job,
        model: PreTrainedModel,
        tokenizer: PairTokenizer,
        text: LanguageText,
        ranks: Ranks,
        weights: Weights | None = None,
    ) -> None:
        assert isinstance(job.config, PretrainConfig), f"a language-model job with a {type(job.config).__name__}"
        self.config: PretrainConfig = job.config
        self.module = model
        self.tokenizer = tokenizer
        self.text = text
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
        text = open_text(shards, config)
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
        return cls(job, model, pair_tokenizer, text, ranks, weights)

    @property
    def items(self) -> str:
        """What a step is counted in."""
        return self.text.items

    def describe(self) -> list[str]:
        """Sizes that matter, before the first step."""
        config, n_weights = self.config, sum(weight.numel() for weight in self.module.parameters())
        return [
            f"language model: {config.steps} steps of about {config.batch_tokens:,} tokens over {self.ranks.size} "
            f"process(es) on {self.ranks.device}",
            f"{self.text.describe(config.steps)}; {n_weights / 1e6:.1f} million weights, {config.precision}",
            f"rates: {config.rates()}",
        ]

    def read_sequences(self, step: int) -> Tensor:
        """The packed sequences of global step `step`: int64 (M, L), the same on every rank."""
        return torch.from_numpy(self.text.sequences(step))

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient of the mean cross entropy over all predicted tokens of the step."""
        ids_ML = self._ahead.get(step)
        if not len(ids_ML):
            raise UserError(
                f"step {step + 1}: its {self.text.items} hold less than one sequence of {self.config.sequence_tokens} tokens; "
                f"raise pretrain.batch_tokens ({self.config.batch_tokens:,}) or lower sequence_tokens"
            )
        predicted = len(ids_ML) * (ids_ML.shape[1] - 1)
        own_ML = ids_ML[self.ranks.rank :: self.ranks.size].to(self.ranks.device)
        height = self._height(ids_ML.shape[1])
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
        n_read = self.text.per_step if self.ranks.is_first else 0
        n_tokens = own_ML.numel()
        return StepFigures(loss, n_read, n_tokens, n_tokens, wait_seconds=self._ahead.wait_seconds)

    def _height(self, length: int) -> int:
        """Sequences of one pass."""
        tokens = self.config.micro_batch_tokens or PASS_TOKENS[self.ranks.device.type]
        return max(1, tokens // length)

    def _summed_loss(self, ids_mL: Tensor, following_mL: Tensor | None = None) -> Tensor:
        """Cross entropy of the tokens that follow, the sequence's own where none are given; none is predicted at `IGNORED`."""
        target_T = (ids_mL[:, 1:] if following_mL is None else following_mL[:, 1:]).flatten()
        with torch.autocast(ids_mL.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if self._head is not None:
                states_mLD = self.module.base_model(ids_mL, use_cache=False).last_hidden_state
                return chunked_loss(self._head, states_mLD[:, :-1].flatten(0, 1), target_T)
            logits_mLV = self.module(ids_mL, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits_mLV.float().flatten(0, 1), target_T, reduction="sum")

    def after_step(self) -> None:
        """Do nothing: a language model has no bounds."""

    def temperature(self) -> None:
        """A language model has none."""

    def pair_ids(self, step: int) -> list[str]:
        """Names of the step's pairs or sequences."""
        return self.text.names(step)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss on the validation split beside the unigram entropy of the same tokens; nothing where nothing is held out."""
        text = self.text.held_out()
        if text is None:
            return {}
        ids_ML, following_ML = windows(text.ids, self.config.sequence_tokens, end_of_text(self.tokenizer))
        height = self._height(ids_ML.shape[1])
        passes = math.ceil(math.ceil(len(ids_ML) / self.ranks.size) / height)  # of the rank with the most
        own = slice(self.ranks.rank, None, self.ranks.size)
        self.module.eval()
        loss = 0.0
        for number in range(passes):
            ids_mL, following_mL = (part[own][number * height :][:height] for part in (ids_ML, following_ML))
            if not len(ids_mL):  # a sequence that does not count
                ids_mL, following_mL = ids_ML[:1], torch.full_like(ids_ML[:1], IGNORED)
            loss += float(self._summed_loss(ids_mL.to(self.ranks.device), following_mL.to(self.ranks.device)))
        self.module.train()
        if self._sharded:  # else the averaged weights would be the next step's, and no file's
            cut_again(self.module)
        (total,) = sum_over_ranks([loss], self.ranks)
        unigram = unigram_entropy(self.text.counts(self.tokenizer.vocab_size), text.ids)
        return figures_of(total / len(text.ids), unigram, text)

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


def windows(ids: np.ndarray, length: int, first: int) -> tuple[Tensor, Tensor]:
    """A text cut into sequences that overlap by one token, so that each token is predicted once, the first one from `first`.

    Returns:
        Ids (M, L), and the same as targets, with `IGNORED` behind the text's end.
    """
    stream = np.concatenate([[first], ids]).astype(np.int64)
    n_windows = max(1, math.ceil(len(ids) / (length - 1)))
    places_ML = np.arange(n_windows)[:, None] * (length - 1) + np.arange(length)
    inside_ML = places_ML < len(stream)
    ids_ML = stream[np.where(inside_ML, places_ML, 0)]
    return torch.from_numpy(ids_ML), torch.from_numpy(np.where(inside_ML, ids_ML, IGNORED))


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
    if isinstance(job.config, PretrainConfig) and job.config.text == "documents":  # where text that it makes begins and ends
        config.bos_token_id = config.eos_token_id = end_of_text(tokenizer)

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
        UserError: it is an embedding model, or its weights are damaged.
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
    check_start(model, job.start)
    draw_delimiters(model, tokenizer, job.config.seed)
    model.config.name_or_path = ""
    return model
