"""Build of an index: from vectors on disk to its files, in bounded memory.

Shards of consecutive rows are made by as many processes as there are, of one trained index, and merged on disk; a batch of rows
is the same whatever the shards are, so that neither their number nor that of the processes changes a byte. A graph (HNSW) is
one: it is built in one process, on one thread, with its vectors in memory.

N rows, D width.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline_lib.config.data import WorkersConfig
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.index.factories import (
    BLOCKS_FILE,
    EXACT_FILE,
    INDEX_FILE,
    LISTS_FILE,
    binary_codes,
    faiss_module,
    inverted_lists,
    lists_of,
    rows_per_block,
)
from pipeline_lib.index.filled import Read, filled_index, one_thread
from pipeline_lib.index.recipes import RESCORED, Recipe, choose, family, recipe_for
from pipeline_lib.runtime.workers import where_it_pays
from pipeline_lib.store.store import Store

if TYPE_CHECKING:
    import faiss

ADDED_ROWS = 8_192  # added at a time, the same whatever the shards are: the last bits of a matrix product depend on it
SHARD_BYTES = 256 * 1024**2  # of vectors
SAMPLE_BYTES = 1024**3  # of vectors to train by, at most
SAMPLE_ROWS = 65_536  # at least, where there are as many: 256 a centroid of a product quantizer
ROTATION_ROUNDS, ROTATION_POINTS = 8, 10_240  # of OPQ; its codebooks only guide it, and FAISS's 50 of 65,536 take minutes
CODE_ROUNDS, CODE_POINTS = 10, 64  # of each codebook's k-means, points a centroid; refining makes up for what is lost
ROW_BYTES = 8  # of a row's number in an inverted list
CENTROIDS = 256  # of a product quantizer


@dataclass(frozen=True)
class Vectors:
    """What an index is made of: float32 vectors of length 1, read slice by slice.

    Attributes:
        read: vectors (n, D) from a row on, as many as the step of `starts` or to the end.
        starts: the first row of each slice, up to the number of all rows.
    """

    read: Read
    starts: range

    @property
    def n(self) -> int:
        """N."""
        return self.starts.stop

    def slices(self) -> Iterator[np.ndarray]:
        """All of them, in order."""
        return (np.ascontiguousarray(self.read(start), np.float32) for start in self.starts)


def write_files(vectors: Vectors, config: IndexConfig, folder: Path, store: Store) -> dict[str, Any]:
    """Write the index's files; returns what index.json says of them.

    Args:
        folder: gets them.
        store: gives the room for what is taken away again: the vectors once more, in 2 or 4 bytes a coordinate, and the shards.

    Raises:
        UserError: FAISS does not know the factory, or no kind fits the budget.
    """
    d = vectors.read(0).shape[1]
    recipe = planned(config, vectors.n, d)
    facts: dict[str, Any] = {"kind": recipe.kind, "factory": recipe.factory or recipe.kind, "files": [INDEX_FILE]}
    facts["parameters"] = {name: value for name, value in vars(recipe).items() if name not in ("kind", "factory") and value}
    if recipe.kind == "flat":
        _write_flat(vectors, d, folder)
    elif recipe.kind in ("hnsw", "given"):
        index = filled_index(vectors.read, vectors.starts, recipe.factory, recipe.ef_construction)
        faiss_module().write_index(index, str(folder / INDEX_FILE))
        facts["kind"] = family(recipe.factory)
        facts["parameters"] |= {"lists": lists_of(index)} if lists_of(index) else {}
    else:
        room = store.scratch("index")
        try:
            facts |= _write_shards(vectors, d, recipe, config, folder, _Room(store, room, config))
        finally:
            shutil.rmtree(room)
    return facts | {"dim": d}


def on_gpus(index: faiss.Index, work: Callable[[faiss.Index], None]) -> faiss.Index:
    """Train or fill an index on this machine's GPUs, where FAISS is built for them (faiss-gpu) and there are any; else here."""
    faiss = faiss_module()
    if getattr(faiss, "get_num_gpus", int)() == 0:
        work(index)
        return index
    there = faiss.index_cpu_to_all_gpus(index)
    work(there)
    return faiss.index_gpu_to_cpu(there)


@dataclass(frozen=True)
class _Room:
    store: Store
    folder: Path
    workers: WorkersConfig


def planned(config: IndexConfig, n: int, d: int) -> Recipe:
    """What the configuration asks for; a given factory string keeps its say."""
    if config.kind == "auto" and config.factory != "Flat":
        return Recipe("given", config.factory)
    kind = choose(n, d, config.memory_budget_bytes) if config.kind == "auto" else config.kind
    recipe = recipe_for(kind, n, d, config.links, config.lists, config.pq_bytes)
    if recipe.kind == "hnsw" and config.ef_construction:
        recipe = replace(recipe, ef_construction=config.ef_construction)
    return recipe


