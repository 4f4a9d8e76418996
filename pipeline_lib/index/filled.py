"""FAISS index in memory, filled in one thread from vectors that are read slice by slice.

A graph (HNSW) links each vector with its nearest. Where more vectors are the same than a node has links, as of texts that are
equal up to where the model cuts them, their nodes link one another alone: a walk that comes to one never leaves them, and
recall@10 over all queries is 0.75 to 0.95, whatever the effort. Such copies are therefore linked by vectors that lie a little
apart, and stored as they are: 0.98 and more.

N rows, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.index.factories import faiss_module

if TYPE_CHECKING:
    import faiss

Read = Callable[[int], np.ndarray]
SAMPLE_ROWS = 100_000  # that a given factory string is trained by
APART = 0.01  # length of what is added to a copy: far above float32's rounding of a product, far below what tells texts apart


def filled_index(read: Read, starts: range, factory: str, ef_construction: int = 0) -> faiss.Index:
    """A FAISS index by inner product in memory.

    Args:
        read: vectors (n, D) from a row on, as many as the step of `starts` or to the end.
        starts: the first row of each slice, up to the number of all rows.
        factory: FAISS factory string.
        ef_construction: candidates that a graph's node is linked from; 0: FAISS's own.

    Raises:
        UserError: FAISS does not know the factory.
    """
    faiss = faiss_module()
    with one_thread():  # of several, HNSW would link in the order in which they happen to come
        try:
            index = faiss.index_factory(read(0).shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if ef_construction:
                index.hnsw.efConstruction = ef_construction
            if not index.is_trained:
                index.train(_spread(read, starts))
            if isinstance(index, faiss.IndexHNSWFlat):
                _fill_graph(index, read, starts)
            else:
                for start in starts:
                    index.add(np.ascontiguousarray(read(start)))
        except RuntimeError as error:
            raise UserError(
                f"index.factory {factory!r}: FAISS does not take it ({str(error).rpartition('Error: ')[2]}); try Flat"
            ) from error
        return index


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """FAISS's threads are OpenMP's, and torch's too: what comes after in this process gets them back."""
    faiss = faiss_module()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _fill_graph(index: Any, read: Read, starts: range) -> None:
    """Add all vectors, those that too many rows share a little apart while they are linked."""
    faiss = faiss_module()
    is_copy_N = _copies(read, starts, index.hnsw.nb_neighbors(1))
    generator = np.random.default_rng(0)
    for start in starts:
        vectors_ND = np.array(read(start), np.float32, order="C")
        copies = np.flatnonzero(is_copy_N[start : start + len(vectors_ND)])
        if len(copies):
            noise_CD = generator.standard_normal((len(copies), index.d))
            moved_CD = vectors_ND[copies] + APART * noise_CD / np.linalg.norm(noise_CD, axis=1, keepdims=True)
            vectors_ND[copies] = moved_CD / np.linalg.norm(moved_CD, axis=1, keepdims=True)
        index.add(vectors_ND)
    if is_copy_N.any():
        stored = faiss.downcast_index(index.storage)
        stored_ND = faiss.rev_swig_ptr(stored.get_xb(), index.ntotal * index.d).reshape(-1, index.d)
        for start in starts:
            copies = np.flatnonzero(is_copy_N[start : start + starts.step])
            if len(copies):
                stored_ND[start + copies] = read(start)[copies]


def _copies(read: Read, starts: range, most: int) -> np.ndarray:
    """True (N) for the rows of each vector that more than so many rows share."""
    hashes_N = np.concatenate([_hashes(np.ascontiguousarray(read(start), np.float32)) for start in starts])
    _, places_N, counts = np.unique(hashes_N, return_inverse=True, return_counts=True)
    is_copy_N: np.ndarray = counts[places_N] > most
    return is_copy_N


def _hashes(vectors_ND: np.ndarray) -> np.ndarray:
    """64 bits (N,) of each vector's bytes: a product with odd numbers, modulo 2^64."""
    odd_D = np.random.default_rng(1).integers(1 << 63, size=vectors_ND.shape[1], dtype=np.uint64) * 2 + 1
    found_N: np.ndarray = (vectors_ND.view(np.uint32).astype(np.uint64) * odd_D).sum(axis=1, dtype=np.uint64)
    return found_N


def _spread(read: Read, starts: range) -> np.ndarray:
    step = -(-starts.stop // SAMPLE_ROWS)
    return np.concatenate([read(start)[(-start) % step :: step] for start in starts])
