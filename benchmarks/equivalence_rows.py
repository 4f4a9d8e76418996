"""The rows of benchmarks/equivalence.py: the batch, the oracle, and each way to compute its gradients.

B pairs of the global batch, N = 2 B sequences (all x, then all y), D embedding width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, GPTNeoXConfig, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config
from transformers.pytorch_utils import Conv1D

from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.model import loss as loss_module
from pipeline_lib.model.adapter import Adapter, adapter_of, rows_of
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.grad_cache import BatchLoss, batch_gradients, no_hook
from pipeline_lib.model.lora import attach
from pipeline_lib.model.loss import Guidance, PairHashes, contrastive_loss, over_prefixes
from pipeline_lib.model.micro_batches import MicroBatch, cut_micro_batches
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.train import distributed
from pipeline_lib.train.distributed import Ranks, gather_sides, sum_gradients
from pipeline_lib.train.sharding import Synchronise, shard, whole

Errors = dict[str, float]
Gradients = dict[str, Tensor]

PAIRS = 16
MODEL = ModelConfig(layers=2, width=32, heads=4, inner=64, positions=32)
VOCABULARY = SimpleNamespace(vocab_size=97, x_open=0, x_close=1, y_open=2, y_close=3, pad=4)
SMALL_TILE = 40  # logits: two rows of the batch
PREFIXES = ((8, 1.0), (16, 0.5), (32, 2.0))  # dimensions and weight
SIZES: dict[str, Any] = {
    **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "max_position_embeddings": 32,
}
GROUPS = {"num_key_value_heads": 2}
FAMILIES: dict[str, PreTrainedConfig] = {  # beside the GPT-2 of `MODEL`
    "llama": LlamaConfig(**SIZES, **GROUPS),
    "mistral": MistralConfig(**SIZES, **GROUPS),
    "qwen2": Qwen2Config(**SIZES, **GROUPS),
    "qwen3": Qwen3Config(**SIZES, **GROUPS, head_dim=16),
    "neox": GPTNeoXConfig(**SIZES, hidden_dropout=0.0, attention_dropout=0.0),
}


@dataclass(frozen=True)
class Row:
    """One way to compute the gradients.

    Attributes:
        name: in the table.
        ranks: processes.
        micro_rows: sequences of one micro-batch of gradient caching; 0: one direct pass.
        parallel: "sum": our one flat all-reduce; "torch_ddp": DistributedDataParallel; "step" and "micro_batch": FSDP2.
        duplicates: texts that come twice and a chain of neighbours are in the batch, and masked.
        negatives: hard ones of each pair, in the first half of the batch; some repeat a positive.
        guided: "own": false negatives by the model's scores; "guide": by a guide's, which teaches too (KL, MarginMSE).
        tile: logits held at once; 0: as ever.
        checkpointed: a layer's activations are computed again.
        packed: sequences lie end to end, without padding.
        family: of `FAMILIES`.
        prefixes: dimensions and weight of each prefix that the loss is summed over; none: the whole vectors' loss.
        lora: adapters and some rows of the table are trained, and all else is frozen.
        broken: what is broken on purpose, "" for nothing.
    """

    name: str
    ranks: int = 1
    micro_rows: int = 0
    parallel: str = "sum"
    duplicates: bool = False
    negatives: int = 0
    guided: str = ""
    tile: int = 0
    checkpointed: bool = False
    packed: bool = False
    family: str = "gpt2"
    prefixes: tuple[tuple[int, float], ...] = ()
    lora: bool = False
    broken: str = ""
    precisions: tuple[str, ...] = ("float64", "float32")


def _rows() -> Iterator[Row]:
    yield Row("direct", precisions=("float64", "float32", "bfloat16"))
    yield Row("direct_duplicates", duplicates=True)
    for micro_rows in (1, 2, 4, 2 * PAIRS):
        yield Row(f"grad_cache_{micro_rows}", micro_rows=micro_rows)
    yield Row("grad_cache_4_bfloat16", micro_rows=4, precisions=("bfloat16",))
    yield Row("chunked", tile=SMALL_TILE)
    yield Row("chunked_duplicates", tile=SMALL_TILE, duplicates=True)
    yield Row("checkpointed", checkpointed=True, precisions=("float64", "float32", "bfloat16"))
    yield Row("checkpointed_grad_cache_2", micro_rows=2, checkpointed=True)
    yield Row("packed", packed=True, precisions=("float64", "float32", "bfloat16"))
    yield Row("packed_grad_cache_4", micro_rows=4, packed=True)
    for by in ("own", "guide"):
        guided = partial(Row, guided=by, negatives=2, duplicates=True)
        yield guided(f"false_negatives_{by}")
        yield guided(f"false_negatives_{by}_grad_cache_2", micro_rows=2)
    yield guided("false_negatives_guide_chunked", tile=SMALL_TILE)
    for family in FAMILIES:
        # in float64 transformers' norms of all but NeoX are in float32
        exact = ("float64",) if family == "neox" else ()
        yield Row(family, packed=True, family=family, precisions=(*exact, "float32", "bfloat16"))
        for lora in (False, True):
            name = f"{'lora_' * lora}{family}_grad_cache_4"
            yield Row(name, micro_rows=4, packed=True, family=family, lora=lora, precisions=(*exact, "float32"))
    yield Row("hard_negatives", negatives=2)
    yield Row("hard_negatives_grad_cache_2", negatives=2, micro_rows=2)
    yield Row("hard_negatives_chunked", negatives=2, tile=SMALL_TILE, duplicates=True)
    prefixed = partial(Row, prefixes=PREFIXES, negatives=2, duplicates=True)
    yield prefixed("matryoshka", precisions=("float64", "float32", "bfloat16"))
    yield prefixed("matryoshka_grad_cache_2", micro_rows=2)
    yield prefixed("matryoshka_chunked", tile=SMALL_TILE)
    yield Row("control_prefixes_not_normalised", prefixes=PREFIXES, broken="not normalised")
    yield Row("lora", lora=True)
    yield Row("lora_grad_cache_4", micro_rows=4, lora=True)
    yield Row("lora_packed_grad_cache_4", micro_rows=4, packed=True, lora=True)
    yield Row("control_duplicates_unmasked", duplicates=True, broken="unmasked")
    for ranks in (2, 4):
        yield Row(f"local_loss_{ranks}", ranks)
        yield Row(f"local_loss_{ranks}_duplicates", ranks, duplicates=True)
        yield Row(f"local_loss_{ranks}_chunked", ranks, tile=SMALL_TILE)
        yield Row(f"ddp_{ranks}_grad_cache_2", ranks, micro_rows=2)
        yield Row(f"hard_negatives_{ranks}", ranks, negatives=2, duplicates=True)
        yield prefixed(f"matryoshka_{ranks}_grad_cache_2", ranks, micro_rows=2)
        yield Row(f"torch_ddp_{ranks}", ranks, parallel="torch_ddp")
        yield Row(f"fsdp2_{ranks}", ranks, parallel="step")
        yield Row(f"fsdp2_{ranks}_grad_cache_2", ranks, parallel="step", micro_rows=2)
        yield Row(f"fsdp2_{ranks}_micro_batch_grad_cache_2", ranks, parallel="micro_batch", micro_rows=2)
        yield Row(f"fsdp2_{ranks}_hard_negatives", ranks, parallel="step", micro_rows=2, duplicates=True, negatives=1)
        for by in ("own", "guide"):
            yield Row(f"false_negatives_{by}_{ranks}", ranks, guided=by, negatives=2, duplicates=True, micro_rows=2)
    yield Row("fsdp2_2_checkpointed_grad_cache_2", 2, parallel="step", micro_rows=2, checkpointed=True)
    yield Row("fsdp2_2_matryoshka", 2, parallel="step", micro_rows=2, prefixes=PREFIXES, negatives=1, duplicates=True)
    yield Row("lora_2_grad_cache_2", 2, micro_rows=2, lora=True, duplicates=True)
    yield Row("lora_fsdp2_2_grad_cache_2", 2, parallel="step", micro_rows=2, lora=True)
    yield Row("fsdp2_2_bfloat16", 2, parallel="step", micro_rows=2, precisions=("bfloat16",))
    yield Row("control_gather_without_gradient", 2, broken="detached")
    yield Row("control_mean_over_ranks", 2, broken="mean")


ROWS = tuple(_rows())


def errors_of(row: Row, ranks: Ranks) -> dict[str, Errors]:
    """Precision to the error of the worst parameter and of the temperature; for bfloat16 the cosine with the oracle."""
    expected = oracle(replace(row, broken=""))
    found: dict[str, Errors] = {}
    for precision in row.precisions:
        got = gradients(row, precision, ranks)
        error = {name: _relative(got[name], expected[name]) for name in expected}
        found[precision] = {"worst": max(error.values()), "temperature": error["log_scale"]}
        if precision == "bfloat16":
            flat = [torch.cat([side[name].double().flatten() for name in sorted(expected)]) for side in (got, expected)]
            found[precision]["worst"] = float(F.cosine_similarity(*flat, dim=0))
    return found


@dataclass(frozen=True)
class ErrorsOf:
    """The errors of several rows, as a function that spawned processes can be given."""

    rows: list[Row]

    def __call__(self, ranks: Ranks) -> list[dict[str, Errors]]:
        """On one rank."""
        return [errors_of(row, ranks) for row in self.rows]


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def build(dtype: torch.dtype = torch.float32, family: str = "gpt2", lora: bool = False) -> Encoder:
    """The encoder; in every precision from the same float32 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        if family == "gpt2":
            encoder = Encoder.build(MODEL, cast(PairTokenizer, VOCABULARY), seed=2)
        else:
            encoder = Encoder(AutoModel.from_config(FAMILIES[family], attn_implementation="sdpa"))
        if lora:
            attach(encoder, LoraConfig(rank=3), appended=(7, 31), seed=2)
            for module in encoder.modules():  # away from where they begin, where half of the gradients are zero
                if isinstance(module, Adapter):
                    torch.nn.init.normal_(module.up_OK, std=0.03)
    return encoder.to(dtype).train()


