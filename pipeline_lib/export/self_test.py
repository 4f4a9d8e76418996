"""Self-test of an export: texts with their token ids and vectors, checked by whoever loads it (self_test.json).

A wrong tokenizer, a layer in the wrong place or other weights give vectors that look like any others; here they show.
N texts, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.store.files import digest_of, sha256_file

FILE = "self_test.json"
VERSION = 2
TOLERANCE = 1e-4  # another processor's or library's float32 gives vectors up to 1e-5 away
QUANTIZED_TOLERANCE = 0.02  # of a cosine: products of 8 bits come out alike on every processor, what is around them nearly so
TEXTS = (
    "parse an ISO 8601 date",
    "def first(items):\n    return items[0] if items else {}",
    "größer als 2 µm — naïve façade, 日本語",
    "",
)
_DECIMALS = 6


class Loaded(Protocol):
    """What an exported model can do, whichever library runs it; `side` as it calls them."""

    def token_ids(self, texts: Sequence[str], side: Any) -> list[list[int]]:
        """Ids of each text with their delimiters."""
        ...

    def embed(self, texts: Sequence[str], side: Any) -> np.ndarray:
        """Unit vectors (N, D)."""
        ...


def weights_digest(folder: Path) -> str:
    """The sha256 of an export's encoder/model.safetensors, or where its mean weighs tokens of that and of their weights."""
    paths = [folder / "encoder" / name for name in ("model.safetensors", "token_weights.safetensors")]
    found = [sha256_file(path) for path in paths if path.is_file()]
    return found[0] if len(found) == 1 else digest_of(found)


def write_self_test(
    folder: Path, ids: Mapping[str, list[list[int]]], vectors: Mapping[str, np.ndarray], weights_sha256: str
) -> None:
    """Write the record of an export.

    Args:
        folder: of the export.
        ids: side to the token ids of each of `TEXTS`.
        vectors: side to their vectors (N, D).
        weights_sha256: of `weights_digest`; it tells of rows of the vocabulary too that no text here uses.
    """
    sides = {
        side: {
            "token_ids": ids[side],
            "vectors": [[round(float(value), _DECIMALS) for value in row_D] for row_D in vectors[side]],
        }
        for side in sorted(vectors)
    }
    record = {
        "version": VERSION,
        "tolerance": TOLERANCE,
        "weights_sha256": weights_sha256,
        "texts": TEXTS,
        "sides": sides,
    }
    (folder / FILE).write_text(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SelfTest:
    """The record of one export."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> SelfTest:
        """Read self_test.json.

        Raises:
            CorruptArtifact: there is none, or it is not of this version.
        """
        path = folder / FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CorruptArtifact(f"{path}: no such file; expected the folder of an export, export the model again") from error
        except ValueError as error:
            raise CorruptArtifact(f"{path}: no JSON ({error}); export the model again") from error
        if not isinstance(record, dict) or record.get("version") != VERSION:
            raise CorruptArtifact(f"{path}: not a self-test of version {VERSION}; export the model again")
        return cls(folder, record)

    @property
    def weights_sha256(self) -> str:
        """What `weights_digest` gave of the export."""
        return str(self.record["weights_sha256"])

    def check(self, model: Loaded, sides: Mapping[str, Any]) -> None:
        """Embed the texts of the record and compare.

        Args:
            model: the loaded export.
            sides: the sides to check: name in the record to what `model` calls it.

        Raises:
            CorruptArtifact: ids or vectors are not those of the record.
        """
        texts = self.record["texts"]
        for name, side in sides.items():
            expected = self.record["sides"][name]
            if model.token_ids(texts, side) != expected["token_ids"]:
                raise CorruptArtifact(f"{self.folder}: the {name} tokenizer gives other ids than {FILE}; export it again")
            gap = _largest_gap(model.embed(texts, side), np.array(expected["vectors"], np.float32))
            if not gap <= self.record["tolerance"]:  # so that NaN fails too
                raise CorruptArtifact(
                    f"{self.folder}: {name} vectors are up to {gap:.1e} from those of {FILE}, where rounding gives at most "
                    f"{self.record['tolerance']:.0e}: these are not the weights that were exported; export the model again"
                )

    def check_alike(self, model: Loaded, least_cosines: Mapping[str, float]) -> None:
        """Embed the texts of the record by a quantized graph, whose vectors are near to those of the record alone.

        Args:
            model: the loaded graph.
            least_cosines: name of a side to the smallest cosine that was measured when it was exported.

        Raises:
            CorruptArtifact: ids are not those of the record, or a vector is farther from it than it was.
        """
        texts = self.record["texts"]
        for name, measured in least_cosines.items():
            expected = self.record["sides"][name]
            if model.token_ids(texts, name) != expected["token_ids"]:
                raise CorruptArtifact(f"{self.folder}: the {name} tokenizer gives other ids than {FILE}; export it again")
            least = float((model.embed(texts, name) * np.array(expected["vectors"], np.float32)).sum(axis=1).min())
            if not least >= measured - QUANTIZED_TOLERANCE:  # so that NaN fails too
                raise CorruptArtifact(
                    f"{self.folder}: int8 {name} vectors have a cosine of {least:.3f} to those of {FILE}, {measured:.3f} was "
                    "measured: this is not the graph that was exported; export the model again"
                )


def _largest_gap(vectors_ND: np.ndarray, expected_ND: np.ndarray) -> float:
    return float(np.abs(vectors_ND - expected_ND).max()) if vectors_ND.shape == expected_ND.shape else float("inf")
