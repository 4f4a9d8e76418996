"""Fully sharded data parallelism (FSDP2) and sharded checkpoints, for a model that one device does not hold.

A transformer's block is one group of parameters, and what is around the blocks is another. Of every parameter each rank owns
consecutive rows; a group is gathered when a pass needs it. Gradients are summed over ranks, not averaged (distributed.py).

Two ways to synchronise a step of M micro-batches and G groups, and the collectives that each costs:

    "step"          parameters gathered once and full gradients held: G all-gathers, G reduce-scatters
    "micro_batch"   nothing full is held between passes: G reduce-scatters a micro-batch, and its all-gathers

A sharded checkpoint is a file a rank, of whole tensors and of the rows of cut ones:

    GROUP-00001-of-00002.safetensors     "first_rows" in its metadata names the tensors that are cut, as JSON

Any number of ranks can read what any number wrote: a rank takes the rows that it owns, from whichever files hold them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.model.outline import blocks_of
from pipeline_lib.train.distributed import Ranks, sum_over_ranks

Synchronise = Literal["auto", "step", "micro_batch"]  # "auto", where no launcher has settled it: "step"

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # as safetensors names them


def shard(backbone: nn.Module, ranks: Ranks, synchronise: Synchronise) -> Callable[[bool], None]:
    """Cut the parameters of a transformer over the ranks; its forward has to be called from its top.

    Args:
        backbone: an outline (`fill` gives it weights), or with its whole weights on this rank's device, the same on every
            rank; parameters that every rank keeps whole, the logit scale, stand outside of it.
        ranks: at least two.
        synchronise: "step" or "micro_batch", see above.

    Returns:
        To be called before each backward pass with whether it is the last one of its step.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    groups = [*blocks_of(backbone), backbone]
    full = synchronise != "micro_batch"
    for group in groups:
        sharded = cast(FSDPModule, fully_shard(group, mesh=mesh, reshard_after_forward=not full))
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def before_backward(is_last: bool) -> None:
        root = cast(FSDPModule, backbone)
        root.set_requires_gradient_sync(is_last or not full)
        root.set_reshard_after_backward(is_last or not full)
        root.set_is_last_backward(is_last or not full)

    return before_backward


def cut_again(backbone: nn.Module) -> None:
    """Let go of gathered weights, which a forward pass without a backward one leaves under "step"; no collective."""
    for module in backbone.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Gather all rows of a tensor that may be cut over the ranks; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds: all of one that is not cut. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The first of the rows that this rank holds."""
    if not isinstance(tensor, DTensor):
        return 0
    rank, size = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
    height = -(-tensor.shape[0] // size)  # as torch.chunk cuts, the last ones may get less or nothing
    return min(rank * height, tensor.shape[0])


def write_whole(tensors: Mapping[str, Tensor], path: Path | None) -> None:
    """One safetensors file of whole tensors, each of them gathered when its turn comes; every rank has to call.

    The same bytes as `save_file` writes, which would want all tensors in memory.

    Args:
        path: of the rank that writes; None on all others.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].dtype.itemsize
        shape, dtype = list(tensors[name].shape), DTYPES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") if path else nullcontext() as file:
        if file:
            file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = whole(tensors[name].detach())
            if file:
                file.write(memoryview(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()))


@torch.no_grad()
def fill(backbone: nn.Module, weights: Iterable[tuple[str, Any]], device: torch.device) -> None:
    """Give an outline whose parameters are cut its storage on a device, and each rank its own rows of these weights.

    Args:
        backbone: on the meta device but for its buffers, and sharded.
        weights: by name, each once, whole or as what gives rows when it is sliced; only a rank's own rows are read.
    """
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    ties = _ties(backbone)
    backbone.to_empty(device=device)
    for module, attribute, (first, own_name) in ties:  # emptied apart, they would be trained apart
        setattr(module, attribute, getattr(first, own_name))
    for name, buffer in backbone.named_buffers():
        buffer.copy_(buffers[name])
    missing = dict(backbone.named_parameters())
    for name, rows in weights:
        weight = missing.pop(name)
        begin = first_row(weight)
        if len(own(weight)):
            own(weight).copy_(rows[begin : begin + len(own(weight))])
    assert not missing, f"no weights for {sorted(missing)[:3]}"


def _ties(backbone: nn.Module) -> list[tuple[nn.Module, str, tuple[nn.Module, str]]]:
    """Parameters that are another module's too: where each stands again, and where it stood first."""
    first: dict[int, tuple[nn.Module, str]] = {}
    found = []
    for module in backbone.modules():
        for attribute, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) in first and first[id(weight)][0] is not module:
                found.append((module, attribute, first[id(weight)]))
            first.setdefault(id(weight), (module, attribute))
    return found


