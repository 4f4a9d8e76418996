"""Causal attention of sequences that lie end to end, without padding between them.

On a GPU in 16 bits it is PyTorch's variable-length kernel (torch.nn.attention.varlen, FlashAttention). Elsewhere neighbours of
similar length form a bucket, padded to its longest inside the attention alone, where a token costs least: linear layers and
norms never see padding. In 16 bits on a CPU short rows are attended by plain products of matrices, three to six times as fast,
gradients included, as PyTorch's blockwise attention, which is made for long ones.

B sequences, T tokens of all of them, S queries (T, one a token, or B, each sequence's last), H heads of queries, G of keys and
values (H is a multiple of G), E width of a head. A bucket: N rows, L tokens of its longest, Q queries of a row (L or 1).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_WIDTH_STEP, KERNEL_WIDEST = 8, 256  # of a head; FlashAttention 2
PROBE_LENGTHS = (1, 2, 7, 7, 33)
PROBE_COSINE = 0.999
MOST_PADDING = 0.125  # of a bucket's tokens
SHORT_TOKENS = 320  # of a row, up to which plain products are faster on a CPU in 16 bits
SHORT_ROWS = "short_rows"  # what transformers knows `attend_either_way` by
BUCKET_SCORES = 1 << 21  # at most, of one head: what a bucket's rows have together should stay in the caches


class Bucket(NamedTuple):
    """Neighbouring sequences that are attended together.

    Attributes:
        begin: of its sequences.
        end: behind the last.
        longest: tokens of its longest sequence.
        slots: int64, where each of its tokens stands among `(end - begin) * longest`; None where all are equally long.
        beyond: bool (N, L), True behind a sequence's end; None where all are equally long.
    """

    begin: int
    end: int
    longest: int
    slots: Tensor | None
    beyond: Tensor | None


class Layout(NamedTuple):
    """Positions of the sequences of a packed micro-batch.

    Attributes:
        lengths: tokens of each sequence; known to the host, so that no kernel is waited for.
        cu_lengths: int32 (B + 1,), sequence i is tokens cu_lengths[i] to cu_lengths[i + 1].
        positions_T: int64, of each token in its sequence.
        last_B: int64, each sequence's last token.
        buckets: none where the kernel reads `cu_lengths`.
    """

    lengths: tuple[int, ...]
    cu_lengths: Tensor
    positions_T: Tensor
    last_B: Tensor
    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, lengths_B: Tensor, device: torch.device | None = None, by_kernel: bool = False) -> Layout:
        """The layout of sequences of these lengths, on a device; made on the host, whence it is copied without waiting."""
        device, lengths_B = device or lengths_B.device, lengths_B.cpu()
        ends_B = lengths_B.cumsum(0)
        n_tokens = int(ends_B[-1])
        begins_T = torch.repeat_interleave(ends_B - lengths_B, lengths_B, output_size=n_tokens)
        parts = (F.pad(ends_B, (1, 0)).int(), torch.arange(n_tokens) - begins_T, ends_B - 1)
        cu_lengths, positions_T, last_B = (to_device(part, device) for part in parts)
        lengths = tuple(lengths_B.tolist())
        return cls(lengths, cu_lengths, positions_T, last_B, () if by_kernel else _buckets(lengths, device))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU from pinned memory, so that the host does not wait for the copy."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _buckets(lengths: Sequence[int], device: torch.device) -> tuple[Bucket, ...]:
    cuts, tokens, longest = [0], 0, 0
    for row, length in enumerate(lengths):
        top, height = max(longest, length), row + 1 - cuts[-1]
        padded = top * height
        if height > 1 and (padded - tokens - length > MOST_PADDING * padded or padded * top > BUCKET_SCORES):
            cuts.append(row)
            tokens, top = 0, length
        longest, tokens = top, tokens + length
    ends = [*cuts[1:], len(lengths)]
    return tuple(_bucket(lengths, begin, end, device) for begin, end in zip(cuts, ends, strict=True))


def _bucket(lengths: Sequence[int], begin: int, end: int, device: torch.device) -> Bucket:
    own = torch.tensor(lengths[begin:end])
    longest = int(own.max())
    if int(own.min()) == longest:
        return Bucket(begin, end, longest, None, None)
    beyond = torch.arange(longest) >= own[:, None]
    slots = (~beyond).flatten().nonzero().squeeze(1)
    return Bucket(begin, end, longest, to_device(slots, device), to_device(beyond, device))


def attend(q_SHE: Tensor, k_TGE: Tensor, v_TGE: Tensor, layout: Layout, scaling: float) -> Tensor:
    """Causal attention of every token in its own sequence (S = T), or of each sequence's last one (S = B): (S, H, E)."""
    if not layout.buckets:
        return _by_kernel(q_SHE, k_TGE, v_TGE, layout, scaling)
    every = len(q_SHE) == len(k_TGE)
    rows = [bucket.end - bucket.begin for bucket in layout.buckets]
    tokens = [sum(layout.lengths[bucket.begin : bucket.end]) for bucket in layout.buckets]
    parts = q_SHE.split(tokens if every else rows), k_TGE.split(tokens), v_TGE.split(tokens)
    pieces = []
    for bucket, n_rows, q, *keys_values in zip(layout.buckets, rows, *parts, strict=True):
        k, v = (_padded(part, n_rows, bucket) for part in keys_values)
        if every:
            pieces.append(_unpadded(attend_rows(_padded(q, n_rows, bucket), k, v, scaling), bucket))
        else:
            pieces.append(attend_rows(q[:, None], k, v, scaling, bucket.beyond, causal=False)[:, 0])
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def attend_rows(
    q_NQHE: Tensor, k_NLGE: Tensor, v_NLGE: Tensor, scaling: float, beyond_NL: Tensor | None = None, causal: bool = True
) -> Tensor:
    """Attention of padded rows: (N, Q, H, E). Causal, or of one query a row, to which `beyond_NL` hides positions."""
    if takes_products(q_NQHE, k_NLGE.shape[1]):
        hidden = beyond_NL if beyond_NL is None else beyond_NL[:, None, None]
        if causal:
            n_tokens = q_NQHE.shape[1]
            hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=q_NQHE.device).triu_(1)
        return _Products.apply(q_NQHE, k_NLGE, v_NLGE, scaling, hidden)
    q, k, v = (part.transpose(1, 2) for part in (q_NQHE, k_NLGE, v_NLGE))
    mask = None if beyond_NL is None else ~beyond_NL[:, None, None]
    grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scaling, **grouped).transpose(1, 2)


