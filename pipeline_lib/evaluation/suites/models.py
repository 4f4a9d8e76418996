"""Models that can be measured: encoders of texts (checkpoints, exports, sentence-transformers) and models that compare words.

N texts or pairs, D width, Q queries, C documents, K hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from pipeline_lib.config.model import depth_and_width
from pipeline_lib.evaluation.metrics import HYBRID, require_finite
from pipeline_lib.export.beside import side_by_side
from pipeline_lib.index.fusion import Fusion, fused_scores
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.machine import Precision, PrecisionChoice, resolve_precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of
from pipeline_lib.tokens.delimiters import read_delimiters

if TYPE_CHECKING:
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

Side = Literal["x", "y"]  # x: queries and symmetric tasks; y: passages and code
SIDES: tuple[Side, Side] = ("x", "y")


@dataclass(frozen=True)
class ModelId:
    """Who a model is: its name in tables, its training step (-1 without one), and what its vectors depend on."""

    name: str
    fingerprint: str  # hexadecimal, over weights, tokenizer, lengths and precision: equal ones give equal vectors
    step: int = -1


@runtime_checkable
class TextEncoder(Protocol):
    """A model that embeds texts."""

    @property
    def id(self) -> ModelId: ...

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D), in the order of the texts."""
        ...


class Hits(NamedTuple):
    """The best documents of each query, best first: their row numbers (-1: no more) and scores, both (Q, K)."""

    rows_QK: np.ndarray
    scores_QK: np.ndarray


@runtime_checkable
class WordModel(Protocol):
    """A model that compares words, its statistics from the texts at hand."""

    @property
    def id(self) -> ModelId: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of suite that it can be put through."""
        ...

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[np.ndarray]:
        """Scores of every document, (Q, C) for a block of queries; 0 where no word is shared."""
        ...

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """A score of each pair, (N,)."""
        ...

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """Rows for a linear probe; the vocabulary is that of `fitted`."""
        ...


@dataclass(frozen=True)
class HybridModel:
    """An encoder and BM25 as one ranking, as a search has it (index/fusion.py).

    Attributes:
        fusion: chosen on validation, never on what is measured.
        kind: of the suite that it is put through.
    """

    encoder: TextEncoder
    fusion: Fusion
    name: str = HYBRID
    kind: str = "text_search"
    kinds: ClassVar[tuple[str, ...]] = ("text_search", "code_search")

    @property
    def id(self) -> ModelId:
        """The fingerprint covers the encoder and the fusion."""
        content = [self.encoder.id.fingerprint, FUSED_VERSION, asdict(self.fusion)]
        return ModelId(self.name, digest_of(content)[:FINGERPRINT_DIGITS])

    @property
    def precision(self) -> Precision:
        """The precision of the encoder's matrix products."""
        return precision_of(self.encoder)

    @property
    def side(self) -> str:
        """The kind of what is searched, as an index names it."""
        return self.kind.removesuffix("_search")

    def fused(self, cosines_QC: np.ndarray, bm25_QC: np.ndarray) -> np.ndarray:
        """Scores (Q, C) of all candidates by both scores of each."""
        pairs = zip(cosines_QC, bm25_QC, strict=True)
        return np.stack([fused_scores(cosines_C, bm25_C, self.side, self.fusion) for cosines_C, bm25_C in pairs])


Model = TextEncoder | WordModel | HybridModel


def precision_of(model: Model) -> Precision:
    """The precision of a model's matrix products; float32 where it names none."""
    return getattr(model, "precision", "float32")


COSINE_DECIMALS = 6  # float32 products of equal vectors differ by 1e-7, and must tie
FUSED_VERSION = 1  # raise where the same encoder and fusion begin to rank otherwise, or BM25 does
EMBED_VERSION = 1  # raise where the same weights begin to give other vectors: the cache is named by it
# of a checkpoint, with the folders of modules behind its pooling; the state of its training gives no vector
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "adapters.json",
    "adapters.safetensors",
    "modules.json",
    "prompt_ids.json",
    "token_weights.safetensors",
)
FINGERPRINT_DIGITS = 24