def deviation(weight: Tensor, ranks: Ranks) -> float:
    """Standard deviation of a parameter's values, whole or cut; the same on every rank."""
    values = own(weight.detach()).double()
    if not isinstance(weight, DTensor):
        return float(weight.detach().float().std())
    n, total, squares = sum_over_ranks([values.numel(), float(values.sum()), float(values.square().sum())], ranks)
    return math.sqrt(max(0.0, squares - total * total / n) / max(1.0, n - 1))


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The joint 2-norm of whole and cut gradients; the same on every rank."""
    cut = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    rest = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [whole(nn.utils.get_total_norm(group)) for group in (cut, rest) if group]
    return torch.linalg.vector_norm(torch.stack(norms))


Like = Callable[[str], Tensor | None]


class LocalShard:
    """One rank's share of a group of tensors: copies in main memory, which training does not change any more."""

    def __init__(self, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
        self.name = f"{ranks.rank + 1:05d}-of-{ranks.size:05d}"
        mine = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
        self.first_rows = {name: first_row(tensor) for name, tensor in mine.items() if len(own(tensor))}
        held = {name: tensor for name, tensor in tensors.items() if name not in mine}
        taken = {name: mine[name] for name in self.first_rows} | {name: held[name] for name in _dealt(held, ranks)}
        self.tensors = {name: _to_host(own(tensor.detach())) for name, tensor in taken.items()}
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)  # the copies run side by side until here

    def save(self, folder: Path, group: str) -> None:
        """Write the file; nothing where there is nothing to write."""
        if self.tensors:
            metadata = {"first_rows": json.dumps(self.first_rows, sort_keys=True)}
            save_file(self.tensors, folder / f"{group}-{self.name}.safetensors", metadata)


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in main memory: from a GPU into pinned memory, several times as fast, and still on its way."""
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True).contiguous()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _dealt(tensors: Mapping[str, Tensor], ranks: Ranks) -> list[str]:
    """The tensors that this rank writes of those that every rank holds: the largest first, to whom has the least."""
    load = [0] * ranks.size
    mine = []
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        taker = load.index(min(load))
        load[taker] += tensors[name].nbytes
        if taker == ranks.rank:
            mine.append(name)
    return mine


class ShardedTensors:
    """A group of tensors in the files of all ranks that wrote it."""

    def __init__(self, folder: Path, group: str) -> None:
        self.paths = sorted(folder.glob(f"{group}-*-of-*.safetensors"))
        self._places: dict[str, list[tuple[int, Path]]] = {}
        for path in self.paths:
            with _opened(path) as file:
                first_rows = json.loads((file.metadata() or {}).get("first_rows", "{}"))
                for name in file.keys():  # noqa: SIM118 - no mapping
                    self._places.setdefault(name, []).append((first_rows.get(name, 0), path))

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._places)

    def read(self, like: Like = lambda name: None) -> dict[str, Tensor]:
        """Read all tensors, whole; or cut as the tensor is that `like` returns for a name, where the shapes are the same.

        Raises:
            CorruptArtifact: a file cannot be read, or rows are missing.
        """
        with ExitStack() as stack:
            files = {path: stack.enter_context(_opened(path)) for path in self.paths}
            return {name: self._read(name, like(name), files) for name in sorted(self._places)}

    def _read(self, name: str, like: Tensor | None, files: dict[Path, Any]) -> Tensor:
        places = sorted(self._places[name], key=lambda place: place[0])
        shape = files[places[-1][1]].get_slice(name).get_shape()
        n_rows = places[-1][0] + shape[0] if shape else 0
        if isinstance(like, DTensor) and list(like.shape) == [n_rows, *shape[1:]]:
            cut = torch.zeros_like(like)
            if len(own(cut)):
                own(cut).copy_(self._rows(name, places, files, first_row(like), len(own(like))))
            return cut
        if len(places) == 1:
            return files[places[0][1]].get_tensor(name)
        return self._rows(name, places, files, 0, n_rows)

    def _rows(self, name: str, places: list[tuple[int, Path]], files: dict[Path, Any], begin: int, count: int) -> Tensor:
        found = []
        for first, path in places:
            rows = files[path].get_slice(name)
            low, high = max(begin - first, 0), min(begin + count - first, rows.get_shape()[0])
            if low < high:
                found.append(rows[low:high])
        read = sum(len(piece) for piece in found)
        if read != count:
            raise CorruptArtifact(f"{name}: {read} of the rows {begin} to {begin + count} are in {len(self.paths)} files")
        return torch.cat(found)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CorruptArtifact(f"{path}: no readable safetensors file: {error}") from error
