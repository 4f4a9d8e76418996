"""Rows of token ids as training reads them: memory-mapped, by number, whatever part and file they lie in.

The rows of one split and view lie in one part a generation: "train-docstring", then "train-docstring@1", ... A generation's
rows come after those of all earlier ones, so that growth leaves every number as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.artifact import Artifact, Part

SHARD_SUFFIX = ".arrow"


def part_label(split: str, view: str, generation: int) -> str:
    """What the part of one generation's rows is called."""
    return f"{split}-{view}@{generation}" if generation else f"{split}-{view}"


def labels_of(shards: Artifact, split: str) -> list[str]:
    """The labels of a split's data sets, e.g. "train-docstring", whatever generations they have."""
    return sorted({name for part in shards.manifest.parts if (name := _parse(part.label)[0]).startswith(f"{split}-")})


def parts_of(shards: Artifact, label: str) -> list[Part]:
    """The parts of a data set, in the order of their generations.

    Raises:
        UserError: there are none; the message lists those that there are.
    """
    found = [part for part in shards.manifest.parts if _parse(part.label)[0] == label]
    return sorted(found, key=lambda part: _parse(part.label)[1]) or [shards.part(label)]


def _parse(label: str) -> tuple[str, int]:
    name, _, generation = label.partition("@")
    return name, int(generation or 0)


@dataclass(frozen=True)
class TokenRows:
    """Some rows of a dataset: ids are int32 whatever the files hold, delimiters included; hashes are int64.

    A row's hard negatives are a list each; shards that hold none give empty ones.
    """

    x_ids: list[NDArray[np.int32]]
    y_ids: list[NDArray[np.int32]]
    x_hash: NDArray[np.int64]
    y_hash: NDArray[np.int64]
    document_hash: NDArray[np.int64]
    negative_ids: list[list[NDArray[np.int32]]]
    negative_hashes: list[NDArray[np.int64]]


class TokenDataset:
    """The memory-mapped rows of one split and view; a file is mapped when one of its rows is first asked for."""

    def __init__(self, paths: list[Path], rows: list[int]) -> None:
        self._paths = paths
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def open(cls, shards: Artifact, label: str) -> TokenDataset:
        """All generations of that label, e.g. "train-docstring"; reads nothing but the manifest.

        Raises:
            UserError: there is no such part.
        """
        files = [
            (shards.path_of(part, file), file.rows or 0)
            for part in parts_of(shards, label)
            for file in sorted(part.files, key=lambda file: file.name)
            if file.name.endswith(SHARD_SUFFIX)
        ]
        return cls([path for path, _ in files], [rows for _, rows in files])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: NDArray[np.integer]) -> TokenRows:
        """The rows of these numbers, in their order.

        Raises:
            IndexError: a number is outside 0 ... len - 1.
        """
        shard_of, local = self._places(indices)
        shards = {number: self._shard(number) for number in np.unique(shard_of).tolist()}
        hashes = np.empty((3, len(local)), dtype=np.int64)
        for number, shard in shards.items():
            here = np.flatnonzero(shard_of == number)
            for row, column in zip(hashes, shard.hashes, strict=True):
                row[here] = column[local[here]]
        places = list(zip(shard_of.tolist(), local.tolist(), strict=True))
        return TokenRows(
            [shards[number].x.row(i) for number, i in places],
            [shards[number].y.row(i) for number, i in places],
            *(hashes[0], hashes[1], hashes[2]),
            [shards[number].negatives.ids(i) for number, i in places],
            [shards[number].negatives.hashes(i) for number, i in places],
        )

    def pair_ids(self, indices: NDArray[np.integer]) -> list[str]:
        """The ids of the pairs of these rows, in their order.

        Raises:
            IndexError: a number is outside 0 ... len - 1.
        """
        places = zip(*(part.tolist() for part in self._places(indices)), strict=True)
        return [self._shard(number).pair_ids[i].as_py() for number, i in places]

    def _places(self, indices: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The file of each row, and the row's number in it."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a dataset of {len(self)}")
        shard_of = np.searchsorted(self._starts, wanted, side="right") - 1
        return shard_of, wanted - self._starts[shard_of]

    def _shard(self, number: int) -> _Shard:
        if number not in self._shards:
            self._shards[number] = _Shard(self._paths[number])
        return self._shards[number]


class _Lists:
    """A column of lists, as its values and the places where each begins."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values = column.values.to_numpy(zero_copy_only=True)
        self.offsets = column.offsets.to_numpy(zero_copy_only=True)

    def row(self, index: int) -> NDArray[np.int32]:
        return self.values[self.offsets[index] : self.offsets[index + 1]].astype(np.int32)


class _Negatives:
    """The hard negatives of a file's rows; of a file without them, none."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.there = "negative_ids" in batch.schema.names
        if self.there:
            nested = batch["negative_ids"]
            self.offsets = nested.offsets.to_numpy(zero_copy_only=True)
            self.lists = _Lists(nested.values)
            self.hash_values = batch["negative_hashes"].values.to_numpy(zero_copy_only=True)

    def ids(self, index: int) -> list[NDArray[np.int32]]:
        return [self.lists.row(i) for i in range(*self._bounds(index))]

    def hashes(self, index: int) -> NDArray[np.int64]:
        return self.hash_values[slice(*self._bounds(index))] if self.there else np.empty(0, np.int64)

    def _bounds(self, index: int) -> tuple[int, int]:
        return (int(self.offsets[index]), int(self.offsets[index + 1])) if self.there else (0, 0)


class _Shard:
    """One mapped file."""

    def __init__(self, path: Path) -> None:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.x, self.y = _Lists(batch["x_ids"]), _Lists(batch["y_ids"])
        self.negatives = _Negatives(batch)
        self.pair_ids = batch["pair_id"]
        self.hashes = [batch[name].to_numpy() for name in ("x_hash", "y_hash", "document_hash")]
