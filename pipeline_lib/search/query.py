"""Semantic search: one query to ranked functions and passages, in a fresh process in under 1.5 s.

Legend: D width, N rows of the index, K results.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.index.rows import CACHE_BYTES, ROWS, TEXT_DIGESTS, Ranked, Texts
from pipeline_lib.index.verified import check_files, read_json
from pipeline_lib.search.encoders import LoadWeights, check_model, load_encoder, open_documents
from pipeline_lib.search.hits import Hit, hits_of
from pipeline_lib.search.registry import default_stamp, has_moved, in_use
from pipeline_lib.search.registry_log import Champion, Home, opened

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from pipeline_lib.search.filters import Filters

Mode = Literal["auto", "vectors", "bm25", "hybrid"]
KINDS = ("code", "text")
MODES: tuple[Mode, ...] = ("auto", "vectors", "bm25", "hybrid")
VERSION = 2  # of index.json, the last that is understood
MASKS_KEPT = 8  # of filters, a byte a row each
RETRY_SECONDS = 5.0  # until a pair that could not be opened is tried again


def search(
    home: Home, query: str, kind: str | None = None, k: int = 10, load_weights: LoadWeights | None = None, name: str = ""
) -> list[Hit]:
    """The k functions and passages that are nearest to the query, best first.

    Args:
        home: the artifact root, or the URL of a bucket's store.
        kind: "code" or "text" alone; None: both.
        k: results at most; fewer where the index has fewer.
        load_weights: takes an export without model.onnx; it may import what this package does not.
        name: of the model; empty: see `registry.default_name`.

    Raises:
        UserError: there is no index yet, or its model has no model.onnx and nothing else loads it; the query is empty, or
            kind or k make no sense.
        CorruptArtifact: model and index do not belong together, or a byte of either has changed.
    """
    _check_request(query, kind, k)
    return Searcher(in_use(home, name), load_weights).search(query, kind, k)


class Searcher:
    """An opened (model, index) pair: every byte that it reads was verified, while the libraries were being loaded.

    Args:
        current: see `registry.in_use`.
        load_weights: see `search`.
        int8: embed queries by the export's graph of 8-bit weights.
        text_cache_bytes: see `rows.Texts`.

    Raises:
        CorruptArtifact: see `search`.
        UserError: see `search`; or the model has no such graph.
    """

    def __init__(
        self,
        current: Champion,
        load_weights: LoadWeights | None = None,
        int8: bool = False,
        text_cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.current = opened(current)
        self._embeds_documents = False
        self._masks: dict[Any, np.ndarray] = {}
        try:
            self._open(load_weights, int8, text_cache_bytes)
        except (UserError, CorruptArtifact, TransientError, OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # every byte is as it was written, so that it was another version that wrote it
            raise CorruptArtifact(
                f"{self.current.index}: this version cannot open it ({type(error).__name__}: {error}); `cpt run` or"
                " `cpt publish` builds it again from the vectors that are there"
            ) from error

    def _open(self, load_weights: LoadWeights | None, int8: bool, text_cache_bytes: int) -> None:
        current = self.current
        # hashing lets go of the interpreter's lock, so that it costs nothing beside half a second of imports
        with ThreadPoolExecutor(1) as pool:
            verified = pool.submit(_verify, current, int8)
            import pyarrow as pa

            from pipeline_lib.index.factories import open_index
            from pipeline_lib.index.hybrid import Hybrid

            import_module("faiss")
            self.facts = facts = verified.result()
        self.encoder = load_encoder(current.model, load_weights, int8)
        self.rows: pa.Table = pa.ipc.open_file(pa.memory_map(str(current.index / ROWS))).read_all()
        self.texts = Texts(current.index, text_cache_bytes) if facts.get("text_characters") else None
        self.index = open_index(current.index, facts)
        self.hybrid = Hybrid(current.index, facts) if "bm25" in facts else None
        self.n_code: int = facts["code"]  # functions come first, see index/index.py
        got = (self.rows.num_rows, self.index.ntotal, self.index.d, self.encoder.dim)
        expected = (facts["count"], facts["count"], facts["dim"], facts["dim"])
        if got != expected:
            raise CorruptArtifact(f"{current.index}: rows, vectors, width, model's width are {got}, not {expected}")

    def search(
        self, query: str, kind: str | None = None, k: int = 10, filters: Filters | None = None, mode: Mode = "auto"
    ) -> list[Hit]:
        """See the function `search`."""
        return self.search_many([query], kind, k, filters, mode)[0]

    def search_many(
        self,
        queries: Sequence[str],
        kind: str | None = None,
        k: int = 10,
        filters: Filters | None = None,
        mode: Mode = "auto",
    ) -> list[list[Hit]]:
        """The hits of each query, all of which are embedded together."""
        for query in queries:
            _check_request(query, kind, k)
        allowed_N = self.allowed(kind, filters)
        answers = self.ranked_many(queries, k, allowed_N, mode)
        return [self.hits(ranked, query) for query, ranked in zip(queries, answers, strict=True)]

    def ranked(self, query: str, k: int, allowed_N: np.ndarray | None = None, mode: Mode = "auto") -> list[Ranked]:
        """The best k rows of the index for a query.

        Args:
            allowed_N: true where a row may be an answer; None: everywhere.
            mode: what ranks them; auto: what measured better for the kind, see index.json.

        Raises:
            UserError: the index has no BM25, and it was asked for.
        """
        return self.ranked_many([query], k, allowed_N, mode)[0]

    def ranked_many(
        self, queries: Sequence[str], k: int, allowed_N: np.ndarray | None = None, mode: Mode = "auto"
    ) -> list[list[Ranked]]:
        """`ranked` of each query, all of which are embedded together."""
        if mode not in MODES:
            raise UserError(f"mode {mode!r} is unknown; choose one of: {', '.join(MODES)}")
        hybrid = self.hybrid
        if hybrid is None and mode in ("bm25", "hybrid"):
            raise UserError(
                f"{self.current.index}: made before indexes held BM25, so it cannot answer mode {mode}; search without a mode, "
                "or index once more with `cpt run`"
            )
        if hybrid and mode == "bm25":
            return [hybrid.by_words(query, k, allowed_N) for query in queries]
        vectors_QD = self.encoder.embed(list(queries), "query")
        shares = hybrid.shares(mode, allowed_N) if hybrid else {}
        if hybrid is None or all(share == 1 for share in shares.values()):
            return self.ranked_by_vectors(vectors_QD, k, allowed_N)
        return hybrid.by_both(self.index, list(zip(queries, vectors_QD, strict=True)), k, allowed_N, shares)

    def ranked_by_vector(self, vector_1D: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> list[Ranked]:
        """The best k rows around a vector (1, D)."""
        return self.ranked_by_vectors(vector_1D, k, allowed_N)[0]

    def ranked_by_vectors(self, vectors_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> list[list[Ranked]]:
        """`ranked_by_vector` of each vector (Q, D), all of which are compared in one pass over the index."""
        from pipeline_lib.index.factories import nearest

        scores_QK, rows_QK = nearest(self.index, vectors_QD, k, allowed_N)
        found = [
            zip(rows_K, scores_K, strict=True) for rows_K, scores_K in zip(rows_QK.tolist(), scores_QK.tolist(), strict=True)
        ]
        return [[Ranked(row, score, rank, score) for rank, (row, score) in enumerate(one, 1) if row >= 0] for one in found]

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, D) of texts as the index holds them; what only documents need is verified at the first call.

        Raises:
            CorruptArtifact: a byte of it has changed.
        """
        if not self._embeds_documents:
            open_documents(self.current, self.encoder)
            self._embeds_documents = True
        return self.encoder.embed(list(texts), "document")

    def nearest(self, vector_1D: np.ndarray, kind: str | None, k: int) -> list[Hit]:
        """The hits around a vector (1, D).

        Raises:
            UserError: it holds a value that is not finite, or has another width.
        """
        return self.hits(self.ranked_by_vector(self._checked(vector_1D), k, self.allowed(kind, None)))

    def allowed(self, kind: str | None, filters: Filters | None) -> np.ndarray | None:
        """True for the rows that may be answers, None where all may; kept for the next search of the same kind and filters.

        Raises:
            UserError: see `Filters.mask`.
        """
        if kind is None and not filters:
            return None
        key = (kind, filters or None)
        allowed_N = self._masks.get(key)
        if allowed_N is None:
            allowed_N = self._mask(kind, filters)
            if len(self._masks) >= MASKS_KEPT:
                self._masks.clear()
            self._masks[key] = allowed_N
        return allowed_N

    def _mask(self, kind: str | None, filters: Filters | None) -> np.ndarray:
        """Functions come first, see index/index.py."""
        import numpy as np

        allowed_N = filters.mask(self.rows) if filters else None
        of_kind_N = np.ones(self.index.ntotal, bool)
        if kind is not None:
            of_kind_N[self.n_code :] = kind == "text"
            of_kind_N[: self.n_code] = kind == "code"
        return of_kind_N if allowed_N is None else of_kind_N & allowed_N

    def _checked(self, vector_1D: np.ndarray) -> np.ndarray:
        import numpy as np

        if vector_1D.shape != (1, self.index.d) or not np.isfinite(vector_1D).all():
            raise UserError(
                f"the query's vector must be (1, {self.index.d}) finite numbers, got {vector_1D.shape}; embed it again"
            )
        return np.ascontiguousarray(vector_1D, np.float32)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of rows: of pairs that hold their texts."""
        import numpy as np

        chunks = self.rows.column("id").chunks
        ends = np.cumsum([len(chunk) for chunk in chunks])
        places = np.searchsorted(ends, np.asarray(rows, np.int64), side="right")
        return [chunks[at][row - int(ends[at])].as_py() for at, row in zip(places.tolist(), rows, strict=True)]

    def hits(self, ranked: Sequence[Ranked], query: str = "") -> list[Hit]:
        """What the rows hold, with snippets of the query's words."""
        return hits_of(self.rows, self.texts, query, [(found.row, found.score) for found in ranked])


