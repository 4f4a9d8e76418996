"""Encoders of a search: which files of an export each reads, and how it is loaded once they are verified.

N texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pipeline_lib.errors import UserError
from pipeline_lib.export.beside import FILE, Beside, side_by_side
from pipeline_lib.export.beside import FOLDER as BESIDE
from pipeline_lib.index.verified import check_files
from pipeline_lib.search.registry_log import Champion

if TYPE_CHECKING:
    import numpy as np

MODEL_FILES = ("search.json", "self_test.json", "model.onnx", "query/tokenizer.json")
INT8_FILE = "model.int8.onnx"  # in place of model.onnx, where it is asked for
WEIGHT_FILES = (
    *("self_test.json", "query/tokenizer.json", "document/tokenizer.json"),
    *("encoder/config.json", "encoder/model.safetensors"),
)


class QueryEncoder(Protocol):
    """A loaded export: model.onnx in onnxruntime, or where there is none the weights in torch."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    def token_ids(self, texts: Sequence[str], side: Literal["query", "document"]) -> list[list[int]]:
        """Ids of each text with their delimiters."""
        ...

    def embed(self, texts: Sequence[str], side: Literal["query", "document"]) -> np.ndarray:
        """Unit vectors (N, D)."""
        ...


LoadWeights = Callable[[Path], QueryEncoder]


class SideBySide:
    """The encoders of an export of two models.

    Args:
        own: of the first.
        other: of the second.
        share: of the second in the cosine.
    """

    def __init__(self, own: QueryEncoder, other: QueryEncoder, share: float) -> None:
        self.both, self.share = (own, other), share

    @property
    def dim(self) -> int:
        """Dimensions of a vector of both."""
        return sum(encoder.dim for encoder in self.both)

    def token_ids(self, texts: Sequence[str], side: Literal["query", "document"]) -> list[list[int]]:
        """Ids of each text, the first model's and then the second's: all that is read of it."""
        own, other = (encoder.token_ids(texts, side) for encoder in self.both)
        return [first + second for first, second in zip(own, other, strict=True)]

    def embed(self, texts: Sequence[str], side: Literal["query", "document"]) -> np.ndarray:
        """Unit vectors (N, D) of both."""
        own, other = (encoder.embed(texts, side) for encoder in self.both)
        return side_by_side(own, other, self.share)


def check_model(current: Champion, int8: bool) -> None:
    """Hash every file of the model that will be read.

    Raises:
        CorruptArtifact: a byte of one has changed.
        UserError: there is no graph of 8-bit weights, and it was asked for.
    """
    places = _places(current.model)
    if int8 and not all((current.model / place / INT8_FILE).is_file() for place in places):
        raise UserError(f"{current.model}: no {INT8_FILE}; publish it with --set export.quantize=int8, or leave --int8 out")
    files = [INT8_FILE if int8 and name == "model.onnx" else name for name in MODEL_FILES]
    names = [f"{place}{name}" for place in places for name in (files if has_onnx(current.model) else WEIGHT_FILES)]
    check_files(current.model, current.model_digest, [*names, *([FILE] if len(places) > 1 else [])])


def has_onnx(folder: Path) -> bool:
    """Whether every model of an export has its graph."""
    return all((folder / place / "model.onnx").is_file() for place in _places(folder))


def _places(folder: Path) -> list[str]:
    """Where the models of an export lie in it."""
    return ["", f"{BESIDE}/"] if (folder / FILE).is_file() else [""]


def load_encoder(folder: Path, load_weights: LoadWeights | None, int8: bool) -> QueryEncoder:
    """The encoder of a verified export, which has tested itself on the query's side.

    Raises:
        UserError: the export has no model.onnx, and nothing else loads it.
    """
    if int8 or has_onnx(folder):
        from pipeline_lib.search.onnx_encoder import OnnxEncoder

        own, beside = OnnxEncoder(folder, sides=("query",), int8=int8), Beside.read(folder)
        return SideBySide(own, OnnxEncoder(beside.folder, sides=("query",), int8=int8), beside.share) if beside else own
    if load_weights is None:
        raise UserError(f"{folder}: no model.onnx (the model card says why); search with `cpt search`, which takes torch then")
    return load_weights(folder)


def open_documents(current: Champion, encoder: QueryEncoder) -> None:
    """Verify and test what only documents need.

    Raises:
        CorruptArtifact: a byte of it has changed.
    """
    if not has_onnx(current.model):
        return  # the weights' loader verified and tested both sides
    from pipeline_lib.search.onnx_encoder import OnnxEncoder

    check_files(current.model, current.model_digest, [f"{place}document/tokenizer.json" for place in _places(current.model)])
    for own in encoder.both if isinstance(encoder, SideBySide) else (encoder,):
        if isinstance(own, OnnxEncoder):
            own.check(["document"])
