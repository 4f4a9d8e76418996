"""Loader of an exported model: an encoder from safetensors and JSON alone, self-tested before it answers.

N texts, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.export.beside import Beside, side_by_side
from pipeline_lib.export.self_test import SelfTest, weights_digest
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.tokens.delimiters import Delimiters, Side
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.sentence_transformer import SETTINGS_FILE, task_prompts
from pipeline_lib.tokens.tokenizer_files import bare_tokenizer, read_tokenizer_json

FOLDERS: dict[Side, str] = {"x": "query", "y": "document"}
SIDE_OF: dict[str, Side] = {name: side for side, name in FOLDERS.items()}


class TorchQueries:
    """An export without model.onnx, as search calls its encoder.

    Args:
        folder: the export.
    """

    def __init__(self, folder: Path) -> None:
        self._model = open_export(folder)

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        return self._model.width

    def embed(self, texts: Sequence[str], side: Literal["query", "document"]) -> np.ndarray:
        """Unit vectors (N, D)."""
        return self._model.embed(texts, SIDE_OF[side])

    def token_ids(self, texts: Sequence[str], side: Literal["query", "document"]) -> list[list[int]]:
        """Ids of each text with their delimiters."""
        return self._model.token_ids(texts, SIDE_OF[side])


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
        got = weights_digest(folder) if weights.is_file() else "no file"
        if got != self_test.weights_sha256:
            raise CorruptArtifact(f"{weights}: sha256 is {got}, exported was {self_test.weights_sha256}; export it again")
        # modules of sentence-transformers are a model's own, or say how its sides share an encoder
        has_own = not (folder / "router_config.json").is_file()
        self.encoder = Encoder.load(folder if has_own else folder / "encoder").to(device)
        self._tokenizer, self._max_tokens = _read_tokenizers(folder)
        self_test.check(self, {name: side for side, name in FOLDERS.items()})
        self.encoder.precision = precision

    def for_task(self, *names: str) -> ExportedModel:
        """The same with the prompts of the first of these tasks that has some."""
        if not (prompts := task_prompts(self.folder, names)):
            return self
        own = self._tokenizer.delimiters
        delimiters = replace(own, x_prompt=prompts.get("x", own.x_prompt), y_prompt=prompts.get("y", own.y_prompt))
        other = copy(self)
        other._tokenizer = PairTokenizer(self._tokenizer.tokenizer, delimiters)
        return other

    @property
    def width(self) -> int:
        """D, dimensions of a vector."""
        return self.encoder.width

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Ids of each text in its side's delimiters."""
        return self._tokenizer.encode(texts, side, self._max_tokens[side])

    def embed(
        self, texts: Sequence[str], side: Side, batch_tokens: int | None = None, progress: Progress = silent
    ) -> np.ndarray:
        """Unit vectors (N, D) float32 of texts as queries ("x") or documents ("y"), in their order."""
        return embed_ids(self.encoder, self.token_ids(texts, side), batch_tokens, progress)


class ExportedPair:
    """Two exported models side by side.

    Args:
        own: the first.
        other: the second.
        share: of the second in the cosine.
    """

    def __init__(self, own: ExportedModel, other: ExportedModel, share: float) -> None:
        self.own, self.other, self.share = own, other, share

    def for_task(self, *names: str) -> ExportedPair:
        """The same with the prompts of the first of these tasks that has some, each model with its own."""
        return ExportedPair(self.own.for_task(*names), self.other.for_task(*names), self.share)

    @property
    def width(self) -> int:
        """Dimensions of a vector of both."""
        return self.own.width + self.other.width

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Ids of each text, the first model's and then the second's: all that is read of it."""
        own, other = self.own.token_ids(texts, side), self.other.token_ids(texts, side)
        return [first + second for first, second in zip(own, other, strict=True)]

    def embed(
        self, texts: Sequence[str], side: Side, batch_tokens: int | None = None, progress: Progress = silent
    ) -> np.ndarray:
        """Unit vectors (N, D) float32 of texts as queries ("x") or documents ("y"), in their order."""
        own_ND = self.own.embed(texts, side, batch_tokens, progress)
        return side_by_side(own_ND, self.other.embed(texts, side, batch_tokens), self.share)


def open_export(folder: Path, device: str = "cpu", precision: Precision = "float32") -> ExportedModel | ExportedPair:
    """The model of an export, or both of them; see `ExportedModel`."""
    own, beside = ExportedModel(folder, device, precision), Beside.read(folder)
    return ExportedPair(own, ExportedModel(beside.folder, device, precision), beside.share) if beside else own


def _read_tokenizers(folder: Path) -> tuple[PairTokenizer, dict[Side, int]]:
    """Both sides as one tokenizer, which reads no more of a text than is kept: 3 times as fast as the files' own way.

    The self-test checks that both give the same ids.
    """
    fields = {side: read_tokenizer_json(folder / name) for side, name in FOLDERS.items()}
    x_wrap, y_wrap = (_wrapping(folder / name, fields[side]) for side, name in FOLDERS.items())
    settings = folder / SETTINGS_FILE
    prompts = json.loads(settings.read_text(encoding="utf-8")).get("prompts", {}) if settings.is_file() else {}
    own = {f"{side}_prompt": prompts.get(name, "") for side, name in FOLDERS.items()}
    delimiters = Delimiters(*x_wrap, *y_wrap, pad=0, **own)  # rows are padded by length, with whatever id
    tokenizer = PairTokenizer(bare_tokenizer(fields["x"]), delimiters)
    return tokenizer, {side: int(found["truncation"]["max_length"]) for side, found in fields.items()}


def _wrapping(folder: Path, fields: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor of a side's tokenizer.json puts before and behind a text."""
    try:
        ids = {name: token["ids"] for name, token in fields["post_processor"]["special_tokens"].items()}
        items = [item.get("SpecialToken") for item in fields["post_processor"]["single"]]
        text = items.index(None)
        before, behind = ([id_ for item in part for id_ in ids[item["id"]]] for part in (items[:text], items[text + 1 :]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptArtifact(f"{folder}: its tokenizer does not wrap texts as an export's does; export it again") from error
    return tuple(map(int, before)), tuple(map(int, behind))
