"""Low-rank adapters beside linear layers (LoRA, arXiv 2106.09685), and rows of a frozen table that are trained.

An adapter is a child of the layer that it stands beside, and the layer's own forward adds what it computes (a hook), so that a
model's class, the names of its weights and every forward of `transformers` stay what they are. The lean forward (decoder.py)
multiplies some layers past their own forward; it asks for `delta` and `weight_of` here.

The library `peft` was looked at and left out: it puts a class of its own in the place of each linear layer, whose `weight` is
the frozen one. The lean forward, which knows layers by their class and multiplies several as one product, would either leave
such a model to its own padded forward or pass over its adapters; an outline that is filled tensor by tensor and cut over
processes (outline.py, sharding.py) would not find its names again. The adapters here compute what it computes
(tests/unit/model/test_lora.py).

D inputs, O outputs, K rank, R trained rows; S tokens of any arrangement.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

NAME, ROWS = "lora", "rows"  # of the child beside a layer, and beside a table


class Adapter(nn.Module):
    """The product of two thin matrices: what a frozen layer's weights are changed by.

    Args:
        sizes: D and O.
        rank: K.
        alpha: the product is scaled by alpha / K.
        dropout: of what it reads.
        generator: of the first matrix; the second begins at zero, so that step 0 is the start's.
    """

    def __init__(self, sizes: tuple[int, int], rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        n_in, n_out = sizes
        bound = 1.0 / math.sqrt(n_in)  # as torch draws a linear layer's
        self.down_KD = nn.Parameter(torch.empty(rank, n_in).uniform_(-bound, bound, generator=generator))
        self.up_OK = nn.Parameter(torch.zeros(n_out, rank))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / rank

    def forward(self, z_SD: Tensor) -> Tensor:
        """What is added to the layer's output."""
        return F.linear(F.linear(self.dropout(z_SD), self.down_KD), self.up_OK) * self.scale

    def product(self) -> Tensor:
        """What is added to the layer's weights: (O, D)."""
        return (self.up_OK @ self.down_KD) * self.scale


class TrainedRows(nn.Module):
    """Rows of a frozen table of embeddings that are trained in place of the table's own: those of new delimiters.

    Args:
        ids: of the rows.
        rows_RD: where they begin.
    """

    def __init__(self, ids: tuple[int, ...], rows_RD: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids_R", torch.tensor(ids), persistent=False)
        self.weight = nn.Parameter(rows_RD)

    def forward(self, ids_S: Tensor, tokens_SD: Tensor) -> Tensor:
        """The embeddings, those of the rows in place."""
        which_SR = self._which(ids_S)
        own_SD = F.embedding(which_SR.to(torch.int64).argmax(-1), self.weight)  # a product would be autocast
        return torch.where(which_SR.any(-1, keepdim=True), own_SD, tokens_SD)

    @torch.no_grad()
    def add_gradients(self, ids_T: Tensor, grad_TD: Tensor) -> None:
        """Add to the rows' gradient what the embeddings of these ids were given."""
        grad_RD = self._which(ids_T).to(grad_TD.dtype).T @ grad_TD
        self.weight.grad = grad_RD if self.weight.grad is None else self.weight.grad + grad_RD

    def _which(self, ids_S: Tensor) -> Tensor:
        return ids_S[..., None] == cast(Tensor, self.ids_R)


def add_adapter(layer: nn.Module, adapter: Adapter) -> None:
    """Stand an adapter beside a linear layer."""
    layer.add_module(NAME, adapter)
    layer.register_forward_hook(_added)


def add_rows(table: nn.Embedding, rows: TrainedRows) -> None:
    """Train these rows of a table."""
    table.add_module(ROWS, rows)
    table.register_forward_hook(_replaced)


def _added(layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
    return out + cast(Adapter, layer.lora)(inputs[0])


def _replaced(table: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
    return cast(TrainedRows, table.rows)(inputs[0], out)


def adapter_of(layer: nn.Module) -> Adapter | None:
    """The adapter beside a layer, if there is one."""
    return cast("Adapter | None", layer._modules.get(NAME))


def rows_of(table: nn.Module) -> TrainedRows | None:
    """The trained rows of a table, if there are any."""
    return cast("TrainedRows | None", table._modules.get(ROWS))


def look_up(table: nn.Embedding, ids_T: Tensor) -> Tensor:
    """Token embeddings (T, D) as a leaf that takes gradients, where the table or rows of it are trained."""
    rows, tokens_TD = rows_of(table), F.embedding(ids_T, table.weight.detach())
    if rows is not None:
        tokens_TD = rows(ids_T, tokens_TD).detach()
    return tokens_TD.requires_grad_(rows is not None or table.weight.requires_grad)


@torch.no_grad()
def add_token_gradients(table: nn.Embedding, ids_T: Tensor, grad_TD: Tensor) -> None:
    """Add the gradients of embeddings that were looked up to those of the table, or of its trained rows, in place."""
    rows, weight = rows_of(table), table.weight
    if rows is not None:
        rows.add_gradients(ids_T, grad_TD)
        return
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    if weight.device.type == "cpu":
        weight.grad.scatter_add_(0, ids_T[:, None].expand_as(grad_TD), grad_TD)
    else:  # the one that gives the same bits each time on a GPU
        weight.grad.index_put_((ids_T,), grad_TD, accumulate=True)


def delta(layers: tuple[nn.Module, ...], z_SD: Tensor) -> Tensor | None:
    """What the adapters of layers side by side add to their joint output; None where none has one."""
    adapters = [adapter_of(layer) for layer in layers]
    if not any(adapters):
        return None
    blank = z_SD.new_zeros(())
    parts = [
        adapter(z_SD) if adapter else blank.expand(*z_SD.shape[:-1], len(cast(Tensor, layer.weight)))
        for adapter, layer in zip(adapters, layers, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weights with its adapter's product, arranged as its own: of one that is read past its forward."""
    weight, adapter = cast(Tensor, layer.weight), adapter_of(layer)
    if adapter is None:
        return weight
    product = adapter.product()
    return weight + (product.T if isinstance(layer, Conv1D) else product)


def is_adapted(module: nn.Module) -> bool:
    """True of a model whose adapters are trained, and whose other weights are its start's."""
    return any(isinstance(part, Adapter) for part in module.modules())


def dropped_inputs(backbone: nn.Module) -> int:
    """Inputs of a block's adapters together, on the mean, of each of which dropout makes a copy; 0 without a dropout."""
    adapters = [part for part in backbone.modules() if isinstance(part, Adapter) and part.dropout.p]
    return sum(adapter.down_KD.shape[1] for adapter in adapters) // int(getattr(backbone.config, "num_hidden_layers", 1))


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Add every adapter to its layer's weights, and put trained rows into their table; none is left."""
    for layer in [part for part in module.modules() if adapter_of(part) or rows_of(part)]:
        weight = cast(Tensor, layer.weight)
        if rows := rows_of(layer):
            weight[cast(Tensor, rows.ids_R)] = rows.weight
        else:
            weight.copy_(weight_of(layer))
        for name, hook in ((NAME, _added), (ROWS, _replaced)):
            layer._modules.pop(name, None)
            for key in [key for key, own in layer._forward_hooks.items() if own is hook]:
                del layer._forward_hooks[key]
