"""ONNX encoder: texts to vectors by onnxruntime and tokenizers alone, loaded in 0.1 s, without torch.

Legend: B texts of a batch, L tokens, D width, N texts in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from pipeline_lib.export.self_test import SelfTest
from pipeline_lib.index.verified import read_json
from pipeline_lib.runtime.progress import Progress, by_tokens, silent
from pipeline_lib.tokens.tokenizer_files import SideTokenizer

Side = Literal["query", "document"]

INT8_FILE = "model.int8.onnx"


class OnnxEncoder:
    """model.onnx and the tokenizers of its two sides.

    Args:
        folder: an exported model.
        threads: of onnxruntime.
        sides: those that will be used, and so are self-tested: some milliseconds each.
        int8: run the graph of 8-bit weights.

    Raises:
        CorruptArtifact: the folder's files do not fit together, or its ids or vectors are not those that were exported.
    """

    def __init__(
        self, folder: Path, threads: int = 1, sides: Sequence[Side] = ("query", "document"), int8: bool = False
    ) -> None:
        self.folder, self.int8 = folder, int8
        self.settings = read_json(folder / "search.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # all optimisations take as long again to start as the basic ones, and save nothing on one short query
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        graph = str(folder / (INT8_FILE if int8 else "model.onnx"))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tokenizers: dict[str, SideTokenizer] = {}
        self.check(sides)

    def check(self, sides: Sequence[Side]) -> None:
        """Embed the self-test's texts as these sides, and compare.

        Raises:
            CorruptArtifact: its ids or vectors are not those that were exported.
        """
        test = SelfTest.read(self.folder)
        if self.int8:
            test.check_alike(self, {side: self.settings["int8"]["least_cosine"][side] for side in sides})
        else:
            test.check(self, {side: side for side in sides})

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        return int(self.settings["dim"])

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids with the side's delimiters at both ends, cut so that the closing one is always last."""
        return self._tokenizer(side)(texts)

    def embed(self, texts: Sequence[str], side: Side, batch_tokens: int = 8192, progress: Progress = silent) -> np.ndarray:
        """Vectors (N, D) float32 of length 1, in the order of the texts.

        Args:
            texts: any strings, the empty one too.
            batch_tokens: padded tokens of one forward pass.
        """
        ids = self.token_ids(texts, side)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        emb_ND = np.empty((len(ids), self.dim), np.float32)
        tell = by_tokens(progress, [len(row) for row in ids])
        start = 0
        while start < len(order):
            stop = start + 1
            # of 8 bits each text alone: a batch shares its activations' scale, and a vector would depend on its neighbours
            while not self.int8 and stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= batch_tokens:
                stop += 1
            rows = order[start:stop]
            emb_ND[rows] = self._forward([ids[row] for row in rows])
            start = stop
            tell([len(ids[row]) for row in rows])
        return emb_ND

    def _forward(self, ids: list[list[int]]) -> np.ndarray:
        lengths_B = np.array([len(row) for row in ids], np.int64)
        ids_BL = np.zeros((len(ids), int(lengths_B.max())), np.int64)
        for row, values in zip(ids_BL, ids, strict=True):
            row[: len(values)] = values
        return self._session.run(None, {"input_ids": ids_BL, "lengths": lengths_B})[0]

    def _tokenizer(self, side: Side) -> SideTokenizer:
        if side not in self._tokenizers:
            settings = self.settings[side]
            self._tokenizers[side] = SideTokenizer(
                self.folder / side, settings["open_id"], settings["close_id"], settings.get("prompt", "")
            )
        return self._tokenizers[side]
