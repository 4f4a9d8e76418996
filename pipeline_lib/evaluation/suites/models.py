"""Models that can be measured: encoders of texts (checkpoints, exports, sentence-transformers) and models that compare words.

N texts or pairs, D width, Q queries, C documents, K hits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from pipeline_lib.config.model import depth_and_width
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import HYBRID, require_finite
from pipeline_lib.export import self_test
from pipeline_lib.index.fusion import Fusion, fused_scores
from pipeline_lib.model.checkpoint import Checkpoint, check_weights
from pipeline_lib.runtime.machine import Precision, PrecisionChoice, resolve_precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.tokens.delimiters import read_delimiters
from pipeline_lib.tokens.sentence_transformer import task_prompts

if TYPE_CHECKING:
    from pipeline_lib.export.exported import ExportedModel
    from pipeline_lib.model.encoder import Encoder
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
TEXTS_A_CALL = 256  # sentence-transformers does not say how far it is
HUB = "hub:"  # the network is asked only where a name begins so
PICKLE = "pytorch_model.bin"  # what modules without safetensors would be read from
HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickles


class CheckpointEncoder:
    """A checkpoint of a training run; its weights are loaded when the first text is embedded.

    Args:
        checkpoint: texts are cut to the lengths of its training.
        batch_tokens: padded tokens of one forward pass.
        precision: of matrix products; `auto` is resolved for this model and machine.
        task: whose prompts texts get, by the first of these names that has some; none: those of the sides.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        batch_tokens: int = 16_384,
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
        own = read_delimiters(self.checkpoint.tokenizer.part_folder())
        if own.for_task(*names) == own.for_task(*self.task):
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
        return ModelId(self.checkpoint.label, digest_of(content)[:FINGERPRINT_DIGITS], self.checkpoint.step)

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D); lone surrogates, which a tokenizer refuses, are replaced."""
        from pipeline_lib.model.micro_batches import embed_ids

        encoder, tokenizer = self._loaded
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        ids = tokenizer.encode(clean, side, self.checkpoint.max_tokens(side))
        return embed_ids(encoder, ids, self.batch_tokens, progress)

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
    def _model(self) -> ExportedModel:
        import torch

        from pipeline_lib.export.exported import ExportedModel

        return ExportedModel(self.folder, "cuda" if torch.cuda.is_available() else "cpu", self.precision).for_task(*self.task)


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
