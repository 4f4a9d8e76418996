"""Token dataset: rows of token ids as training reads them, memory-mapped, by number, whatever part and file they lie in.

The rows of one split and view lie in one part a generation: "train-docstring", then "train-docstring@1", ... A generation's
rows come after those of all earlier ones, so that growth leaves every number as it is.

Files of a bucket come through a prefetching LRU cache: several are fetched at a time, before they are asked for.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import File, Part

T = TypeVar("T")

FETCHES = 16  # at a time: with 50 ms of latency, 320 files a second


class PrefetchingCache(Generic[T]):
    """Numbered things with a known size, of which some are here or on their way.

    Args:
        fetch: brings one; called in threads.
        give_up: takes one away again.
        sizes: bytes of each.
        max_bytes: room for those that are here; more is taken only for what is needed now.
    """

    def __init__(self, fetch: Callable[[int], T], give_up: Callable[[int], None], sizes: Sequence[int], max_bytes: int) -> None:
        self._fetch, self._give_up = fetch, give_up
        self._sizes, self._max_bytes = sizes, max_bytes
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._here: dict[int, Future[T]] = {}
        self._needed_until: dict[int, int] = {}  # the last step known to need it
        self._bytes = 0

    def want(self, numbers: Iterable[int], step: int, now: int) -> bool:
        """Start to fetch what a step needs. Returns whether there was room without giving up what is needed until then.

        Args:
            step: that needs them.
            now: the step that is being read: what was last needed before it may go.
        """
        with self._lock:
            for number in numbers:
                if number not in self._here and not self._make_room(self._sizes[number], now) and step > now:
                    return False
                self._start(number)
                self._needed_until[number] = max(step, self._needed_until.get(number, step))
        return True

    def get(self, number: int) -> T:
        """The thing itself; waits for it where it is not here. Raises what `fetch` raises, and tries again the next time."""
        with self._lock:
            waiting = self._start(number)
        try:
            return waiting.result()
        except Exception:
            with self._lock:
                self._forget(number)
            raise

    def _start(self, number: int) -> Future[T]:
        if number not in self._here:
            self._here[number] = self._pool.submit(self._fetch, number)
            self._bytes += self._sizes[number]
        return self._here[number]

    def _make_room(self, size: int, now: int) -> bool:
        for number in sorted(self._here, key=lambda number: self._needed_until.get(number, -1)):
            if self._bytes + size <= self._max_bytes or self._needed_until.get(number, -1) >= now:
                break
            if self._here[number].done():
                self._forget(number)
                self._give_up(number)
        return self._bytes + size <= self._max_bytes

    def _forget(self, number: int) -> None:
        if self._here.pop(number, None) is not None:
            self._bytes -= self._sizes[number]
            self._needed_until.pop(number, None)


SHARD_SUFFIX = ".arrow"
CHUNK_BYTES = 128 * 1024  # of a file, asked for at once: 200 rows of 600 bytes
ASKED_AGAIN = 256  # calls later, in case the kernel has dropped it


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
    """The memory-mapped rows of one split and view.

    A file is mapped when one of its rows is first asked for. A disk's stay so: the kernel keeps of them what is in use. A
    bucket's are fetched and hashed first, and give way to others.
    """

    def __init__(self, paths: list[Path], rows: list[int]) -> None:
        self._paths = paths
        self._fetched: PrefetchingCache[_Shard] | None = None
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def open(cls, shards: Artifact, label: str, fetched_bytes: int = 16 * 1024**3) -> TokenDataset:
        """All generations of that label, e.g. "train-docstring"; reads nothing but the manifest.

        Args:
            fetched_bytes: room for a bucket's files on this machine.

        Raises:
            UserError: there is no such part.
        """
        files = [
            (part, file)
            for part in parts_of(shards, label)
            for file in sorted(part.files, key=lambda file: file.name)
            if file.name.endswith(SHARD_SUFFIX)
        ]
        dataset = cls([shards.root / part.folder / file.name for part, file in files], [file.rows or 0 for _, file in files])
        if shards.bucket is not None:
            sizes = [file.bytes for _, file in files]
            dataset._fetched = PrefetchingCache(
                lambda number: _fetched_shard(shards, *files[number]),
                lambda number: dataset._paths[number].unlink(missing_ok=True),
                sizes,
                fetched_bytes,
            )
        return dataset

    def want(self, indices: NDArray[np.integer], step: int, now: int) -> bool:
        """Start to fetch the files of the rows of a step, or to read them from a disk; see `PrefetchingCache.want`."""
        shard_of, local = self._places(indices)
        files = np.unique(shard_of).tolist()
        if self._fetched is not None:
            return self._fetched.want(files, step, now)
        for number in files:
            self._shard(number).need(local[shard_of == number])
        return True

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
            shard.need(local[here])
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
        if self._fetched is not None:
            return self._fetched.get(number)
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
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # a disk may be set to read 8 MB around each fault
        buffer = pa.py_buffer(self._map)
        self._address = buffer.address
        batch = pa.ipc.open_file(pa.BufferReader(buffer)).get_batch(0)
        self.x, self.y = _Lists(batch["x_ids"]), _Lists(batch["y_ids"])
        self.negatives = _Negatives(batch)
        self.pair_ids = batch["pair_id"]
        self.hashes = [batch[name].to_numpy() for name in ("x_hash", "y_hash", "document_hash")]

        self._near: dict[int, int] = {}  # chunk of the file to the call of `need` that asked for it last
        self._calls = 0

    def need(self, rows: NDArray[np.int64]) -> None:
        """Ask the disk for what lies around these rows, without waiting: a block's rows are near each other in every column."""
        self._calls += 1
        chunks: set[int] = set()
        for lists in (self.x, self.y):
            chunks |= self._chunks(lists.offsets, rows, rows + 1)
            chunks |= self._chunks(lists.values, lists.offsets[rows], lists.offsets[rows + 1] - 1)
        for column in self.hashes:
            chunks |= self._chunks(column, rows, rows)
        for chunk in chunks:
            if self._near.get(chunk, -ASKED_AGAIN) + ASKED_AGAIN <= self._calls:
                self._near[chunk] = self._calls
                self._map.madvise(mmap.MADV_WILLNEED, chunk * CHUNK_BYTES, CHUNK_BYTES)

    def _chunks(self, column: NDArray[Any], first: NDArray[np.integer], last: NDArray[np.integer]) -> set[int]:
        start = column.ctypes.data - self._address
        places = np.concatenate([first, last]).astype(np.int64)
        return set(np.unique((start + places * column.itemsize) // CHUNK_BYTES).tolist())


def _fetched_shard(shards: Artifact, part: Part, file: File) -> _Shard:
    """A bucket's file, mapped; another trainer process may give it up between its fetch and that, though hardly thrice."""
    for _ in range(2):
        try:
            return _Shard(shards.path_of(part, file))
        except FileNotFoundError:
            continue
    return _Shard(shards.path_of(part, file))
