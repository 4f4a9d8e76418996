"""One optimizer step of ours and of sentence-transformers, on the same pairs, weights, truncation and precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import CPU_TOKENS, TrainConfig
from pipeline_lib.model.encoder import Encoder, set_temperature
from pipeline_lib.model.families import pools_padded
from pipeline_lib.model.grad_cache import batch_gradients
from pipeline_lib.model.loss import PairHashes, contrastive_loss
from pipeline_lib.model.micro_batches import MicroBatch, cut_micro_batches
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, side_tokenizer_json

DIRECTIONS = ("query_to_doc", "doc_to_query")  # the peer's loss made symmetric, as ours is
PEER_MINI_BATCH = 64
PEER_MINI_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    model: ModelConfig
    shards: ShardConfig
    train: TrainConfig
    tokenizer: PairTokenizer
    tokenizer_folder: Path
    model_folder: Path


@dataclass(frozen=True)
class Batch:
    """The pairs of one step: as texts for the peer, as token ids for us."""

    x: Sequence[str]
    y: Sequence[str]
    x_ids: Sequence[np.ndarray]
    y_ids: Sequence[np.ndarray]
    hashes: PairHashes


class Step(Protocol):
    """One optimizer step; returns the loss."""

    tokenizing_seconds: float  # of the last step

    def __call__(self, batch: Batch) -> float: ...


class OurStep:
    """A step on token ids, as the shards hold them: they are tokenized once, not once an epoch.

    Args:
        setting: shared with the peer.
        fused: by the lean forward, which computes the last layer at the pooled position only.
        cached: forward twice (GradCache) instead of keeping the activations.
        sort: cut micro-batches by length; else one batch a side, padded to its longest row.
        compiled: the parts of a block around its attention by torch.compile.
    """

    def __init__(
        self, setting: Setting, fused: bool = True, cached: bool = False, sort: bool = True, compiled: bool = False
    ) -> None:
        self.setting, self.cached, self.sort = setting, cached, sort
        self.tokenizing_seconds = 0.0
        self.aside_seconds = 0.0  # of the last step, for cutting micro-batches and for the loss
        self.update_seconds = 0.0  # of the last step, for clipping and AdamW
        self.encoder = Encoder.load(setting.model_folder).train()
        self.encoder.fused = fused
        self.encoder.packed = sort and fused and not pools_padded(self.encoder.backbone)
        self.encoder.precision = setting.train.precision
        if compiled:
            self.encoder.compile_layers()
        set_temperature(self.encoder, setting.train.temperature)
        self.optimizer = _optimizer(self.encoder, setting.train)

    def __call__(self, batch: Batch) -> float:
        n = len(batch.x_ids)

        def loss_of(emb_ND: Tensor) -> Tensor:
            start = time.perf_counter()
            loss = contrastive_loss(emb_ND[:n], emb_ND[n:], self.encoder.log_scale, batch.hashes)
            self.aside_seconds += time.perf_counter() - start
            return loss

        start = time.perf_counter()
        micro_batches = self._micro_batches(batch.x_ids, batch.y_ids)
        self.aside_seconds = time.perf_counter() - start
        loss = batch_gradients(self.encoder, micro_batches, loss_of, self.cached)
        start = time.perf_counter()
        _update(self.encoder, self.optimizer, self.setting.train)
        self.update_seconds = time.perf_counter() - start
        return float(loss)

    def _micro_batches(self, x_ids: Sequence[np.ndarray], y_ids: Sequence[np.ndarray]) -> list[MicroBatch]:
        if self.sort:
            limit = self.setting.train.micro_batch_tokens or CPU_TOKENS
            return cut_micro_batches([*x_ids, *y_ids], limit, packed=self.encoder.packed)
        return [*_as_one(x_ids, 0), *_as_one(y_ids, len(x_ids))]


def _as_one(ids: Sequence[np.ndarray], first_row: int) -> list[MicroBatch]:
    lengths_B = torch.tensor([len(row) for row in ids])
    rows = nn.utils.rnn.pad_sequence([torch.from_numpy(row).long() for row in ids], batch_first=True)
    return [MicroBatch(rows, lengths_B, torch.arange(first_row, first_row + len(ids)))]


class PeerStep:
    """What sentence-transformers' trainer does each step: collate (which tokenizes), loss module, backward, clip, AdamW."""

    def __init__(self, setting: Setting, make_loss: Callable[[SentenceTransformer], nn.Module]) -> None:
        self.setting = setting
        self.model = peer_model(setting).train()
        self.loss = make_loss(self.model)
        self.optimizer = _optimizer(self.loss, setting.train)
        self.collate = SentenceTransformerDataCollator(
            preprocess_fn=self.model.preprocess,
            router_mapping={"x": "query", "y": "document"},
            max_length={"query": setting.shards.max_x_tokens, "document": setting.shards.max_y_tokens},
        )
        self.tokenizing_seconds = 0.0

    def __call__(self, batch: Batch) -> float:
        start = time.perf_counter()
        columns = self.collate([{"x": x, "y": y} for x, y in zip(batch.x, batch.y, strict=True)])
        self.tokenizing_seconds = time.perf_counter() - start
        features = [
            {key.removeprefix(f"{side}_"): value for key, value in columns.items() if key.startswith(f"{side}_")}
            for side in ("x", "y")
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.setting.train.precision == "bfloat16"):
            loss = self.loss(features, None)
            loss.backward()  # the cached losses compute their second forward pass in it, in 16 bits as its trainer does
        _update(self.loss, self.optimizer, self.setting.train)
        return float(loss.detach())


def peer_model(setting: Setting) -> SentenceTransformer:
    """The same weights in sentence-transformers' modules, pooled at the last token and normalised."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=_peer_tokenizer_file(setting), pad_token=setting.tokenizer.pad_token, padding_side="right"
    )
    tokenizer.save_pretrained(setting.model_folder)
    transformer = Transformer(str(setting.model_folder), max_seq_length=setting.shards.max_y_tokens)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def _peer_tokenizer_file(setting: Setting) -> str:
    path = setting.model_folder / "peer_tokenizer.json"
    path.write_text(side_tokenizer_json(setting.tokenizer_folder, "y", setting.shards.max_y_tokens), encoding="utf-8")
    return str(path)


def peer_losses(setting: Setting) -> dict[str, Callable[[SentenceTransformer], nn.Module]]:
    """The peer's three ways to train on in-batch negatives, by name."""
    shared: dict[str, Any] = {"scale": 1 / setting.train.temperature, "directions": DIRECTIONS}
    return {
        "mnrl": lambda model: MultipleNegativesRankingLoss(model, **shared),
        "cached_mnrl": lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=PEER_MINI_BATCH, **shared),
        "cached_mnrl_tokens": lambda model: CachedMultipleNegativesRankingLoss(
            model, mini_batch_size=PEER_MINI_BATCH, mini_batch_num_tokens=PEER_MINI_BATCH_TOKENS, **shared
        ),
    }


def _optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _update(module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
    nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
