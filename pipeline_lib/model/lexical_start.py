"""Lexical initialisation: weights with which step 0 computes a weighted bag of words, from the training split alone.

A causal transformer that begins at random must first learn what a lexical baseline knows: which words are rare, and which go
together. Both can be counted. The sum of word vectors, weighted by inverse document frequency, compares texts as TF-IDF does
(Sparck Jones 1972); vectors from a truncated singular value decomposition of the pair-by-word matrix bring words of the same
pairs close together (latent semantic analysis, Deerwester et al. 1990). The last block is set so that the closing delimiter
attends to every token with weight idf and adds up their vectors; blocks below begin as the identity.

P pairs, V vocabulary, D width, H heads, E = D / H.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from transformers import AutoModel, GPT2Model

from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import gpt2_config
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import TokenDataset, labels_of
from pipeline_lib.tokens.frequency import inverse_document_frequency, texts_with
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

STAGE = Stage(name="lexical_start", version=2)
READ_ROWS = 8192
MIN_TOKENS = 3  # of a pair; shorter ones tell nothing about which words go together
QUERY_NOISE = 0.3  # of GPT-2's initial 0.02: queries and keys begin with the counted weights, and free to leave them
GPT2_STD = 0.02
WEIGHT_DIM = 0  # the hidden dimension that carries a token's log weight


def lexical_start(
    store: Store, shards: Artifact, tokenizer: Artifact, model: ModelConfig, progress: Progress = silent
) -> Artifact:
    """Count, decompose and write the start as a folder that `AutoModel` loads: stage "lexical_start", part "model".

    Args:
        shards: only parts of the training split are opened.
        model: sizes of the model; `lexical` says how to count.

    Raises:
        UserError: no pair has words to count.
    """
    model = model.model_copy(update={"lora": LoraConfig()})  # of what is trained from it

    def make(key: str) -> Outcome:
        pairs = PairTokenizer.load(tokenizer.part_folder())
        progress(0, 3, "counting words")
        labels = labels_of(shards, "train")
        ids, ends = _training_ids(shards, labels)
        idf_V = inverse_document_frequency(texts_with(ids, ends, pairs.vocab_size), len(ends))
        progress(1, 3, f"decomposing {len(ends):,} pairs by {pairs.vocab_size:,} words")
        vectors_VD = word_vectors(ids, ends, idf_V, model)
        progress(2, 3, "setting weights")
        with torch.random.fork_rng():  # what `set_bag_of_words` leaves as it is begins at random
            torch.manual_seed(model.lexical.seed)
            backbone = AutoModel.from_config(gpt2_config(model, pairs))
        delimiters = [pairs.x_open, pairs.x_close, pairs.y_open, pairs.y_close, pairs.pad]
        set_bag_of_words(backbone, vectors_VD, idf_V, delimiters, model.lexical.seed)
        scratch = store.scratch(STAGE.name)
        backbone.save_pretrained(scratch)
        counts = Counts(n_in=len(ends), n_out=len(ends))
        part = store.commit_part(draft_part(STAGE, key, "model", counts), scratch)
        return Outcome(parts=(part,), counts=counts)

    return store.build(STAGE, model, {"shards": shards, "tokenizer": tokenizer}, make)


def word_vectors(ids: np.ndarray, ends: np.ndarray, idf_V: np.ndarray, model: ModelConfig) -> np.ndarray:
    """Unit vectors (V, D): the latent semantic ones, mixed with random ones that keep each word's identity.

    The same bits whatever the number of threads. Of fewer pairs or words than dimensions there are fewer latent ones: the
    random vectors alone fill the others.

    Raises:
        UserError: no pair has words to count.
    """
    config, width = model.lexical, model.width
    matrix_PV = _weighted_counts(ids, ends, idf_V)
    if not matrix_PV.shape[0]:
        raise UserError(
            f"a lexical start counts the words of pairs: got {len(ends)} pairs, expected some of {MIN_TOKENS} words and more;"
            " give a larger source, or set model.start to random"
        )
    rank = min(width, *matrix_PV.shape)
    with threadpool_limits(1):  # several threads sum in an order of their own: other last digits, and so another run
        _, singular_D, right_DV = randomized_svd(
            matrix_PV, rank, n_iter=config.power_iterations, n_oversamples=20, random_state=config.seed
        )
    latent_VD = _unit_rows(right_DV.T * singular_D**config.singular_value_power)
    latent_VD = np.pad(latent_VD, ((0, 0), (0, width - rank)))
    random_VD = _unit_rows(np.random.default_rng(config.seed).standard_normal(latent_VD.shape))
    share = config.latent_share
    return share * latent_VD + math.sqrt(1 - share**2) * random_VD


@torch.no_grad()
def set_bag_of_words(backbone: GPT2Model, vectors_VD: np.ndarray, idf_V: np.ndarray, delimiters: list[int], seed: int) -> None:
    """Set the weights so that the pooled state is the idf-weighted mean of the word vectors.

    Args:
        backbone: changed in place; any number of blocks.
        vectors_VD: one a token id.
        idf_V: weight of each token id.
        delimiters: ids that the mean leaves out.
        seed: of the noise on queries and keys.
    """
    width, n_heads = backbone.config.n_embd, backbone.config.n_head
    head_width = width // n_heads
    table_VD = torch.from_numpy(vectors_VD).float()
    table_VD = table_VD - table_VD.mean(1, keepdim=True)
    table_VD /= table_VD.std(1, keepdim=True).clamp_min(1e-6)  # the norm of the block then leaves it as it is
    table_VD[:, WEIGHT_DIM] = torch.from_numpy(np.log(idf_V / idf_V.mean())).float()
    table_VD[delimiters] = 0.0
    table_VD[delimiters, WEIGHT_DIM] = -1.0  # after the norm -sqrt(D): no weight in the softmax
    backbone.wte.weight.copy_(table_VD)
    backbone.wpe.weight.zero_()
    for block in backbone.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    attention = backbone.h[-1].attn
    noise = torch.Generator().manual_seed(seed)
    weight_D3D = QUERY_NOISE * GPT2_STD * torch.randn(width, 3 * width, generator=noise)
    weight_D3D[:, 2 * width :] = torch.eye(width)
    weight_D3D[WEIGHT_DIM, 2 * width :] = 0.0
    bias_3D = torch.zeros(3 * width)
    for head in range(n_heads):
        first = head * head_width
        bias_3D[first] = math.sqrt(head_width)  # undoes the scaling of the scores
        weight_D3D[WEIGHT_DIM, width + first] += 1.0
    attention.c_attn.weight.copy_(weight_D3D)
    attention.c_attn.bias.copy_(bias_3D)
    attention.c_proj.weight.copy_(torch.eye(width))
    backbone.ln_f.weight[WEIGHT_DIM] = 0.0


def _training_ids(shards: Artifact, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of every training pair, x and y in one row: all ids (T,), and where each row ends (P,)."""
    pieces: list[np.ndarray] = []
    lengths: list[int] = []
    for label in labels:
        dataset = TokenDataset.open(shards, label)
        for first in range(0, len(dataset), READ_ROWS):
            rows = dataset.rows(np.arange(first, min(first + READ_ROWS, len(dataset))))
            for x_ids, y_ids in zip(rows.x_ids, rows.y_ids, strict=True):
                pieces += [x_ids[1:-1], y_ids[1:-1]]
                lengths.append(len(x_ids) + len(y_ids) - 4)
    return np.concatenate(pieces).astype(np.int64), np.cumsum(lengths)


def _weighted_counts(ids: np.ndarray, ends: np.ndarray, idf_V: np.ndarray) -> sp.csr_matrix:
    """(1 + log tf) * idf, each pair's row of unit length: (P, V)."""
    starts = np.concatenate([[0], ends])
    counts_PV = sp.csr_matrix((np.ones(len(ids), np.float32), ids, starts), shape=(len(ends), len(idf_V)))
    counts_PV.sum_duplicates()
    counts_PV = counts_PV[np.diff(counts_PV.indptr) >= MIN_TOKENS]
    counts_PV.data = (1 + np.log(counts_PV.data)) * idf_V[counts_PV.indices].astype(np.float32)
    norms_P = np.sqrt(np.asarray(counts_PV.multiply(counts_PV).sum(1)).ravel())
    return sp.diags(1 / np.maximum(norms_P, 1e-12)).astype(np.float32) @ counts_PV


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
