"""A state's tensors as several ranks write and read them: each rank a file of whole tensors and of rows of cut ones.

    GROUP-00001-of-00002.safetensors     "first_rows" in its metadata names the tensors that are cut, as JSON

Any number of ranks can read what any number wrote: of a cut tensor a rank takes the rows that it owns, from whichever files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.sharding import first_row, own

Like = Callable[[str], Tensor | None]


class Piece:
    """What one rank writes of a group of tensors: copies in main memory, which training does not change any more."""

    def __init__(self, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
        self.name = f"{ranks.rank + 1:05d}-of-{ranks.size:05d}"
        mine = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
        self.first_rows = {name: first_row(tensor) for name, tensor in mine.items() if len(own(tensor))}
        held = {name: tensor for name, tensor in tensors.items() if name not in mine}
        taken = {name: mine[name] for name in self.first_rows} | {name: held[name] for name in _dealt(held, ranks)}
        self.tensors = {name: own(tensor.detach()).to("cpu", copy=True).contiguous() for name, tensor in taken.items()}

    def save(self, folder: Path, group: str) -> None:
        """Write the file; nothing where there is nothing to write."""
        if self.tensors:
            metadata = {"first_rows": json.dumps(self.first_rows, sort_keys=True)}
            save_file(self.tensors, folder / f"{group}-{self.name}.safetensors", metadata)


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


class Pieces:
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
        """Of all tensors."""
        return set(self._places)

    def read(self, like: Like = lambda name: None) -> dict[str, Tensor]:
        """All tensors, whole; or cut as the tensor is that `like` returns for a name, where the shapes are the same.

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
