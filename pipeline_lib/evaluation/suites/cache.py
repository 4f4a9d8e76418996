"""Embeddings that were computed once, by (weights, text, side): an encoder that remembers.

    FOLDER/FINGERPRINT/SIDE/SHA256.safetensors     hashes (n, 2) uint64 of texts, and their vectors (n, D)

A segment is named by its own bytes and written whole or not at all, so that processes can share the folder. Only the hashes
are held in memory; a segment's vectors are read when a text of it is asked for.
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
from pipeline_lib.evaluation.suites.models import ModelId, Side, TextEncoder
from pipeline_lib.files import put_if_absent
from pipeline_lib.progress import Progress, silent

Key = bytes  # 16 bytes of sha256


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
        self._places: dict[Side, dict[Key, tuple[Path, int]]] = {}

    @property
    def id(self) -> ModelId:
        """Of the encoder behind it."""
        return self.encoder.id

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D).

        Raises:
            UserError: a vector is not finite, or not of length 1.
        """
        keys = [text_key(text) for text in texts]
        places = self._known(side)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in places}
        # sorted by length, so that a block's texts need little padding and the first block shows the longest time
        wanted = sorted(missing, key=lambda key: (-len(missing[key]), key))
        for at in range(0, len(wanted), self.block_texts):
            block = wanted[at : at + self.block_texts]
            self._add(side, block, [missing[key] for key in block])
            progress(at + len(block), len(wanted), f"{at + len(block):,} of {len(wanted):,} texts embedded")
        self.computed += len(wanted)
        return self._read(side, keys)

    def _add(self, side: Side, keys: Sequence[Key], texts: Sequence[str]) -> None:
        vectors_ND = checked(self.encoder.encode(texts, side), self.id.name)
        hashes = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
        content = save({"hashes": hashes, "vectors": vectors_ND})
        path = self.folder / side / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        put_if_absent(path, content)
        self._places[side].update({key: (path, row) for row, key in enumerate(keys)})

    def _known(self, side: Side) -> dict[Key, tuple[Path, int]]:
        if side not in self._places:
            self._places[side] = {}
            for path in sorted((self.folder / side).glob("*.safetensors")):
                segment = _load(path)
                for row, key in enumerate(_keys(segment["hashes"]) if segment else ()):
                    self._places[side][key] = (path, row)
        return self._places[side]

    def _read(self, side: Side, keys: Sequence[Key]) -> np.ndarray:
        """The vectors, segment by segment: one is in memory at a time, beside the result."""
        places = self._places[side]
        rows_of: dict[Path, list[tuple[int, int]]] = {}
        for at, key in enumerate(keys):
            path, row = places[key]
            rows_of.setdefault(path, []).append((at, row))
        vectors_ND: np.ndarray | None = None
        for path, rows in rows_of.items():
            segment = load(path.read_bytes())["vectors"]
            if vectors_ND is None:
                vectors_ND = np.empty((len(keys), segment.shape[1]), np.float32)
            to, taken = np.array(rows).T
            vectors_ND[to] = segment[taken]
        return np.zeros((0, 1), np.float32) if vectors_ND is None else vectors_ND


def text_key(text: str) -> Key:
    """16 bytes that name a text; half of a surrogate pair, which JSON can spell, does not stop it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def checked(vectors_ND: np.ndarray, name: str) -> np.ndarray:
    """The vectors in float32, if each is finite and of length 1.

    Raises:
        UserError: how many are not.
    """
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    bad = int((~np.isfinite(vectors_ND).all(1)).sum())
    if bad:
        raise UserError(f"{name}: {bad} of {len(vectors_ND)} embeddings are not finite: the training diverged")
    off = np.abs(np.linalg.norm(vectors_ND, axis=1) - 1) > 1e-3
    if off.any():
        raise UserError(f"{name}: {int(off.sum())} of {len(vectors_ND)} embeddings are not of length 1; normalise them")
    return vectors_ND


def _load(path: Path) -> dict[str, np.ndarray]:
    """The segment, or nothing where its bytes are not those of its name; it is computed again then."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        path.unlink()
        return {}
    try:
        return load(content)
    except SafetensorError:
        path.unlink()
        return {}


def _keys(hashes: np.ndarray) -> list[Key]:
    content = np.ascontiguousarray(hashes, "<u8").tobytes()
    return [content[at : at + 16] for at in range(0, len(content), 16)]