def takes_products(q: Tensor, n_tokens: int) -> bool:
    """True where plain products of matrices attend rows of this many tokens fastest."""
    return q.device.type == "cpu" and q.dtype in KERNEL_TYPES and n_tokens <= SHORT_TOKENS


def attend_either_way(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention of (N, H, Q, E): by plain products where they are fastest and nothing else is asked for."""
    asked = {name for name, value in options.items() if isinstance(value, Tensor) or value}
    is_plain = asked <= {"scaling", "position_ids"} and key.shape[1] == query.shape[1]
    # without a mask a decoder's is causal
    has_mask = attention_mask.dtype == torch.bool if attention_mask is not None else not getattr(module, "is_causal", True)
    if not (is_plain and has_mask and takes_products(query, key.shape[2])):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    hidden = None if attention_mask is None else ~attention_mask
    return _Products.apply(*(part.transpose(1, 2) for part in (query, key, value)), scaling, hidden), None


def use_short_rows(backbone: PreTrainedModel) -> None:
    """Let a model whose own forward is computed attend by `attend_either_way`, where it would by PyTorch's."""
    if backbone.config._attn_implementation == "sdpa":
        AttentionInterface.register(SHORT_ROWS, attend_either_way)
        AttentionMaskInterface.register(SHORT_ROWS, sdpa_mask)
        backbone.set_attn_implementation(SHORT_ROWS)


class _Products(torch.autograd.Function):
    """softmax(q k / sqrt(E)) v with all weights in memory: queries that share a head of keys are rows of one product."""

    @staticmethod
    def forward(ctx: Any, q_NQHE: Tensor, k_NLGE: Tensor, v_NLGE: Tensor, scaling: float, hidden: Tensor | None) -> Tensor:
        n_rows, n_queries, n_heads, width = q_NQHE.shape
        ctx.shape, ctx.scaling = (n_rows, n_queries, k_NLGE.shape[2], n_heads // k_NLGE.shape[2], width), scaling
        q, k, v = _queries_by_group(q_NQHE * scaling, ctx.shape), _by_group(k_NLGE), _by_group(v_NLGE)
        scores = torch.bmm(q, k.transpose(1, 2))
        if hidden is not None:
            scores.view(n_rows, n_heads, n_queries, -1).masked_fill_(hidden, -torch.inf)
        weights = scores.softmax(dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        return _by_token(torch.bmm(weights, v), ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NQHE: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = _queries_by_group(grad_NQHE, ctx.shape)
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, weights.dtype)
        grad_q = _by_token(torch.bmm(grad_scores, k).mul_(ctx.scaling), ctx.shape)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        n_rows, _, n_groups, _, _ = ctx.shape
        grad_k, grad_v = (part.unflatten(0, (n_rows, n_groups)).transpose(1, 2) for part in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, None, None


def _queries_by_group(q_NQHE: Tensor, shape: tuple[int, ...]) -> Tensor:
    n_rows, n_queries, n_groups, share, width = shape
    q = q_NQHE.reshape(n_rows, n_queries, n_groups, share, width).permute(0, 2, 3, 1, 4)
    return q.reshape(n_rows * n_groups, share * n_queries, width)


def _by_group(k_NLGE: Tensor) -> Tensor:
    return k_NLGE.transpose(1, 2).reshape(-1, k_NLGE.shape[1], k_NLGE.shape[3])


def _by_token(out: Tensor, shape: tuple[int, ...]) -> Tensor:
    n_rows, n_queries, n_groups, share, width = shape
    return out.view(n_rows, n_groups, share, n_queries, width).permute(0, 3, 1, 2, 4).flatten(2, 3)


class _Pad(torch.autograd.Function):
    """Tokens to their slots among zeros; its gradient is read from there, without autograd's sum over indices."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, slots: Tensor, n_slots: int) -> Tensor:
        ctx.save_for_backward(slots)
        return tokens.new_zeros(n_slots, *tokens.shape[1:]).index_copy_(0, slots, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _Unpad(torch.autograd.Function):
    """Tokens from their slots."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.n_slots = len(padded)
        return padded.index_select(0, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.n_slots, *grad.shape[1:]).index_copy_(0, slots, grad), None


def _padded(tokens: Tensor, n_rows: int, bucket: Bucket) -> Tensor:
    if bucket.slots is not None:
        tokens = _Pad.apply(tokens, bucket.slots, n_rows * bucket.longest)
    return tokens.unflatten(0, (n_rows, bucket.longest))


def _unpadded(rows: Tensor, bucket: Bucket) -> Tensor:
    tokens = rows.flatten(0, 1)
    return tokens if bucket.slots is None else _Unpad.apply(tokens, bucket.slots)


def takes_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """True if PyTorch's variable-length kernel takes such tensors; `kernel_obstacle` says if it runs here."""
    fits = head_width % KERNEL_WIDTH_STEP == 0 and head_width <= KERNEL_WIDEST
    return device.type == "cuda" and dtype in KERNEL_TYPES and fits


def runs_kernel(states: Tensor, head_width: int) -> bool:
    """True where the kernel takes what is made of these states, and runs."""
    kind, dtype = states.device.type, states.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return takes_kernel(states.device, dtype, head_width) and not kernel_obstacle(states.device, head_width)


@functools.cache
@torch.enable_grad()
def kernel_obstacle(device: torch.device, head_width: int) -> str:
    """Obstacle to the kernel for bfloat16 on this device, "" if none: it is run there, and its gradients compared."""
    if not takes_kernel(device, torch.bfloat16, head_width):
        return f"the kernel needs a GPU and heads of a multiple of {KERNEL_WIDTH_STEP} up to {KERNEL_WIDEST}"
    try:
        with torch.autocast(device.type, enabled=False):  # inside a forward pass too
            cosine = kernel_agreement(device, head_width)
    except (ImportError, NotImplementedError, RuntimeError, TypeError) as error:  # no kernel in this build, or for this GPU
        return f"the kernel does not run here: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return "" if cosine >= PROBE_COSINE else f"the kernel's gradients are wrong here (cosine {cosine:.4f})"


def kernel_agreement(device: torch.device, head_width: int) -> float:
    """Lowest cosine of the kernel's output and gradients in bfloat16 with those computed in float32 by buckets."""
    generator = torch.Generator().manual_seed(1)
    n_tokens = sum(PROBE_LENGTHS)
    cosines = []
    for n_queries in (n_tokens, len(PROBE_LENGTHS)):
        shapes = [(n_queries, 4, head_width), *[(n_tokens, 2, head_width)] * 2]  # four heads in two groups
        parts = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        grad = torch.randn(shapes[0], generator=generator).to(device)
        found = []
        for dtype in (torch.bfloat16, torch.float32):  # the kernel has no float32
            layout = Layout.of(torch.tensor(PROBE_LENGTHS), device, takes_kernel(device, dtype, head_width))
            leaves = [part.to(dtype).requires_grad_() for part in parts]
            q, k, v = leaves
            out = attend(q, k, v, layout, head_width**-0.5)
            found.append([out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))])
        cosines += [float(F.cosine_similarity(a.float().flatten(), b.flatten(), dim=0)) for a, b in zip(*found, strict=True)]
    return min(cosines)


def _by_kernel(q_SHE: Tensor, k_TGE: Tensor, v_TGE: Tensor, layout: Layout, scaling: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # with `window_size`, `scale` and `enable_gqa` from torch 2.11 on

    options: dict[str, Any] = {"scale": scaling, "enable_gqa": q_SHE.shape[1] != k_TGE.shape[1]}
    cu_lengths, longest = layout.cu_lengths, layout.longest
    if len(q_SHE) == len(k_TGE):
        return varlen_attn(q_SHE, k_TGE, v_TGE, cu_lengths, cu_lengths, longest, longest, window_size=(-1, 0), **options)
    cu_queries = torch.arange(len(cu_lengths), dtype=torch.int32, device=q_SHE.device)
    return varlen_attn(q_SHE, k_TGE, v_TGE, cu_queries, cu_lengths, 1, longest, **options)
