"""Embeddings that were computed once, by (weights, text, side): an encoder that remembers.

    FOLDER/FINGERPRINT/SIDE/SHA256.safetensors     hashes (n, 2) uint64 of texts, and their vectors (n, D)

A segment is named by its own bytes and written whole or not at all, so that processes can share the folder. Only the places of
texts are held in memory; a segment's vectors are read when a text of it is asked for.
N texts, D width.

One encoder in several processes: the texts of a call are dealt out by length, the vectors come back in order.

Each process has the encoder's weights, its share of the cores, and the GPU of its number where there are some.
N texts, D width.

Where each text's vector lies: 28 bytes a text, so that the places of tens of millions fit into memory.

N texts. A place is (segment, row); segments are numbered by their owner.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import require_finite
from pipeline_lib.evaluation.suites.models import ModelId, Side, TextEncoder
from pipeline_lib.runtime.machine import cores
from pipeline_lib.runtime.processes import deaf_children
from pipeline_lib.runtime.progress import Progress, embedding, silent
from pipeline_lib.store.files import put_if_absent

NOWHERE = -1


class _Run(NamedTuple):
    """Places sorted by the first half of their hash."""

    first: np.ndarray
    second: np.ndarray
    segment: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, hashes_N2: np.ndarray, segment: np.ndarray, row: np.ndarray) -> _Run:
        order_N = np.argsort(hashes_N2[:, 0], kind="stable")
        return cls(hashes_N2[order_N, 0], hashes_N2[order_N, 1], segment[order_N], row[order_N])


class Places:
    """Hashes to places. Runs are merged as they grow alike, so that a text is moved some log N times in all."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, hashes_N2: np.ndarray, segment: int) -> None:
        """The texts of one segment, in the order of its rows."""
        n = len(hashes_N2)
        self._runs.append(_Run.of(hashes_N2, np.full(n, segment, np.int32), np.arange(n, dtype=np.int64)))
        while len(self._runs) > 1 and len(self._runs[-2].first) <= 2 * len(self._runs[-1].first):
            a, b = self._runs[-2:]
            hashes = np.stack([np.concatenate([a.first, b.first]), np.concatenate([a.second, b.second])], axis=1)
            self._runs[-2:] = [_Run.of(hashes, np.concatenate([a.segment, b.segment]), np.concatenate([a.row, b.row]))]

    def find(self, hashes_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment and row of each text; the segment is -1 where there is none."""
        segment_N, row_N = np.full(len(hashes_N2), NOWHERE, np.int64), np.zeros(len(hashes_N2), np.int64)
        for run in self._runs:
            if len(run.first):
                at_N = np.minimum(np.searchsorted(run.first, hashes_N2[:, 0]), len(run.first) - 1)
                there_N = (run.first[at_N] == hashes_N2[:, 0]) & (run.second[at_N] == hashes_N2[:, 1])
                segment_N[there_N], row_N[there_N] = run.segment[at_N[there_N]], run.row[at_N[there_N]]
        return segment_N, row_N


class CachedEncoder:
    """An encoder whose vectors are looked up before they are computed, each distinct text once.

    Args:
        encoder: computes what is missing.
        folder: of all models' caches.
        block_texts: texts embedded and written at a time.
    """

    def __init__(self, encoder: TextEncoder, folder: Path, block_texts: int = 8192) -> None:
        self.encoder = encoder
        self.folder = folder / encoder.id.fingerprint
        self.block_texts = block_texts
        self.computed = 0  # texts that were not there
        self._segments: list[Path] = []
        self._places: dict[Side, Places] = {}

    @property
    def id(self) -> ModelId:
        """Of the encoder behind it."""
        return self.encoder.id

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D).

        Raises:
            UserError: a vector is not finite, or not of length 1.
        """
        hashes_N2 = text_hashes(texts)
        places = self._known(side)
        segment_N, row_N = places.find(hashes_N2)
        missing = np.flatnonzero(segment_N == NOWHERE)
        if missing.size:
            self._compute([texts[at] for at in missing.tolist()], hashes_N2[missing], side, progress)
            segment_N, row_N = places.find(hashes_N2)
        return self._read(segment_N, row_N)

    def _compute(self, texts: Sequence[str], hashes_N2: np.ndarray, side: Side, progress: Progress) -> None:
        """Sorted by length, so that texts of a block need little padding and the time left is not underestimated."""
        rows = {hashes.tobytes(): row for row, hashes in enumerate(hashes_N2)}
        wanted = sorted(rows, key=lambda key: (-len(texts[rows[key]]), key))
        for at in range(0, len(wanted), self.block_texts):
            block = [rows[key] for key in wanted[at : at + self.block_texts]]
            within = embedding(progress, at, len(wanted))
            vectors_ND = checked(self.encoder.encode(found := [texts[row] for row in block], side, within), self.id.name, found)
            content = save({"hashes": hashes_N2[block], "vectors": vectors_ND})
            path = self.folder / side / f"{hashlib.sha256(content).hexdigest()}.safetensors"
            put_if_absent(path, content)
            self._add(side, path, hashes_N2[block])
            self.computed += len(block)
            within(len(block), len(block))

    def _add(self, side: Side, path: Path, hashes_N2: np.ndarray) -> None:
        self._segments.append(path)
        self._places[side].add(hashes_N2, len(self._segments) - 1)

    def _known(self, side: Side) -> Places:
        if side not in self._places:
            self._places[side] = Places()
            for path in sorted((self.folder / side).glob("*.safetensors")):
                segment = _load(path)
                if segment:
                    self._add(side, path, segment["hashes"])
        return self._places[side]

    def _read(self, segment_N: np.ndarray, row_N: np.ndarray) -> np.ndarray:
        """The vectors, segment by segment: one is in memory at a time, beside the result."""
        vectors_ND: np.ndarray | None = None
        for number in np.unique(segment_N):
            segment = load(self._segments[number].read_bytes())["vectors"]
            if vectors_ND is None:
                vectors_ND = np.empty((len(segment_N), segment.shape[1]), np.float32)
            to = np.flatnonzero(segment_N == number)
            vectors_ND[to] = segment[row_N[to]]
        return np.zeros((0, 1), np.float32) if vectors_ND is None else vectors_ND


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """16 bytes that name each text, (N, 2) uint64; half of a surrogate pair, which JSON can spell, does not stop it."""
    digests = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


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


def _load(path: Path) -> dict[str, np.ndarray]:
    """The segment, or nothing where its bytes are not those of its name; it is computed again then."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() == path.stem:
        try:
            return load(content)
        except SafetensorError:  # named rightly, but by something that writes other files
            pass
    path.unlink()
    return {}


DRIVER_LIST = Path("/proc/driver/nvidia/gpus")
MIN_TEXTS = 512  # fewer are embedded sooner than handed over
TEXTS_A_TASK = 512  # handed over at a time, so that the caller hears how far all are

_encoder: TextEncoder | None = None  # of a worker process


class ParallelEncoder:
    """The same vectors from several processes, which start at the first call that is worth it.

    Args:
        encoder: picklable as long as its weights are not loaded.
        processes: as many as there are GPUs, or a few on a CPU whose cores one process does not fill.
    """

    def __init__(self, encoder: TextEncoder, processes: int) -> None:
        self.encoder = encoder
        self.processes = processes
        self._pools: list[ProcessPoolExecutor] = []  # of one process each, so that every one gets its share

    @property
    def id(self) -> ModelId:
        """Of the encoder."""
        return self.encoder.id

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


def visible_gpus() -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES names, or else those that the driver lists; without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device.strip()]
    return [str(number) for number, _ in enumerate(DRIVER_LIST.glob("*"))]


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
