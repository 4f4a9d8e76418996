"""The pair that answers, the models that embed, and the threads that both work in.

A thread looks for another pair and opens it; the pair before answers until that is done, and what it has begun it finishes.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError, redacted
from pipeline_lib.search import registry
from pipeline_lib.search.encoders import LoadWeights, check_model, load_encoder, open_documents
from pipeline_lib.search.hits import render_json, safe_json
from pipeline_lib.search.query import FollowingSearcher, Mode, Searcher
from pipeline_lib.search.registry_log import opened
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.figures import Figures
from pipeline_lib.serve.maps import Maps
from pipeline_lib.serve.nearby import Asked, neighbours, texts_of
from pipeline_lib.serve.replies import BAD, BUSY, CONFLICT, FAULT, NOT_FOUND, Refused
from pipeline_lib.serve.rivals import Rivals, compared, rival, rivals_of

if TYPE_CHECKING:
    import numpy as np

    from pipeline_lib.search.filters import Filters
    from pipeline_lib.search.hits import Hit
    from pipeline_lib.search.registry_log import Champion, Home

DEFAULT = "default"  # the pair that is searched, as a model's name
SLICE = 256  # texts that are embedded between two looks whether anybody still waits
FACETS = ("language", "package", "licence")
MOST_CHARACTERS = 256  # of a filter's value
FAULTS = (LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)  # UserError and CorruptArtifact are the last
Side = Literal["query", "document"]


class Question(NamedTuple):
    """One search, as `Searcher.search` takes it."""

    query: str
    kind: str | None
    k: int
    filters: Filters | None
    mode: Mode
    explain: bool = False

    @property
    def rest(self) -> Hashable:
        """What searches that are answered together have in common."""
        return self[1:]


class DocumentEncoder(Protocol):
    """A loaded export that embeds both sides."""

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        ...

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Ids of each text with their delimiters."""
        ...

    def embed(self, texts: Sequence[str], side: Side) -> np.ndarray:
        """Unit vectors (N, D)."""
        ...


@dataclass(frozen=True)
class Embedded:
    """Vectors (N, D) of a request's texts, and the tokens that were read for them."""

    vectors_ND: np.ndarray
    tokens: int


