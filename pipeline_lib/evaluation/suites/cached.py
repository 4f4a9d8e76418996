"""Caching encoder and multi-process encoder: one looks vectors up in the store, one deals texts out to several processes.

A worker process has the encoder's weights, its share of the cores, and the GPU of its number where there are some.
N texts, D width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import require_finite
from pipeline_lib.evaluation.suites.models import ModelId, Side, TextEncoder, precision_of
from pipeline_lib.runtime.machine import Precision, cores, visible_gpus
from pipeline_lib.runtime.processes import deaf_children
from pipeline_lib.runtime.progress import Progress, embedding, silent
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import VectorCache, text_hashes


class _SameVectors:
    """What has the vectors of an encoder, and so its id and precision."""

    encoder: TextEncoder

    @property
    def id(self) -> ModelId:
        """The id of the encoder."""
        return self.encoder.id

    @property
    def precision(self) -> Precision:
        """The precision of the encoder's matrix products."""
        return precision_of(self.encoder)


class CachedEncoder(_SameVectors):
    """An encoder whose vectors are looked up before they are computed, each distinct text once.

    Args:
        encoder: computes what is missing.
        store: keeps the vectors of all models.
        block_texts: texts embedded and written at a time.
    """

    def __init__(self, encoder: TextEncoder, store: Store, block_texts: int = 8192) -> None:
        self.encoder, self.store, self.block_texts = encoder, store, block_texts
        self._caches: dict[Side, VectorCache] = {}

    @property
    def computed(self) -> int:
        """Texts that were not there."""
        return sum(cache.computed for cache in self._caches.values())

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D).

        What is missing is sorted by length: a block needs little padding, and the time left is not underestimated.

        Raises:
            UserError: a vector is not finite, or not of length 1.
        """
        cache, hashes_N2 = self._cache(side), text_hashes(texts)
        wanted = sorted(cache.missing(hashes_N2).tolist(), key=lambda row: (-len(texts[row]), hashes_N2[row].tobytes()))
        for at in range(0, len(wanted), self.block_texts):
            rows = wanted[at : at + self.block_texts]
            within = embedding(progress, at, len(wanted))
            cache.add([texts[row] for row in rows], hashes_N2[rows], within)
            within(len(rows), len(rows))
        return cache.read(hashes_N2)

    def _cache(self, side: Side) -> VectorCache:
        if side not in self._caches:

            def embed(texts: Sequence[str], progress: Progress) -> np.ndarray:
                return checked(self.encoder.encode(texts, side, progress), self.id.name, texts)

            self._caches[side] = VectorCache(self.store, self.id.fingerprint, side, embed)
        return self._caches[side]


def checked(vectors_ND: np.ndarray, name: str, texts: Sequence[str]) -> np.ndarray:
    """The vectors in float32, if each is finite and of length 1.

    Raises:
        UserError: how many are not, and the first text.
    """
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    require_finite(vectors_ND, name, "the embedding", texts)
    off = np.abs(np.linalg.norm(vectors_ND, axis=1) - 1) > 1e-3
    if off.any():
        raise UserError(f"{name}: {int(off.sum())} of {len(vectors_ND)} embeddings are not of length 1; normalise them")
    return vectors_ND


MIN_TEXTS = 512  # fewer are embedded sooner than handed over
TEXTS_A_TASK = 512  # handed over at a time, so that the caller hears how far all are

_encoder: TextEncoder | None = None  # of a worker process


class ParallelEncoder(_SameVectors):
    """The same vectors from several processes, which start at the first call that is worth it.

    Args:
        encoder: picklable as long as its weights are not loaded.
        processes: as many as there are GPUs, or a few on a CPU whose cores one process does not fill.
    """

    def __init__(self, encoder: TextEncoder, processes: int) -> None:
        self.encoder = encoder
        self.processes = processes
        self._pools: list[ProcessPoolExecutor] = []  # of one process each, so that every one gets its share

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D), in the order of the texts."""
        if self.processes < 2 or len(texts) < MIN_TEXTS:
            return self.encoder.encode(texts, side, progress)
        if not self._pools:
            self._pools = [
                ProcessPoolExecutor(1, get_context("spawn"), _start, (self.encoder, number, self.processes))
                for number in range(self.processes)
            ]
        order_N = np.argsort([-len(text) for text in texts], kind="stable")  # else the time left is underestimated
        rows_of: dict[Future[np.ndarray], np.ndarray] = {}
        for at, pool in enumerate(self._pools):
            share = order_N[at :: self.processes]
            for first in range(0, len(share), TEXTS_A_TASK):
                rows = share[first : first + TEXTS_A_TASK]
                with deaf_children():  # the first task starts the process
                    rows_of[pool.submit(_encode, [texts[row] for row in rows], side)] = rows
        vectors_ND: np.ndarray | None = None
        done = 0
        for future in as_completed(rows_of):
            found, rows = future.result(), rows_of[future]
            if vectors_ND is None:
                vectors_ND = np.empty((len(texts), found.shape[1]), np.float32)
            vectors_ND[rows] = found
            done += len(rows)
            progress(done, len(texts), f"{done:,} texts")
        assert vectors_ND is not None
        return vectors_ND

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown()
        self._pools = []


def embedding_processes() -> int:
    """One a visible GPU; one on a CPU, whose cores torch and the tokenizer's threads share."""
    return max(1, len(visible_gpus()))


def _start(encoder: TextEncoder, number: int, processes: int) -> None:
    """In a worker: its share of the cores and its GPU, before torch is imported."""
    global _encoder  # noqa: PLW0603 - a worker process has one encoder for its life
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // processes))
    if visible := visible_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
    _encoder = encoder


def _encode(texts: Sequence[str], side: Side) -> np.ndarray:
    assert _encoder is not None
    return _encoder.encode(texts, side)
