"""Files of weights, looked at before anything is built from them: safetensors alone, whole and consistent."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline_lib.errors import CorruptArtifact


def check_weights(folder: Path) -> None:
    """Read the header of every safetensors file: its size, and each tensor's dtype, shape and place among the others.

    Nothing in such a file is executed; a pickle under that name is refused by its first eight bytes.

    Raises:
        CorruptArtifact: a file is cut short, or its header contradicts itself or its bytes.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CorruptArtifact(f"{path}: no readable safetensors file: {error}; fetch or export it again") from error


def count_weights(folder: Path) -> int:
    """Numbers in all safetensors files of a folder, by their headers.

    Raises:
        CorruptArtifact: a file is malformed, as above.
    """
    check_weights(folder)
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - no mapping
    return total
