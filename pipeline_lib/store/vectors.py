"""Vector cache: embeddings by (model, side, text), kept as parts of the store and found by the text's hash.

    vectors/parts/FINGERPRINT-SIDE-TEXTS.json      one segment: texts that were embedded together
        hashes.npy (n, 2) uint64, vectors.npy (n, D) float32

An index, a mining and an evaluation of the same model share them, and so do runs one after the other: a text is embedded once.
A segment follows the store's commit rule: it exists if and only if its record does, and no later writer changes it.
In memory are the hashes of the model's texts, 28 bytes each; vectors are memory-mapped. A text embedded beside other texts may
differ in the last bits of float32; the vector that was there first stays.

N texts, D width. A place is (segment, row); segments are numbered in the order in which they were opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import fetch_file, record_name
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.store.records import Counts, Part, Stage, draft_part
from pipeline_lib.store.store import KEY_DIGITS, Store

STAGE = Stage(name="vectors", version=1)
HASHES, VECTORS = "hashes.npy", "vectors.npy"
NOWHERE = -1

Side = Literal["x", "y"]  # x: queries and symmetric tasks; y: passages and code
Embed = Callable[[Sequence[str], Progress], np.ndarray]  # (N, D) float32 of length 1, in the order of the texts


@dataclass
class _Segment:
    """One part, and its vectors once they were asked for."""

    part: Part
    hashes_N2: np.ndarray
    vectors_ND: np.ndarray | None = None


class VectorCache:
    """The vectors of one model and side: looked up, or computed and kept.

    Args:
        store: where the segments lie.
        fingerprint: names all that the vectors depend on: weights, tokenizer, lengths, precision.
        side: of the texts.
        embed: computes what is missing, and refuses what is no embedding.
    """

    def __init__(self, store: Store, fingerprint: str, side: Side, embed: Embed) -> None:
        self.store, self.embed, self.fingerprint = store, embed, fingerprint
        self.prefix = f"{fingerprint}-{side}-"
        self.computed = 0  # texts that were not there
        self._segments: list[_Segment | None] = []  # None: damaged, and taken away
        self._index = HashIndex()
        for part in store.parts(STAGE.name, self.prefix):
            self._open(part)

    def missing(self, hashes_N2: np.ndarray) -> np.ndarray:
        """The rows of texts without a vector, ascending, each text once."""
        rows = np.flatnonzero(self._find(hashes_N2)[0] == NOWHERE)
        _, first = np.unique(hashes_N2[rows], axis=0, return_index=True)
        return rows[np.sort(first)]

    def add(self, texts: Sequence[str], hashes_N2: np.ndarray, progress: Progress = silent) -> None:
        """Embed texts, and keep their vectors as one segment."""
        vectors_ND = np.ascontiguousarray(self.embed(texts, progress), np.float32)
        assert vectors_ND.ndim == 2 and len(vectors_ND) == len(texts), f"{vectors_ND.shape} vectors for {len(texts)} texts"
        name = digest_of([STAGE.version, hashlib.sha256(hashes_N2.tobytes()).hexdigest()])[:KEY_DIGITS]
        scratch = self.store.scratch(STAGE.name)
        np.save(scratch / HASHES, hashes_N2, allow_pickle=False)
        np.save(scratch / VECTORS, vectors_ND, allow_pickle=False)
        counts, rows = Counts(n_in=len(texts), n_out=len(texts)), dict.fromkeys((HASHES, VECTORS), len(texts))
        part = self.store.commit_part(draft_part(STAGE, self.prefix + name, f"{len(texts):,} texts", counts, rows), scratch)
        self._open(part)
        self.computed += len(texts)

    def read(self, hashes_N2: np.ndarray) -> np.ndarray:
        """Vectors (N, D) float32 of texts that are there, in their order."""
        segment_N, row_N = self._find(hashes_N2)
        assert (segment_N != NOWHERE).all(), f"{(segment_N == NOWHERE).sum()} texts were not embedded"
        out_ND: np.ndarray | None = None
        for number in np.unique(segment_N):
            vectors_ND = self._vectors(number)
            if out_ND is None:
                out_ND = np.empty((len(segment_N), vectors_ND.shape[1]), np.float32)
            to = np.flatnonzero(segment_N == number)
            out_ND[to] = vectors_ND[row_N[to]]
        return np.zeros((0, 1), np.float32) if out_ND is None else out_ND

    def _find(self, hashes_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in segments whose bytes are those of their record; a damaged segment is no longer there."""
        while True:
            segment_N, row_N = self._index.find(hashes_N2)
            damaged = [number for number in np.unique(segment_N) if number != NOWHERE and not self._is_whole(number)]
            if not damaged:
                return segment_N, row_N
            self._take_away(damaged)

    def _open(self, part: Part) -> None:
        hashes_N2 = self._load(part, HASHES)
        if hashes_N2 is None:
            self._discard(part)
            return
        self._segments.append(_Segment(part, hashes_N2))
        self._index.add(hashes_N2, len(self._segments) - 1)

    def _is_whole(self, number: int) -> bool:
        """Hash a segment's vectors when a text of it is first asked for: others' are not read."""
        segment = self._segments[number]
        assert segment is not None
        if segment.vectors_ND is None:
            segment.vectors_ND = self._load(segment.part, VECTORS)
            with contextlib.suppress(OSError):  # of a bucket's part there is no record here; another's store is only read
                os.utime(self.store.root / record_name(STAGE.name, segment.part.key))  # `prune` takes what nobody reads
        return segment.vectors_ND is not None

    def _vectors(self, number: int) -> np.ndarray:
        segment = self._segments[number]
        assert segment is not None and segment.vectors_ND is not None
        return segment.vectors_ND

    def _load(self, part: Part, name: str) -> np.ndarray | None:
        """A file of a part, memory-mapped; nothing where its bytes are not those of the record."""
        (file,) = (file for file in part.files if file.name == name)
        path = fetch_file(self.store.root, self.store.bucket, part, file)
        return np.load(path, mmap_mode="r", allow_pickle=False) if sha256_file(path) == file.sha256 else None

    def _take_away(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            segment = self._segments[number]
            assert segment is not None
            self._discard(segment.part)
            self._segments[number] = None
        self._index = HashIndex()
        for number, segment in enumerate(self._segments):
            if segment is not None:
                self._index.add(segment.hashes_N2, number)

    def _discard(self, part: Part) -> None:
        """Remove a damaged part here; a bucket's copy, which is checked when it is fetched, stays."""
        (self.store.root / record_name(part.stage, part.key)).unlink(missing_ok=True)
        shutil.rmtree(self.store.root / part.folder, ignore_errors=True)


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


class HashIndex:
    """Hash of a text to its place. Runs are merged as they grow alike, so that a text is moved some log N times in all."""

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


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """16 bytes that name each text, (N, 2) uint64; half of a surrogate pair, which JSON can spell, does not stop it."""
    digests = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
