"""Texts to vectors through an exported model, without torch: onnxruntime and tokenizers alone, 0.1 s to load.

Legend: B texts of a batch, L tokens, D width, N texts in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.progress import Progress, silent
from pipeline_lib.search.current import read_json

if TYPE_CHECKING:
    from tokenizers import Encoding

Side = Literal["query", "document"]

# what the encoder reads of an exported model, for whoever verifies bytes first
FILES = ("search.json", "model.onnx", "query/tokenizer.json", "document/tokenizer.json")


class OnnxEncoder:
    """model.onnx and the tokenizers of its two sides.

    Args:
        folder: an exported model.
        threads: of onnxruntime.

    Raises:
        CorruptArtifact: the folder's files do not fit together.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.folder = folder
        self.settings = read_json(folder / "search.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # all optimisations take as long again to start as the basic ones, and save nothing on one short query
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizers: dict[str, Tokenizer] = {}

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        return int(self.settings["dim"])

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids with the side's delimiters at both ends, cut so that the closing one is always last."""
        encodings: list[Encoding] = self._tokenizer(side).encode_batch_fast([_clean(text) for text in texts])
        open_id, close_id = self.settings[side]["open_id"], self.settings[side]["close_id"]
        ids = [encoding.ids for encoding in encodings]
        for row in ids:
            if row[0] != open_id or row[-1] != close_id:
                raise CorruptArtifact(f"{self.folder}: a text became {row[0]} ... {row[-1]}, expected {open_id} ... {close_id}")
        return ids

    def embed(self, texts: Sequence[str], side: Side, batch_tokens: int = 8192, progress: Progress = silent) -> np.ndarray:
        """Vectors (N, D) float32 of length 1, in the order of the texts.

        Args:
            texts: any strings, the empty one too.
            batch_tokens: padded tokens of one forward pass.
        """
        ids = self.token_ids(texts, side)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        emb_ND = np.empty((len(ids), self.dim), np.float32)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= batch_tokens:
                stop += 1
            rows = order[start:stop]
            emb_ND[rows] = self._forward([ids[row] for row in rows])
            start = stop
            progress(start, len(order), f"{start:,} texts")
        return emb_ND

    def _forward(self, ids: list[list[int]]) -> np.ndarray:
        lengths_B = np.array([len(row) for row in ids], np.int64)
        ids_BL = np.zeros((len(ids), int(lengths_B.max())), np.int64)
        for row, values in zip(ids_BL, ids, strict=True):
            row[: len(values)] = values
        return self._session.run(None, {"input_ids": ids_BL, "lengths": lengths_B})[0]

    def _tokenizer(self, side: Side) -> Tokenizer:
        if side not in self._tokenizers:
            tokenizer = Tokenizer.from_file(str(self.folder / side / "tokenizer.json"))
            tokenizer.no_padding()
            # a text that spells a delimiter stays text; the file format cannot say so
            tokenizer.encode_special_tokens = True
            self._tokenizers[side] = tokenizer
        return self._tokenizers[side]


def _clean(text: str) -> str:
    """Replace lone surrogates, which a shell makes of bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
