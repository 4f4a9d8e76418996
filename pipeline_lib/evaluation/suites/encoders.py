"""Models by what a person writes: our checkpoints, the lexical baselines by name, others by folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.evaluate import Embed, load_embedder
from pipeline_lib.evaluation.suites.lexical import Bm25Model, TfidfModel
from pipeline_lib.evaluation.suites.models import Model, ModelId, Side, open_outside
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of

MODEL_FILES = ("config.json", "model.safetensors")  # of a checkpoint; the state of its training gives no vector
EMBED_VERSION = 1  # raise where the same weights begin to give other vectors: the cache is named by it
FINGERPRINT_DIGITS = 24

OPENERS: dict[str, Callable[[], Model]] = {"bm25": Bm25Model, "tfidf": TfidfModel}


class CheckpointEncoder:
    """A checkpoint of a training run; its weights are loaded when the first text is embedded."""

    def __init__(self, checkpoint: Checkpoint, batch_tokens: int = 16_384) -> None:
        self.checkpoint = checkpoint
        self.batch_tokens = batch_tokens
        self._embed: Embed | None = None

    @property
    def id(self) -> ModelId:
        """Named by the checkpoint's label; the fingerprint covers weights and their shape, tokenizer and lengths.

        Processors are no part of it: float32 vectors of one and another are up to 1e-5 apart.
        """
        lengths = [self.checkpoint.max_tokens(side) for side in ("x", "y")]
        files = self.checkpoint.trained.part(self.checkpoint.label).files
        model = [(file.name, file.sha256) for file in files if file.name in MODEL_FILES]
        content = [EMBED_VERSION, model, self.checkpoint.tokenizer.digest, lengths]
        return ModelId(self.checkpoint.label, digest_of(content)[:FINGERPRINT_DIGITS], self.checkpoint.step)

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D), texts cut to the lengths of training."""
        if self._embed is None:
            self._embed = load_embedder(self.checkpoint, self.batch_tokens)
        return self._embed([_clean(text) for text in texts], side, progress)


def open_model(name: str) -> Model:
    """A lexical baseline by its name, else the model in a folder or on the hub (see `outside.open_outside`).

    Raises:
        UserError: there is none.
    """
    if name in OPENERS:
        return OPENERS[name]()
    if "/" not in name and not Path(name).is_dir():
        raise UserError(f"no model {name!r}; there are: {', '.join(OPENERS)}, FOLDER, NAME=FOLDER and hub:ORGANISATION/MODEL")
    return open_outside(name)


def _clean(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and a tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")
