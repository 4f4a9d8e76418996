"""The rows of benchmarks/equivalence.py: the batch, the oracle, and each way to compute its gradients.

B pairs of the global batch, N = 2 B sequences (all x, then all y), D embedding width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from pipeline_lib.model.loss import PairHashes, contrastive_loss
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
        tile: logits held at once; 0: as ever.
        checkpointed: a layer's activations are computed again.
        packed: sequences lie end to end, without padding.
        family: of `FAMILIES`.
        lora: adapters and some rows of the table are trained, and all else is frozen.
        broken: what is broken on purpose, "" for nothing.
    """

    name: str
    ranks: int = 1
    micro_rows: int = 0
    parallel: str = "sum"
    duplicates: bool = False
    negatives: int = 0
    tile: int = 0
    checkpointed: bool = False
    packed: bool = False
    family: str = "gpt2"
    lora: bool = False
    broken: str = ""
    precisions: tuple[str, ...] = ("float64", "float32")

    @property
    def is_broken(self) -> bool:
        """True for a row that has to fail."""
        return bool(self.broken)


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
    for family in FAMILIES:
        # in float64 transformers' norms of all but NeoX are in float32
        exact = ("float64",) if family == "neox" else ()
        yield Row(family, packed=True, family=family, precisions=(*exact, "float32", "bfloat16"))
        yield Row(f"{family}_grad_cache_4", micro_rows=4, packed=True, family=family, precisions=(*exact, "float32"))
    yield Row("hard_negatives", negatives=2)
    yield Row("hard_negatives_grad_cache_2", negatives=2, micro_rows=2)
    yield Row("hard_negatives_chunked", negatives=2, tile=SMALL_TILE, duplicates=True)
    yield Row("lora", lora=True)
    yield Row("lora_grad_cache_4", micro_rows=4, lora=True)
    yield Row("lora_packed_grad_cache_4", micro_rows=4, packed=True, lora=True)
    yield Row("lora_neox_grad_cache_4", micro_rows=4, packed=True, family="neox", lora=True)
    for family in ("llama", "qwen3"):
        yield Row(f"lora_{family}_grad_cache_4", micro_rows=4, packed=True, family=family, lora=True, precisions=("float32",))
    yield Row("control_duplicates_unmasked", duplicates=True, broken="unmasked")
    for ranks in (2, 4):
        yield Row(f"local_loss_{ranks}", ranks)
        yield Row(f"local_loss_{ranks}_duplicates", ranks, duplicates=True)
        yield Row(f"local_loss_{ranks}_chunked", ranks, tile=SMALL_TILE)
        yield Row(f"ddp_{ranks}_grad_cache_2", ranks, micro_rows=2)
        yield Row(f"hard_negatives_{ranks}", ranks, negatives=2, duplicates=True)
        yield Row(f"torch_ddp_{ranks}", ranks, parallel="torch_ddp")
        yield Row(f"fsdp2_{ranks}", ranks, parallel="step")
        yield Row(f"fsdp2_{ranks}_grad_cache_2", ranks, parallel="step", micro_rows=2)
        yield Row(f"fsdp2_{ranks}_micro_batch_grad_cache_2", ranks, parallel="micro_batch", micro_rows=2)
        yield Row(f"fsdp2_{ranks}_hard_negatives", ranks, parallel="step", micro_rows=2, duplicates=True, negatives=1)
    yield Row("fsdp2_2_checkpointed_grad_cache_2", 2, parallel="step", micro_rows=2, checkpointed=True)
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
        return PairHashes(x_B, y_B)
    negative_M = torch.arange(200, 200 + row.negatives * PAIRS // 2)
    negative_M[1], negative_M[5] = y_B[2], x_B[11]
    return PairHashes(x_B, y_B, negative_M=negative_M)


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
    scale = encoder.log_scale.exp()
    rows_BK = (x_BD @ torch.cat([y_BD, negatives_MD]).T * scale).masked_fill(torch.tensor(same), -torch.inf)
    columns_BB = (y_BD @ x_BD.T * scale).masked_fill(torch.tensor(back), -torch.inf)
    own_B = torch.arange(PAIRS)
    ((F.cross_entropy(rows_BK, own_B) + F.cross_entropy(columns_BB, own_B)) / 2).backward()
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

    def loss_of(emb_ND: Tensor) -> Tensor:
        x_BD, y_KD = gather_sides(emb_ND, sizes, n_negatives, ranks)
        return contrastive_loss(x_BD, y_KD, encoder.log_scale, hashes, own)

    tile = mock.patch.object(loss_module, "TILE_LOGITS", row.tile or loss_module.TILE_LOGITS)
    detached = mock.patch.object(distributed._GatherRows, "backward", _own_rows_only)
    with tile, detached if row.broken == "detached" else contextlib.nullcontext():
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