class Engine:
    """Answers questions and embeds texts; its methods but `start` and `stop` are called in threads.

    Args:
        home: the artifact root, or the URL of a bucket's store.
        load_weights: see `search.query.search`; what it loads embeds documents too.

    Raises:
        UserError, CorruptArtifact: see `search.query.search`.
    """

    def __init__(self, config: ServeConfig, home: Home, load_weights: LoadWeights | None, figures: Figures) -> None:
        self.config, self.home, self.figures = config, home, figures
        self._load_weights = load_weights
        self._follower = FollowingSearcher(
            home, config.name, load_weights, int8=config.int8, text_cache_bytes=config.text_cache_bytes
        )
        self.searcher = self._follower.searcher()
        self.pool = ThreadPoolExecutor(config.n_threads, "search", initializer=_one_thread)
        self.embedding_pool = ThreadPoolExecutor(1, "embed")
        self.comparing_pool = ThreadPoolExecutor(1, "compare", initializer=_one_thread)  # one other pair is open at a time
        self.rivals = Rivals(home, load_weights, config.text_cache_bytes, config.against_idle_seconds)
        self.maps = Maps(config, home)
        self._encoders = Encoders(config, home, load_weights)
        self._facets: tuple[str, dict[str, Any]] = ("", {})  # of the index of a digest
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="follow")
        self._show()

    def start(self) -> None:
        """Begin to follow the name."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the threads end with what they are at."""
        self._stopped.set()
        self.maps.stop()
        for pool in (self.pool, self.embedding_pool, self.comparing_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(1.0)

    def answer(self, questions: Sequence[Question]) -> list[bytes | Exception]:
        """The JSON of each, or why there is none; those that differ in the query alone share the encoder's pass."""
        searcher = self.searcher
        answers: dict[Question, bytes | Exception] = {}
        for _, group in groupby(sorted(questions, key=lambda one: repr(one.rest)), key=lambda one: one.rest):
            answers |= self._answer_alike(searcher, list(group))
        return [answers[question] for question in questions]

    def _answer_alike(self, searcher: Searcher, questions: list[Question]) -> dict[Question, bytes | Exception]:
        _, kind, k, filters, mode, explain = questions[0]
        queries = [question.query for question in questions]
        try:
            if explain:
                found = self._explained(searcher, queries, questions[0])
            else:
                found = searcher.search_many(queries, kind, k, filters, mode)
        except FAULTS as error:
            if len(questions) > 1:  # one of them is at fault
                return {one: answer for each in questions for one, answer in self._answer_alike(searcher, [each]).items()}
            if isinstance(error, UserError):
                return {questions[0]: Refused(BAD, self.public(str(error)), "invalid_request")}
            logging.getLogger(__name__).exception("a search failed")  # what was asked is nobody's business
            return {questions[0]: Refused(FAULT, "a fault of the service; its log has it", "internal")}
        rendered = (render_json(one.query, hits).encode() for one, hits in zip(questions, found, strict=True))
        return dict(zip(questions, rendered, strict=True))

    def _explained(self, searcher: Searcher, queries: Sequence[str], asked: Question) -> list[list[Hit]]:
        from pipeline_lib.search.explain import explained

        allowed_N = searcher.allowed(asked.kind, asked.filters)
        ranked = searcher.ranked_many(queries, asked.k, allowed_N, asked.mode)
        return [explained(searcher, query, rows, allowed_N) for query, rows in zip(queries, ranked, strict=True)]

    def facets(self) -> dict[str, Any]:
        """The values that filters take, each with the texts that have it, the commonest first; and how many there are."""
        searcher = self.searcher
        digest, facets = self._facets
        if digest != searcher.current.index_digest:
            facets = _facets(searcher, self.config.max_facets)
            self._facets = (searcher.current.index_digest, facets)
        return facets

    def neighbours(self, asked: Asked, index: str) -> bytes:
        """The JSON of a text's neighbours.

        Args:
            index: digest of the index that row numbers were read from; empty: whichever answers.

        Raises:
            Refused: there is no such row or file, or another index answers by now.
        """
        return self._looked(index, lambda searcher: neighbours(searcher, asked))

    def texts(self, rows: Sequence[int], index: str) -> bytes:
        """The JSON of what rows hold. See `neighbours`."""
        return self._looked(index, lambda searcher: {"index": searcher.current.index_digest, "rows": texts_of(searcher, rows)})

    def _looked(self, index: str, look: Callable[[Searcher], dict[str, Any]]) -> bytes:
        searcher = self.searcher
        if index and index != searcher.current.index_digest:
            raise Refused(CONFLICT, "another index answers by now; load the map again", "index_changed", "index")
        try:
            return safe_json(look(searcher)).encode(errors="replace")
        except UserError as error:
            raise Refused(BAD, self.public(str(error)), "invalid_request") from error

    def compare(self, question: Question, against: str) -> bytes:
        """The JSON of one query's hits by the pair that answers and by another.

        Raises:
            Refused: there is no such pair, it cannot be opened, or the query is at fault.
        """
        searcher = self.searcher
        try:
            named, pair = rival(self.home, searcher.current, against or self.config.against)
            other = self.rivals.searcher(pair)
        except UserError as error:
            raise Refused(NOT_FOUND, self.public(str(error)), "candidate_not_found", "against") from error
        except (CorruptArtifact, TransientError, OSError) as error:
            logging.getLogger(__name__).warning("against %s: %s", against, redacted(str(error)))
            raise Refused(BUSY, "the other pair cannot be opened", "model_unavailable", "against") from error
        search = {"kind": question.kind, "k": question.k, "filters": question.filters, "mode": question.mode}
        try:
            found = compared(searcher, other, question.query, search)
        except UserError as error:
            raise Refused(BAD, self.public(str(error)), "invalid_request") from error
        return safe_json({"against": named, **found}).encode(errors="replace")

    def candidates(self) -> dict[str, Any]:
        """What the pair that answers can be compared with."""
        found = rivals_of(self.home, self.searcher.current)
        return {
            "name": self.searcher.current.name,
            "against": self.config.against,
            "candidates": [one._asdict() for one in found],
        }

    def embed(self, model: str, texts: Sequence[str], side: Side, cancelled: threading.Event) -> Embedded:
        """Vectors of texts.

        Args:
            model: a name of the registry, or `default`.
            cancelled: nobody waits for the answer any more.

        Raises:
            Refused: there is no such model, or it cannot be opened.
        """
        import numpy as np

        try:
            encoder = self._encoders.open(self.config.name if model == DEFAULT else model, self.searcher)
        except _NoModel as error:
            said = f"no model {model!r}; /v1/models lists them"
            raise Refused(NOT_FOUND, said, "model_not_found", "model") from error
        except UserError as error:
            raise Refused(BAD, self.public(str(error)), "model_unavailable", "model") from error
        except (CorruptArtifact, TransientError, OSError) as error:
            logging.getLogger(__name__).warning("model %s: %s", model, redacted(str(error)))
            raise Refused(BUSY, f"the model {model!r} cannot be opened", "model_unavailable", "model") from error
        parts: list[np.ndarray] = []
        tokens = 0
        for start in range(0, len(texts), SLICE):
            if cancelled.is_set():
                raise Refused(BUSY, "nobody waits for the answer", "cancelled")
            slice_ = texts[start : start + SLICE]
            tokens += sum(map(len, encoder.token_ids(slice_, side)))
            parts.append(encoder.embed(slice_, side))
        self.figures.texts.inc(len(texts))
        return Embedded(np.concatenate(parts), tokens)

    def models(self) -> dict[str, str]:
        """Names that embeddings take to the time since which their pair is in use."""
        found = {DEFAULT: self.searcher.current.since}
        for name in registry.names(self.home):
            try:
                if name != DEFAULT and (pair := registry.pair_of(self.home, name)):
                    found[name] = pair.since
            except (
                UserError,
                CorruptArtifact,
                TransientError,
                OSError,
            ) as error:  # of a name that is none of the others' business
                logging.getLogger(__name__).warning("model %s: %s", name, redacted(str(error)))
        return found

    def served(self) -> dict[str, Any]:
        """The pair that answers, for whoever looks after it."""
        current = self.searcher.current
        return {
            "name": current.name,
            "event": current.event,
            "since": current.since,
            "model_digest": current.model_digest,
            "index_digest": current.index_digest,
            "texts": self.searcher.rows.num_rows,
            "dimensions": self.searcher.encoder.dim,
        }

    def public(self, message: str) -> str:
        """A message without places of this machine."""
        told = redacted(message).replace(str(self.searcher.current.index), "this index").replace(str(self.home), "the store")
        return told.removeprefix("--")  # an option of the terminal is a parameter here

    def _follow(self) -> None:
        while not self._stopped.wait(self.config.follow_seconds):
            self.rivals.close_idle()
            try:
                searcher = self._follower.searcher()
            except (*FAULTS, ImportError):  # whatever it is about another pair: the one that answers goes on answering
                logging.getLogger(__name__).exception("goes on with the pair that it has")
                self._stopped.wait(5.0)
                continue
            if searcher is not self.searcher:
                self.searcher = searcher
                self.figures.swaps.inc()
                self._show()

    def _show(self) -> None:
        current = self.searcher.current
        self.figures.shows(current.name, current.model_digest, current.index_digest, self.searcher.rows.num_rows)


class _NoModel(Exception):
    """A name that the registry does not have."""


class Encoders:
    """The models of the names that embedded last, opened.

    Each name is looked up anew, so that a promotion holds for the next request, and the model before it is closed.
    """

    def __init__(self, config: ServeConfig, home: Home, load_weights: LoadWeights | None) -> None:
        self._config, self._home, self._load_weights = config, home, load_weights
        self._opened: OrderedDict[str, tuple[str, Any]] = OrderedDict()  # by name, with the model's digest
        self._lock = threading.Lock()

    def open(self, name: str, searcher: Searcher) -> DocumentEncoder:
        """The encoder of a name's model; that of the pair that is searched is shared with it.

        Raises:
            _NoModel: there is no such name.
            UserError: it has no weights of 8 bits, and these are asked for.
            CorruptArtifact: its files are not what they were.
        """
        current = searcher.current
        if name not in (self._config.name, current.name):
            try:
                current = opened(registry.in_use(self._home, name))
            except UserError as error:
                raise _NoModel from error
        digest = current.model_digest
        shared = searcher.encoder if digest == searcher.current.model_digest else None
        with self._lock:
            known: Any = shared or dict(self._opened.values()).get(digest)  # of whichever name
            before = self._opened.pop(current.name, None)
            found = known if known and before == (digest, known) else self._open(current, known)
            self._opened[current.name] = (digest, found)
            if len(self._opened) > self._config.max_models:
                self._opened.popitem(last=False)
            return found

    def _open(self, current: Champion, shared: Any) -> Any:
        """Both sides of a model, every file of it verified."""
        if shared is None:
            check_model(current, self._config.int8)
            shared = load_encoder(current.model, self._load_weights, self._config.int8)
        open_documents(current, shared)
        return shared


def _facets(searcher: Searcher, most: int) -> dict[str, Any]:
    import pyarrow.compute as pc

    from pipeline_lib.search.filters import NOT_STATED

    found: dict[str, Any] = {"code": searcher.n_code, "text": searcher.rows.num_rows - searcher.n_code}
    for name in FACETS:
        if name not in searcher.rows.column_names:  # of an index of an earlier version
            found[name] = {"values": [], "distinct": 0}
            continue
        counts = pc.value_counts(searcher.rows.column(name).unify_dictionaries()).to_pylist()
        named = [(str(NOT_STATED if one["values"] is None else one["values"]), int(one["counts"])) for one in counts]
        ordered = sorted(named, key=lambda one: (-one[1], one[0]))
        values = [{"value": value, "count": count} for value, count in ordered if value and len(value) <= MOST_CHARACTERS]
        found[name] = {"values": values[:most], "distinct": len(named)}
    return found


def as_base64(vectors_ND: np.ndarray) -> Iterator[str]:
    """Each vector as little-endian float32, in base64."""
    for vector_D in vectors_ND.astype("<f4"):
        yield base64.b64encode(vector_D.tobytes()).decode()


def _one_thread() -> None:
    """FAISS's own threads would be as many again in each of ours."""
    import faiss

    faiss.omp_set_num_threads(1)