class CheckpointEncoder:
    """A checkpoint of a training run; its weights are loaded when the first text is embedded.

    Args:
        checkpoint: texts are cut to the lengths of its training.
        batch_tokens: padded tokens of one forward pass; None: as many as suit the device.
        precision: of matrix products; `auto` is resolved for this model and machine.
        task: whose prompts texts get, by the first of these names that has some; none: those of the sides.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        batch_tokens: int | None = None,
        precision: PrecisionChoice = "auto",
        task: Sequence[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.batch_tokens = batch_tokens
        self._choice = precision
        self.task = tuple(task)

    def for_task(self, *names: str) -> CheckpointEncoder:
        """The same with the prompts of a task; itself, with its loaded weights, where the task has none of its own."""
        self.checkpoint.trained.part(self.checkpoint.label)  # a name that there is not is told of first
        told = [read_delimiters(tokenizer.part_folder()) for tokenizer in self._tokenizers]
        if all(own.for_task(*names) == own.for_task(*self.task) for own in told):
            return self
        return CheckpointEncoder(self.checkpoint, self.batch_tokens, self._choice, names)

    @cached_property
    def precision(self) -> Precision:
        """The precision of its matrix products."""
        if self._choice != "auto":
            return self._choice
        return resolve_precision("auto", *depth_and_width(self.checkpoint.trained.part_folder(self.checkpoint.label)))

    @property
    def id(self) -> ModelId:
        """Named by the checkpoint's label; the fingerprint covers weights and their shape, tokenizer, lengths and bfloat16.

        Processors are no part of it: float32 vectors of one and another are up to 1e-5 apart.
        """
        lengths = [self.checkpoint.max_tokens(side) for side in ("x", "y")]
        files = self.checkpoint.trained.part(self.checkpoint.label).files
        model = [(file.name, file.sha256) for file in files if file.name in MODEL_FILES or "/" in file.name]
        content = [EMBED_VERSION, model, self.checkpoint.tokenizer.digest, lengths]
        if self.precision != "float32":
            content.append(self.precision)
        own = read_delimiters(self.checkpoint.tokenizer.part_folder()) if self.task else None
        if own and (asked := own.for_task(*self.task)) != own:
            content.append([asked.x_prompt, asked.y_prompt])
        if self._other:
            content.append([self._other.id.fingerprint, self._share])
        return ModelId(self.checkpoint.label, digest_of(content)[:FINGERPRINT_DIGITS], self.checkpoint.step)

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D); lone surrogates, which a tokenizer refuses, are replaced."""
        from pipeline_lib.model.micro_batches import embed_ids

        encoder, tokenizer = self._loaded
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        ids = tokenizer.encode(clean, side, self.checkpoint.max_tokens(side))
        own_ND = embed_ids(encoder, ids, self.batch_tokens, progress)
        return side_by_side(own_ND, self._other.encode(clean, side), self._share) if self._other else own_ND

    @cached_property
    def _other(self) -> CheckpointEncoder | None:
        """The encoder of the companion."""
        companion = self.checkpoint.companion
        if companion is None:
            return None
        return CheckpointEncoder(companion.checkpoint, self.batch_tokens, self._choice, self.task)

    @property
    def _share(self) -> float:
        return self.checkpoint.companion.share if self.checkpoint.companion else 0.0

    @property
    def _tokenizers(self) -> list[Artifact]:
        companion = self.checkpoint.companion
        return [self.checkpoint.tokenizer, *([companion.checkpoint.tokenizer] if companion else [])]

    @cached_property
    def _loaded(self) -> tuple[Encoder, PairTokenizer]:
        import torch

        from pipeline_lib.model.encoder import Encoder
        from pipeline_lib.model.lora import weights_folder
        from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

        encoder = Encoder.load(weights_folder(self.checkpoint))
        encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        encoder.precision = self.precision
        return encoder, PairTokenizer.load(self.checkpoint.tokenizer.part_folder()).for_task(*self.task)


def embedded(model: TextEncoder, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
    """Vectors of the texts, float32 (N, D).

    Raises:
        UserError: one is not finite; the message names the model and the first text.
    """
    vectors_ND = model.encode(texts, side, progress)
    require_finite(vectors_ND, model.id.name, f"the embedding on the {side} side", texts)
    return vectors_ND


def pair_similarity(model: Model, left: Sequence[str], right: Sequence[str], progress: Progress = silent) -> np.ndarray:
    """A score of each pair, float64 (N,): the cosine of two x embeddings, or the lexical model's own."""
    if isinstance(model, WordModel):
        return np.asarray(model.similarity(left, right), np.float64)
    assert isinstance(model, TextEncoder), f"{model.id.name} compares no texts"
    both_ND = embedded(model, [*left, *right], "x", progress)
    n = len(left)
    return np.round((both_ND[:n] * both_ND[n:]).sum(1, dtype=np.float64), COSINE_DECIMALS)


def probe_features(model: Model, train: Sequence[str], test: Sequence[str], progress: Progress = silent) -> tuple[Any, Any]:
    """Rows of training and test texts, dense (N, D) or sparse."""
    if isinstance(model, WordModel):
        return model.features(train, test)
    assert isinstance(model, TextEncoder), f"{model.id.name} has no features"
    both_ND = embedded(model, [*train, *test], "x", progress)
    return both_ND[: len(train)], both_ND[len(train) :]
