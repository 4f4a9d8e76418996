"""Two models side by side: one vector of both, and the exports of such pairs.

Each model's unit vector is scaled by the root of its share, so that the whole has length 1 again and a cosine of two wholes
is the mean of both models' cosines, weighted by the shares (docs/results/lm.md has figures).

    beside/        the second model's export, whole
    beside.json    its share, and what it must be

N texts, D and E widths.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.export.self_test import weights_digest

FOLDER = "beside"
FILE = "beside.json"
VERSION = 1


def side_by_side(own_ND: np.ndarray, other_NE: np.ndarray, share: float) -> np.ndarray:
    """Unit vectors (N, D + E) float32 of two models' unit vectors.

    Args:
        share: of the second in the cosine, above 0 and below 1.
    """
    return np.concatenate([own_ND * (1 - share) ** 0.5, other_NE * share**0.5], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Beside:
    """The second model of an export.

    Attributes:
        folder: its own export.
        share: in the cosine.
    """

    folder: Path
    share: float

    def write(self, dim: int) -> None:
        """Write the record of it beside its folder.

        Args:
            dim: of both.
        """
        record = {"version": VERSION, "share": self.share, "dim": dim, "weights_sha256": weights_digest(self.folder)}
        text = json.dumps(record, sort_keys=True) + "\n"
        (self.folder.parent / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, export: Path) -> Beside | None:
        """The second model of an export; None where it is one model alone.

        Raises:
            CorruptArtifact: the record is malformed, or the folder holds another model than was exported.
        """
        path = export / FILE
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            share, expected = float(record["share"]), str(record["weights_sha256"])
            is_known = record["version"] == VERSION and 0 < share < 1
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"{path}: not a record of a second model ({error!r}); export the model again") from error
        if not is_known:
            raise CorruptArtifact(
                f"{path}: not a record of version {VERSION} with a share between 0 and 1; export the model again"
            )
        folder = export / FOLDER
        got = weights_digest(folder) if (folder / "encoder" / "model.safetensors").is_file() else "no file"
        if got != expected:
            raise CorruptArtifact(f"{folder}: sha256 of its weights is {got}, exported was {expected}; export the model again")
        return cls(folder, share)
