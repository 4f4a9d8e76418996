"""Loader of an exported model: an encoder from safetensors and JSON alone, self-tested before it answers.

N texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.export.self_test import SelfTest
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import sha256_file
from pipeline_lib.tokens.pair_tokenizer import Delimiters, PairTokenizer, Side, bare_tokenizer, read_tokenizer_json

FOLDERS: dict[Side, str] = {"x": "query", "y": "document"}


class TorchQueries:
    """An export without model.onnx, as search calls its encoder.

    Args:
        folder: the export.
    """

    def __init__(self, folder: Path) -> None:
        self._model = ExportedModel(folder)

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        return self._model.width

    def embed(self, texts: Sequence[str], side: Literal["query"]) -> np.ndarray:
        """Unit vectors (N, D) of queries."""
        assert side == "query", f"side {side}: only queries are embedded in a search"
        return self._model.embed(texts, "x")


class ExportedModel:
    """The encoder and both tokenizers of an export.

    Args:
        folder: as `export` wrote it, here or copied elsewhere.
        device: where the weights go.
        precision: of matrix products, from after the self-test on.

    Raises:
        CorruptArtifact: a file is malformed, or ids or vectors are not those that were exported.
        UserError: there is no model in the folder.
    """

    def __init__(self, folder: Path, device: str = "cpu", precision: Precision = "float32") -> None:
        self.folder = folder
        self_test = SelfTest.read(folder)
        weights = folder / "encoder" / "model.safetensors"
        got = sha256_file(weights) if weights.is_file() else "no file"
        if got != self_test.weights_sha256:
            raise CorruptArtifact(f"{weights}: sha256 is {got}, exported was {self_test.weights_sha256}; export it again")
        self.encoder = Encoder.load(folder / "encoder").to(device)
        self._tokenizer, self._max_tokens = _read_tokenizers(folder, self_test)
        self_test.check(self, {name: side for side, name in FOLDERS.items()})
        self.encoder.precision = precision

    @property
    def width(self) -> int:
        """D, dimensions of a vector."""
        return self.encoder.width

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Ids of each text in its side's delimiters."""
        return self._tokenizer.encode(texts, side, self._max_tokens[side])

    def embed(self, texts: Sequence[str], side: Side, batch_tokens: int = 16_384, progress: Progress = silent) -> np.ndarray:
        """Unit vectors (N, D) float32 of texts as queries ("x") or documents ("y"), in their order."""
        return embed_ids(self.encoder, self.token_ids(texts, side), batch_tokens, progress)


def _read_tokenizers(folder: Path, self_test: SelfTest) -> tuple[PairTokenizer, dict[Side, int]]:
    """Both sides as one tokenizer, which reads no more of a text than is kept: 3 times as fast as the files' own way.

    The self-test checks that both give the same ids.
    """
    fields = {side: read_tokenizer_json(folder / name) for side, name in FOLDERS.items()}
    (x_open, x_close), (y_open, y_close) = (self_test.delimiters(name) for name in FOLDERS.values())
    delimiters = Delimiters(x_open, x_close, y_open, y_close, pad=y_close)
    tokenizer = PairTokenizer(bare_tokenizer(fields["x"]), delimiters)
    return tokenizer, {side: int(found["truncation"]["max_length"]) for side, found in fields.items()}