def summed(encoder: Encoder) -> dict[str, Tensor]:
    """The whole weights of an encoder with adapters, by the names that they have without any."""
    weights: dict[str, Tensor] = {}
    for name, module in encoder.named_modules():
        if adapter := adapter_of(module):
            product = adapter.scale * torch.einsum("ok,kd->od", adapter.up_OK, adapter.down_KD)
            weights[f"{name}.weight"] = module.weight + (product.T if isinstance(module, Conv1D) else product)
        elif rows := rows_of(module):
            weights[f"{name}.weight"] = module.weight.index_copy(0, cast(Tensor, rows.ids_R), rows.weight)
    return weights


def sequences(n_negatives: int = 0) -> list[np.ndarray]:
    """B sequences of x, B of y and the hard negatives, pair by pair; 2 to 17 tokens each."""
    generator = np.random.default_rng(3)
    lengths = generator.permutation(np.repeat(np.arange(2, 2 + PAIRS), 2))
    texts = [generator.integers(5, 97, length) for length in lengths]
    return texts + [generator.integers(5, 97, 2 + i % 9) for i in range(n_negatives * PAIRS // 2)]


def hashes_of(row: Row) -> PairHashes:
    """Texts that are all distinct; or an x twice, a y twice and a chain of neighbours, over the bounds of ranks."""
    x_B, y_B = torch.arange(PAIRS), torch.arange(100, 100 + PAIRS)
    if row.duplicates and row.broken != "unmasked":
        x_B[9] = x_B[1]
        y_B[14] = y_B[3]
        x_B[12] = y_B[5]
    if not row.negatives:
        return PairHashes(x_B, y_B, guidance=guidance_of(row))
    negative_M = torch.arange(200, 200 + row.negatives * PAIRS // 2)
    negative_M[1], negative_M[5] = y_B[2], x_B[11]
    return PairHashes(x_B, y_B, negative_M=negative_M, guidance=guidance_of(row))


def guidance_of(row: Row) -> Guidance | None:
    """What scores say of the batch, the guide's vectors being random; None where they have no say."""
    owner_M = torch.arange(PAIRS // 2).repeat_interleave(row.negatives)
    if row.guided != "guide":
        return Guidance(margin=0.01) if row.guided else None
    generator = torch.Generator().manual_seed(5)
    x_BG, y_KG = (
        F.normalize(torch.randn(n, 6, dtype=torch.float64, generator=generator), dim=1) for n in (PAIRS, PAIRS + len(owner_M))
    )
    weights: dict[str, Any] = {"kl_weight": 0.5, "kl_temperature": 0.3, "margin_mse_weight": 0.7}
    return Guidance(margin=0.3, x_BG=x_BG, y_KG=y_KG, owner_M=owner_M, **weights)


def guided_parts(row: Row, x_BD: Tensor, y_KD: Tensor, known: tuple[Tensor, Tensor], scale: Tensor) -> tuple[Tensor, ...]:
    """Further entries to be left out of rows (B, K) and of columns (B, B), and what the guide's scores add to the loss.

    Args:
        known: entries of rows and of columns that are left out by their texts.
    """
    told = guidance_of(row)
    assert told is not None and told.margin is not None, "scores have no say"
    scores_BK = (x_BD @ y_KD.T).detach() if told.x_BG is None or told.y_KG is None else told.x_BG @ told.y_KG.T
    logits_BK, losses, masks = x_BD @ y_KD.T * scale, [x_BD.new_zeros(())], []
    sides = ((scores_BK, logits_BK), (scores_BK[:, :PAIRS].T, logits_BK[:, :PAIRS].T))
    for (scores, logits), out in zip(sides, known, strict=True):
        near = scores > scores.diagonal()[:, None] + told.margin
        near.fill_diagonal_(False)
        masks.append(near)
        if told.kl_weight:
            q = (scores / told.kl_temperature).masked_fill(out, -1e9).softmax(1)
            log_p = logits.masked_fill(out, -1e9).log_softmax(1)
            losses.append(told.kl_weight * F.kl_div(log_p, q, reduction="batchmean") / 2)
    if told.owner_M is not None and told.margin_mse_weight:
        cosines = x_BD @ y_KD.T
        places = told.owner_M, PAIRS + torch.arange(len(told.owner_M))
        ours, theirs = (of.diagonal()[told.owner_M] - of[places] for of in (cosines, scores_BK))
        losses.append(told.margin_mse_weight * F.mse_loss(ours, theirs))
    return *masks, torch.stack(losses).sum()


def oracle(row: Row) -> Gradients:
    """Gradients in float64 on one process, by transformers' forward and torch's cross entropy over the whole matrix."""
    encoder = build(torch.float64, row.family, row.lora)
    plain = build(torch.float64, row.family) if row.lora else encoder
    plain.fused = False
    (batch,) = cut_micro_batches(sequences(row.negatives), 10**6)
    emb_ND = torch.empty(len(batch.rows_B), encoder.width, dtype=torch.float64)
    emb_ND = emb_ND.index_copy(0, batch.rows_B, functional_call(plain, summed(encoder), (batch.ids_BL, batch.lengths_B)))
    x_BD, y_BD, negatives_MD = emb_ND.split([PAIRS, PAIRS, len(emb_ND) - 2 * PAIRS])
    hashes = hashes_of(row)
    x, y = hashes.x_B.tolist(), hashes.y_B.tolist()
    negatives = [] if hashes.negative_M is None else hashes.negative_M.tolist()
    same = [[i != j and (x[i] == x[j] or y[i] == y[j] or x[i] == y[j]) for j in range(PAIRS)] for i in range(PAIRS)]
    back = [[i != j and (y[i] == y[j] or x[i] == x[j] or y[i] == x[j]) for j in range(PAIRS)] for i in range(PAIRS)]
    same = [same[i] + [text in (x[i], y[i]) for text in negatives] for i in range(PAIRS)]
    if row.guided:
        known = torch.tensor(same), torch.tensor(back)
        y_KD = torch.cat([y_BD, negatives_MD])
        *more, taught = guided_parts(row, x_BD, y_KD, known, encoder.log_scale.exp())
        same, back = ((out | near).tolist() for out, near in zip(known, more, strict=True))
        if taught.requires_grad:  # its own scores teach nothing
            taught.backward(retain_graph=True)
    scale = encoder.log_scale.exp()
    own_B, losses = torch.arange(PAIRS), []
    for dim, weight in row.prefixes or ((encoder.width, 1.0),):
        x_Bd, y_Bd, negatives_Md = (
            side[:, :dim] / side[:, :dim].norm(dim=1, keepdim=True) for side in (x_BD, y_BD, negatives_MD)
        )
        rows_BK = (x_Bd @ torch.cat([y_Bd, negatives_Md]).T * scale).masked_fill(torch.tensor(same), -torch.inf)
        columns_BB = (y_Bd @ x_Bd.T * scale).masked_fill(torch.tensor(back), -torch.inf)
        losses.append(weight * (F.cross_entropy(rows_BK, own_B) + F.cross_entropy(columns_BB, own_B)) / 2)
    torch.stack(losses).sum().backward()
    return _gradients_of(encoder)


def gradients(row: Row, precision: str, ranks: Ranks) -> Gradients:
    """The whole gradients of the row's way; the same on every rank."""
    encoder = build(torch.float64 if precision == "float64" else torch.float32, row.family, row.lora).to(ranks.device)
    encoder.precision = "bfloat16" if precision == "bfloat16" else "float32"
    if row.checkpointed:
        encoder.checkpoint_activations()
    texts, sizes, n_negatives = _share(row, ranks)
    batches = micro_batches(texts, row.micro_rows, ranks, row.packed)
    own = slice(sum(sizes[: ranks.rank]), sum(sizes[: ranks.rank + 1]))
    hashes = hashes_of(row).to(ranks.device)

    def of_vectors(x_BD: Tensor, y_KD: Tensor) -> Tensor:
        return contrastive_loss(x_BD, y_KD, encoder.log_scale, hashes, own)

    def loss_of(emb_ND: Tensor) -> Tensor:
        return over_prefixes(of_vectors, *gather_sides(emb_ND, sizes, n_negatives, ranks), row.prefixes)

    bare = mock.patch.object(loss_module, "prefix", lambda vectors_ND, dim: vectors_ND[:, :dim])
    tile = mock.patch.object(loss_module, "TILE_LOGITS", row.tile or loss_module.TILE_LOGITS)
    detached = mock.patch.object(distributed._GatherRows, "backward", _own_rows_only)
    broken = {"detached": detached, "not normalised": bare}.get(row.broken, contextlib.nullcontext())
    with tile, broken:
        if row.parallel == "torch_ddp":
            _torch_ddp(encoder, batches, loss_of, ranks)
        else:
            before_backward = no_hook
            if row.parallel != "sum":
                encoder.fused = False
                before_backward = shard(encoder.backbone, ranks, cast(Synchronise, row.parallel))
            batch_gradients(encoder, batches, loss_of, row.micro_rows > 0, before_backward)
            sum_gradients(encoder, ranks)
    found = _gradients_of(encoder)
    return {name: gradient / ranks.size for name, gradient in found.items()} if row.broken == "mean" else found


def _share(row: Row, ranks: Ranks) -> tuple[list[np.ndarray], list[int], list[int]]:
    """This rank's texts, and the pairs and the hard negatives of every rank."""
    share = PAIRS // ranks.size
    x, y, negatives = (sequences(row.negatives)[cut] for cut in (slice(PAIRS), slice(PAIRS, 2 * PAIRS), slice(2 * PAIRS, None)))
    ends = [row.negatives * min((rank + 1) * share, PAIRS // 2) for rank in range(ranks.size)]
    begins = [0, *ends[:-1]]
    own = slice(ranks.rank * share, (ranks.rank + 1) * share)
    texts = [*x[own], *y[own], *negatives[begins[ranks.rank] : ends[ranks.rank]]]
    return texts, [share] * ranks.size, [end - begin for begin, end in zip(begins, ends, strict=True)]


def micro_batches(texts: list[np.ndarray], micro_rows: int, ranks: Ranks, packed: bool = False) -> list[MicroBatch]:
    """Micro-batches of so many sequences, in the input's order; 0: one of all."""
    cuts = []
    height = micro_rows or len(texts)
    for begin in range(0, len(texts), height):
        (cut,) = cut_micro_batches(texts[begin : begin + height], 10**6, packed=packed)
        cuts.append(MicroBatch(cut.ids_BL, cut.lengths_B, cut.rows_B + begin).to(ranks.device))
    return cuts


def _torch_ddp(encoder: Encoder, batches: list[MicroBatch], loss_of: BatchLoss, ranks: Ranks) -> None:
    """The same by DistributedDataParallel, which divides by the ranks."""
    encoder.fused = False
    # the logit scale gets its gradient from the loss, outside of the wrapped forward
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(encoder, ["log_scale"])
    wrapped = DistributedDataParallel(encoder)
    wrapped.fused = False
    batch_gradients(cast(Encoder, wrapped), batches, loss_of, cached=False)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        if name == "log_scale":
            dist.all_reduce(parameter.grad)
        else:
            parameter.grad *= ranks.size


def _own_rows_only(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
    """A gather's backward that forgets what the other ranks' losses say about this one's rows."""
    begin = sum(ctx.sizes[: ctx.rank])
    return grads[0][begin : begin + ctx.sizes[ctx.rank]].contiguous(), None, None


def _gradients_of(encoder: Encoder) -> Gradients:
    return {name: whole(p.grad).detach().cpu() for name, p in encoder.named_parameters() if p.grad is not None}