def _write_flat(vectors: Vectors, d: int, folder: Path) -> None:
    """The bytes that FAISS itself writes, a slice at a time."""
    faiss = faiss_module()
    with (folder / INDEX_FILE).open("wb") as out:
        out.write(_head(faiss.IndexFlatIP(d), vectors.n, vectors.n * d))
        for vectors_ND in vectors.slices():
            out.write(vectors_ND.tobytes())


def _head(index: Any, n: int, items: int) -> bytes:
    """An empty index as FAISS writes it, up to its codes, which come last: with the rows and items that are to follow."""
    faiss = faiss_module()
    index.ntotal = n
    serialize = faiss.serialize_index_binary if isinstance(index, faiss.IndexBinary) else faiss.serialize_index
    content: bytes = serialize(index).tobytes()
    assert content.endswith(bytes(8)), "an empty index no longer ends with the number of its codes"
    return content[:-8] + items.to_bytes(8, "little")


def _write_shards(vectors: Vectors, d: int, recipe: Recipe, config: IndexConfig, folder: Path, room: _Room) -> dict[str, Any]:
    """Vectors on disk, one training, the shards, and their merging."""
    kept = recipe.kind in RESCORED
    place = (folder if kept else room.folder) / EXACT_FILE
    dtype = np.dtype(config.exact if kept else "float32")
    mean_D = write_exact(vectors, d, place, dtype)
    exact_ND = np.memmap(place, dtype, "r", shape=(vectors.n, d))
    facts: dict[str, Any] = {}
    if kept:
        write_digests(exact_ND, folder / BLOCKS_FILE)
        facts |= {"exact": dtype.name, "files": [INDEX_FILE, EXACT_FILE, BLOCKS_FILE]}
    if recipe.kind == "binary":
        facts["centre"] = mean_D.tolist()
    else:
        with one_thread():
            faiss_module().write_index(_trained(recipe, exact_ND), str(room.folder / "trained"))
    rows = max(ADDED_ROWS, SHARD_BYTES // (4 * d) // ADDED_ROWS * ADDED_ROWS)
    whole = Shard(str(room.folder), str(place), dtype.name, d, recipe.kind, range(vectors.n), facts.get("centre"))
    tasks = [whole._replace(rows=whole.rows[first : first + rows]) for first in range(0, vectors.n, rows)]
    _run(tasks, room)
    shards = [task.place for task in tasks]
    if recipe.kind in ("sq8", "binary"):
        _join_codes(recipe.kind, d, vectors.n, shards, room.folder / "trained", folder / INDEX_FILE)
    else:
        merge_lists(room.folder / "trained", shards, folder)
        facts["files"] = [LISTS_FILE, *facts.get("files", [INDEX_FILE])]
    return facts


def write_exact(vectors: Vectors, d: int, place: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """Write all vectors in their order; returns their mean (D,)."""
    total_D = np.zeros(d)
    with place.open("wb") as out:
        for vectors_ND in vectors.slices():
            out.write(vectors_ND.astype(dtype).tobytes())
            total_D += vectors_ND.sum(axis=0, dtype=np.float64)
    return (total_D / vectors.n).astype(np.float32)


def write_digests(exact_ND: np.ndarray, place: Path) -> None:
    """The sha256 of each block of rows: what a search reads is verified when it is first read, and not all at the start."""
    step = rows_per_block(exact_ND)
    with place.open("wb") as out:
        for first in range(0, len(exact_ND), step):
            out.write(hashlib.sha256(exact_ND[first : first + step].tobytes()).digest())


def _trained(recipe: Recipe, exact_ND: np.ndarray) -> faiss.Index:
    """An empty index that knows its lists, its codes and its rotation."""
    faiss = faiss_module()
    n, d = exact_ND.shape
    index = faiss.index_factory(d, recipe.factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter, rotation.max_train_points = ROTATION_ROUNDS, ROTATION_POINTS
        rotation.niter_pq_0, rotation.niter_pq = CODE_ROUNDS, 2
    if inverted := inverted_lists(index):
        inverted.cp.min_points_per_centroid = 1  # few rows are no reason for a warning a list
        if hasattr(inverted, "pq"):
            codes = inverted.pq.cp
            codes.min_points_per_centroid, codes.niter, codes.max_points_per_centroid = 1, CODE_ROUNDS, CODE_POINTS
    wanted = max(SAMPLE_ROWS, 64 * recipe.lists)
    sample = min(n, wanted, max(1, SAMPLE_BYTES // (4 * d)))
    sample_ND = np.asarray(exact_ND[np.arange(sample, dtype=np.int64) * n // sample], np.float32)
    if n < CENTROIDS:  # of fewer there is nothing to learn, which is no reason to fail
        sample_ND = np.resize(sample_ND, (CENTROIDS, d))
    return on_gpus(index, lambda there: there.train(sample_ND))


def _run(shards: Sequence[Shard], room: _Room) -> None:
    """Make the shards, in as many processes as there are; a store in a bucket has no folder that other machines see."""
    config = room.workers.model_copy(update={"scheduler": None}) if room.store.remote else room.workers
    with where_it_pays(config, room.store, len(shards), is_much=True) as workers:
        workers.run_all("index", make_shard, [(shard,) for shard in shards], lambda index, said: None)


class Shard(NamedTuple):
    """A task of a worker process: paths and numbers alone.

    Attributes:
        room: folder of the trained index and of the shards.
        exact: file of all vectors.
        centre: see `OpenIndex`.
    """

    room: str
    exact: str
    dtype: str
    d: int
    kind: str
    rows: range
    centre: list[float] | None = None

    @property
    def place(self) -> Path:
        """The shard's file."""
        return Path(self.room, f"shard-{self.rows.start}")

    def batches(self) -> Iterator[tuple[range, np.ndarray]]:
        """Rows that are added together, and their vectors."""
        exact_ND = np.memmap(self.exact, self.dtype, "r").reshape(-1, self.d)
        for first in range(0, len(self.rows), ADDED_ROWS):
            rows = self.rows[first : first + ADDED_ROWS]
            yield rows, np.asarray(exact_ND[rows.start : rows.stop], np.float32)


def make_shard(shard: Shard) -> str:
    """Write a shard: an index of inverted lists, or the codes of its rows one after another; any process may do it again."""
    faiss = faiss_module()

    def fill(there: Any) -> None:
        for rows, vectors_ND in shard.batches():
            there.add_with_ids(vectors_ND, np.arange(rows.start, rows.stop, dtype=np.int64))

    with one_thread():
        if shard.kind == "binary":
            centre_D = np.array(shard.centre, np.float32)
            _write_blocks(shard, lambda vectors_ND: binary_codes(vectors_ND, centre_D))
            return str(shard.place)
        index = faiss.read_index(str(Path(shard.room, "trained")))
        if shard.kind == "sq8":
            _write_blocks(shard, index.sa_encode)
        else:
            faiss.write_index(on_gpus(index, fill), str(shard.place))
    return str(shard.place)


def _write_blocks(shard: Shard, encode: Callable[[np.ndarray], np.ndarray]) -> None:
    with shard.place.open("wb") as out:
        for _, vectors_ND in shard.batches():
            out.write(encode(vectors_ND).tobytes())


def _join_codes(kind: str, d: int, n: int, shards: Sequence[Path], trained: Path, out: Path) -> None:
    faiss = faiss_module()
    index = faiss.IndexBinaryFlat(-(-d // 8) * 8) if kind == "binary" else faiss.read_index(str(trained))
    with out.open("wb") as stream:
        stream.write(_head(index, n, n * index.code_size))
        for shard in shards:
            with shard.open("rb") as codes:
                shutil.copyfileobj(codes, stream, 1 << 20)


def merge_lists(trained: Path, shards: Sequence[Path], folder: Path) -> None:
    """Merge shards list by list on disk, in their order (as `faiss.contrib.ondisk.merge_ondisk`, which keeps them open)."""
    faiss = faiss_module()
    index = faiss.read_index(str(trained))
    inverted = faiss.extract_index_ivf(index)
    with one_thread():
        opened = [faiss.read_index(str(shard), faiss.IO_FLAG_MMAP) for shard in shards]
        given = faiss.InvertedListsPtrVector()
        for shard in opened:
            given.push_back(faiss.extract_index_ivf(shard).invlists)
        _check_room(folder, sum(shard.ntotal for shard in opened) * (inverted.code_size + ROW_BYTES))
        lists = faiss.OnDiskInvertedLists(inverted.nlist, inverted.code_size, str(folder / LISTS_FILE))
        with _silent_stdout():
            index.ntotal = inverted.ntotal = lists.merge_from_multiple(given.data(), given.size(), False)
        inverted.replace_invlists(lists, True)
        lists.this.disown()
        lists.filename = LISTS_FILE  # it lies beside the index, wherever that is
        faiss.write_index(index, str(folder / INDEX_FILE))


def _check_room(folder: Path, n_bytes: int) -> None:
    """Raise the disk's own error before a file is written by its mapping: a full disk would end the process by a signal."""
    if shutil.disk_usage(folder).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """What C code prints there goes nowhere: FAISS says that it makes a file longer, amid the output of a command."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
        flush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
