"""Models from outside a run: exports by our own loader, and folders that sentence-transformers loads, here or on the hub.

N texts, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.config.model import depth_and_width
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import FINGERPRINT_DIGITS, ModelId, Side
from pipeline_lib.export import self_test
from pipeline_lib.model.checkpoint import check_weights
from pipeline_lib.runtime.machine import Precision, PrecisionChoice, resolve_precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.tokens.sentence_transformer import task_prompts

if TYPE_CHECKING:
    from pipeline_lib.export.exported import ExportedModel, ExportedPair

TEXTS_A_CALL = 256  # sentence-transformers does not say how far it is
HUB = "hub:"  # the network is asked only where a name begins so
PICKLE = "pytorch_model.bin"  # what modules without safetensors would be read from
HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickles


class ExportEncoder:
    """An export of ours by our own loader; loaded, and self-tested, when the first text is embedded.

    Args:
        folder: of the export.
        name: what tables call it.
        precision: of matrix products; `auto` is resolved for this model and machine.
    """

    def __init__(self, folder: Path, name: str, precision: PrecisionChoice = "auto", task: Sequence[str] = ()) -> None:
        self.folder, self.name, self._choice, self.task = folder, name, precision, tuple(task)

    def for_task(self, *names: str) -> ExportEncoder:
        """The same with the prompts of a task; itself, with its loaded weights, where the task has none of its own."""
        if task_prompts(self.folder, names) == task_prompts(self.folder, self.task):
            return self
        return ExportEncoder(self.folder, self.name, self._choice, names)

    @cached_property
    def precision(self) -> Precision:
        """The precision of its matrix products."""
        return resolve_precision(self._choice, *depth_and_width(self.folder / "encoder"))

    @cached_property
    def id(self) -> ModelId:
        """The fingerprint covers every file, and bfloat16."""
        loader = "export" if self.precision == "float32" else f"export, {self.precision}"
        if prompts := task_prompts(self.folder, self.task):
            loader += f", {json.dumps(prompts, sort_keys=True)}"
        return ModelId(self.name, _fingerprint(self.folder, loader))

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D)."""
        return self._model.embed(texts, side, progress=progress)

    @cached_property
    def _model(self) -> ExportedModel | ExportedPair:
        import torch

        from pipeline_lib.export.exported import open_export

        return open_export(self.folder, "cuda" if torch.cuda.is_available() else "cpu", self.precision).for_task(*self.task)


class SentenceTransformersEncoder:
    """A folder that sentence-transformers loads, through that library: x by `encode_query`, y by `encode_document`.

    Args:
        folder: of the model; its weights are safetensors, and code beside them is not run.
        name: what tables call it.

    Raises:
        CorruptArtifact: at the first text: a file of weights is malformed.
        UserError: at the first text: the library cannot load the folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    @cached_property
    def id(self) -> ModelId:
        """The fingerprint covers every file."""
        return ModelId(self.name, _fingerprint(self.folder, "sentence-transformers"))

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D)."""
        embed = self._model.encode_query if side == "x" else self._model.encode_document
        found = []
        for at in range(0, max(1, len(texts)), TEXTS_A_CALL):
            block = list(texts[at : at + TEXTS_A_CALL])
            found.append(embed(block, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False))
            progress(at + len(block), len(texts), f"{at + len(block):,} texts")
        return np.concatenate(found).astype(np.float32, copy=False)

    @cached_property
    def _model(self) -> Any:
        library = _sentence_transformers()
        for place in sorted({path.parent for path in self.folder.rglob("*") if path.is_file()}):
            check_weights(place)
            if (place / PICKLE).is_file() and not any(place.glob("*.safetensors")):
                raise UserError(f"{place}: cannot load it: {PICKLE} is a pickle; convert it to safetensors")
        try:
            return library.SentenceTransformer(
                str(self.folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise UserError(f"{self.folder}: sentence-transformers cannot load it: {error}") from error


def open_outside(name: str) -> ExportEncoder | SentenceTransformersEncoder:
    """The model in a folder, or on the hub where that is asked for.

    Args:
        name: FOLDER, NAME=FOLDER, hub:ORGANISATION/MODEL or NAME=hub:ORGANISATION/MODEL.

    Raises:
        UserError: there is no such model.
    """
    label, _, place = name.rpartition("=")
    folder = _fetched(place.removeprefix(HUB)) if place.startswith(HUB) else Path(place).expanduser()
    label = label or place.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    if (folder / self_test.FILE).is_file():
        return ExportEncoder(folder, label)
    if (folder / "modules.json").is_file() or (folder / "config.json").is_file():
        return SentenceTransformersEncoder(folder, label)
    raise UserError(f"{folder}: neither an export nor a sentence-transformers folder (no {self_test.FILE}, no modules.json)")


def _fetched(repository: str) -> Path:
    _sentence_transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{HUB}{repository}: not fetched: {error}; give the folder of a copy instead") from error


def _sentence_transformers() -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise UserError("this model needs sentence-transformers: pip install 'cpt-factory[test]'") from error
    return sentence_transformers


def _fingerprint(folder: Path, loader: str) -> str:
    files = [(str(p.relative_to(folder)), sha256_file(p)) for p in sorted(folder.rglob("*")) if p.is_file()]
    return digest_of([loader, files])[:FINGERPRINT_DIGITS]
