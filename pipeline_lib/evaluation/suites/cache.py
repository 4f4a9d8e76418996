"""Embeddings that were computed once, by (weights, text, side): an encoder that remembers.

    FOLDER/FINGERPRINT/SIDE/SHA256.safetensors     hashes (n, 2) uint64 of texts, and their vectors (n, D)

A segment is named by its own bytes and written whole or not at all, so that processes can share the folder. Only the places of
texts are held in memory; a segment's vectors are read when a text of it is asked for.
N texts, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import require_finite
from pipeline_lib.evaluation.suites.models import ModelId, Side, TextEncoder
from pipeline_lib.evaluation.suites.places import NOWHERE, Places
from pipeline_lib.files import put_if_absent
from pipeline_lib.progress import Progress, embedding, silent


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