class FollowingSearcher:
    """A searcher of a long-running process: it goes over to another pair when its name gets one, without a restart.

    Queries that are under way, and those that come while the other pair is opened, are answered by the pair before. A pair
    that cannot be opened is left alone, and tried again.

    Args:
        home, load_weights: see `search`.
        name: of the model; empty: whichever searches use without a name.
        every: seconds between two looks at the registry; None: none on a disk, where a look takes some 0.02 ms, and 5 for a
            bucket.
        int8, text_cache_bytes: see `Searcher`.

    Raises:
        UserError, CorruptArtifact: see `search`, at the start alone.
    """

    def __init__(
        self,
        home: Home,
        name: str = "",
        load_weights: LoadWeights | None = None,
        every: float | None = None,
        int8: bool = False,
        text_cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.home, self.name = home, name
        self._open = partial(Searcher, load_weights=load_weights, int8=int8, text_cache_bytes=text_cache_bytes)
        self._opening = threading.Lock()
        self._default = default_stamp(home)
        self._searcher = self._open(in_use(home, name))
        self._seen = self._searcher.current
        self._every = every if every is not None else 5.0 if "://" in str(self._seen.home) else 0.0
        self._look_at = 0.0

    def search(
        self, query: str, kind: str | None = None, k: int = 10, filters: Filters | None = None, mode: Mode = "auto"
    ) -> list[Hit]:
        """See the function `search`."""
        return self.searcher().search(query, kind, k, filters, mode)

    def search_many(
        self,
        queries: Sequence[str],
        kind: str | None = None,
        k: int = 10,
        filters: Filters | None = None,
        mode: Mode = "auto",
    ) -> list[list[Hit]]:
        """The hits of each query, all of one pair."""
        return self.searcher().search_many(queries, kind, k, filters, mode)

    def searcher(self) -> Searcher:
        """The searcher of the pair that is in use now."""
        if time.monotonic() >= self._look_at and self._opening.acquire(blocking=False):
            try:
                self._look_at = time.monotonic() + self._every
                self._follow()
            except (UserError, CorruptArtifact, TransientError, OSError) as error:
                self._look_at = time.monotonic() + RETRY_SECONDS
                logging.getLogger(__name__).warning("goes on with %s: %s", self._seen.model, error)
            finally:
                self._opening.release()
        return self._searcher

    def _follow(self) -> None:
        default = default_stamp(self.home)
        if not has_moved(self._seen, self.home) and (self.name or default == self._default):
            return
        found = in_use(self.home, self.name)
        if (found.model_digest, found.index_digest) != (self._seen.model_digest, self._seen.index_digest):
            self._searcher = self._open(found)
        self._seen, self._default = found, default


def _check_request(query: str, kind: str | None, k: int) -> None:
    if not query.strip():
        raise UserError('the query is empty; say what you look for, as in: cpt search "parse an ISO 8601 date"')
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; choose one of: {', '.join(KINDS)}")
    if k < 1:
        raise UserError(f"k is {k}, expected 1 or more")


def _verify(current: Champion, int8: bool) -> dict[str, Any]:
    """Hash every file that will be read, and check that the index is this model's; returns index.json."""
    check_model(current, int8)
    check_files(current.index, current.index_digest, ["index.json"])
    facts = read_json(current.index / "index.json")
    if facts.get("version", 1) > VERSION:
        raise UserError(
            f"{current.index}: an index of version {facts['version']}, this program reads up to {VERSION}; install a newer one,"
            " or build it again with `cpt run`"
        )
    of_vectors = [name for name in facts.get("files", ["index.faiss"]) if name != "vectors.bin"]  # which has digests of its own
    of_texts = [TEXT_DIGESTS] if facts.get("text_characters") else []
    of_words = facts["bm25"]["files"] if "bm25" in facts else []
    check_files(current.index, current.index_digest, [ROWS, *of_vectors, *of_texts, *of_words])
    if facts.get("model_digest") != current.model_digest:
        raise CorruptArtifact(
            f"{current.index}: made by model {str(facts.get('model_digest'))[:12]}, {current.model} is "
            f"{current.model_digest[:12]}; run `cpt run` again"
        )
    return facts
