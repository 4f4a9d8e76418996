"""FAISS index over all functions and passages of the curated pairs: stage "index".

Searchable is every distinct function body and every distinct piece of prose. A function may come in several pairs (views of
it); the one made of its docstring speaks for it. A passage stands in up to two pairs, as y of one and x of the next: y is
preferred, because a pair's line is that of its y. Vectors come from the store's cache (vectors.py), so that another factory,
a killed build that goes on, and a corpus that grew embed only texts that are new.

N rows, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.config.queries import QUERIES_VIEW
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation, UserError
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.search.factories import open_index
from pipeline_lib.search.hybrid import FILES as WORD_FILES
from pipeline_lib.search.hybrid import SAMPLE, Hybrid, sampled_rows
from pipeline_lib.search.index_build import ADDED_ROWS, Vectors, write_files
from pipeline_lib.search.index_fusion import measured_fusion, read_questions
from pipeline_lib.search.lexical import BM25_B, BM25_K1, Bm25Writer
from pipeline_lib.search.recall_gate import FEWEST_QUERIES, QUERIES, Asked, perturbed, settle
from pipeline_lib.search.rows import ROWS, TEXTS, RowWriter
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import Side, VectorCache, text_hashes

STAGE = Stage(name="index", version=3)
UNIT_TOLERANCE = 1e-2  # of a vector's length; bfloat16 products stay within
BATCH_ROWS = 4096
DOC_CHARACTERS = 160
DOC_WORDS = 12
DOCSTRING = "docstring"
_COLUMNS = ["id", "kind", "x", "y", "source", "group", "path", "line", "name", "language", "licence"]


@dataclass(frozen=True)
class Piece:
    """One searchable text and its columns of INDEX_ROWS; `id` is that of a pair it stands in."""

    text: str
    id: str
    kind: str
    name: str
    path: str
    line: int
    doc: str
    source: str
    language: str
    package: str
    licence: str | None


@dataclass(frozen=True)
class Choice:
    """The chosen texts: x of pair p is 2 p, y of it 2 p + 1, p counting over all files in order; both arrays ascend."""

    code: np.ndarray
    text: np.ndarray
    n_seen: int

    @property
    def n_code(self) -> int:
        """Distinct functions."""
        return len(self.code)

    @property
    def n_text(self) -> int:
        """Distinct passages."""
        return len(self.text)


def choose_pieces(paths: Sequence[Path]) -> Choice:
    """One text of each hash and kind, from the hashes alone: 24 bytes of memory a text."""
    seen: dict[str, list[np.ndarray]] = {"code": [], "text": []}
    first = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["kind", "view", "x_hash", "y_hash"]):
            kinds, views = (np.array(batch[name].to_pylist(), dtype=object) for name in ("kind", "view"))
            pairs = np.arange(first, first + len(kinds), dtype=np.int64)
            x_hash, y_hash = (batch[name].to_numpy() for name in ("x_hash", "y_hash"))
            own = views != QUERIES_VIEW  # whose texts are in other pairs, or are documents as a whole
            code, text = (kinds == "code") & own, (kinds == "text") & own
            seen["code"].append(_candidates(y_hash, views != DOCSTRING, 2 * pairs + 1)[:, code])
            seen["text"].append(_candidates(y_hash, np.zeros(len(kinds)), 2 * pairs + 1)[:, text])
            seen["text"].append(_candidates(x_hash, np.ones(len(kinds)), 2 * pairs)[:, text])
            first += len(kinds)
    chosen = {kind: _first_of_each(candidates) for kind, candidates in seen.items()}
    return Choice(**chosen, n_seen=sum(part.shape[1] for parts in seen.values() for part in parts))


def read_pieces(paths: Sequence[Path], choice: Choice) -> Iterator[Piece]:
    """The chosen texts, all functions before all passages, each kind in the order of the files."""
    for kind, chosen in (("code", choice.code), ("text", choice.text)):
        first = at = 0
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=_COLUMNS):
                end = np.searchsorted(chosen, 2 * (first + batch.num_rows))
                wanted = chosen[at:end]
                rows = batch.take(wanted // 2 - first).to_pylist()
                for row, is_y in zip(rows, (wanted % 2).tolist(), strict=True):
                    yield _function(row) if kind == "code" else _passage(row, bool(is_y))
                first, at = first + batch.num_rows, int(end)


def distinct_values(paths: Sequence[Path]) -> dict[str, list[str]]:
    """The values of columns that have few, in alphabetical order; some may stand in no chosen text."""
    columns = {"kind": "kind", "source": "source", "language": "language", "package": "group", "licence": "licence"}
    found: dict[str, set[str]] = {name: set() for name in columns}
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=[*columns.values()]):
            for name, column in columns.items():
                found[name].update(batch[column].unique().to_pylist())
    return {name: sorted(value for value in values if value is not None) for name, values in found.items()}


def validation_queries(curated: Artifact, most: int) -> list[str]:
    """Texts x of the validation split, each once, those with the lowest hashes; the test split is not opened."""
    parts = [part for part in curated.manifest.parts if part.label == "validation"]
    kept: dict[int, str] = {}
    for part in parts:
        path = curated.part_folder(part.label) / "pairs.parquet"
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["x_hash", "x"]):
            kept |= zip(batch["x_hash"].to_pylist(), batch["x"].to_pylist(), strict=True)
            kept = dict(sorted(kept.items())[:most])
    return [text for text in kept.values() if text.strip()]


def _candidates(hashes: np.ndarray, priority: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.stack([hashes, priority.astype(np.int64), places])


def _first_of_each(candidates: list[np.ndarray]) -> np.ndarray:
    """The place with the lowest priority of each hash, then the lowest place; ascending."""
    if not candidates:
        return np.empty(0, np.int64)
    hashes, priority, places = np.concatenate(candidates, axis=1)
    order = np.lexsort((places, priority, hashes))
    hashes, places = hashes[order], places[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    return np.sort(places[is_first])


def _function(row: dict[str, Any]) -> Piece:
    return _piece(row, "code", row["y"], _first_line(row["x"]))


def _passage(row: dict[str, Any], is_y: bool) -> Piece:
    text = row["y"] if is_y else row["x"]
    return _piece(row, "text", text, _first_words(text))


def _piece(row: dict[str, Any], kind: str, text: str, doc: str) -> Piece:
    same = {name: row[name] for name in ("id", "name", "path", "line", "source", "language", "licence")}
    return Piece(text=text, kind=kind, doc=doc, package=row["group"], **same)


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    return line if len(line) <= DOC_CHARACTERS else line[: DOC_CHARACTERS - 1] + "…"


def _first_words(text: str) -> str:
    words = text.split(maxsplit=DOC_WORDS)
    shown = " ".join(words[:DOC_WORDS]) + (" …" if len(words) > DOC_WORDS else "")
    return shown if len(shown) <= DOC_CHARACTERS else shown[: DOC_CHARACTERS - 1] + "…"


class Fingerprinted(Protocol):
    """An identity of a model."""

    @property
    def fingerprint(self) -> str:
        """A digest of weights, tokenizer and lengths."""
        ...


class DocumentEncoder(Protocol):
    """A model that embeds documents."""

    @property
    def id(self) -> Fingerprinted: ...

    @property
    def precision(self) -> Precision: ...

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D), in the order of the texts."""
        ...


def build_index(
    store: Store,
    exported: Artifact,
    curated: Artifact,
    config: IndexConfig,
    encoder: DocumentEncoder,
    progress: Progress = silent,
) -> Artifact:
    """Index every distinct function and passage, code first; the part "index" ties it to the model's digest.

    Args:
        exported: the model; only its digest is read here.
        curated: every split's pairs are read: a search finds all there is.
        config: the kind of index, and the processes that make the shards of a large one; the artifact is named by the
            encoder's precision, whatever this one says.
        encoder: that model; a text that any run embedded with it before is not embedded again.
        progress: counts texts.

    Raises:
        UserError: there is nothing to index, FAISS does not know the factory, or no kind fits the budget.
        ContractViolation: a vector is not finite or not of length 1, or recall@10 stays below its floor.
    """

    config = config.model_copy(update={"precision": encoder.precision})

    def cache(side: Side) -> VectorCache:
        def embed(texts: Sequence[str], told: Progress) -> np.ndarray:
            vectors_ND = encoder.encode(texts, side, told)
            _check_vectors(vectors_ND, len(texts))
            return vectors_ND

        return VectorCache(store, encoder.id.fingerprint, side, embed)

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key)
        if part is None:
            part = _Build(store, exported.digest, config, cache, progress).run(key, curated)
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, config, {"curated": curated, "exported": exported}, make)


@dataclass(frozen=True)
class _Build:
    store: Store
    model_digest: str
    config: IndexConfig
    cache_of: Callable[[Side], VectorCache]
    progress: Progress

    @cached_property
    def cache(self) -> VectorCache:
        """Vectors of documents."""
        return self.cache_of("y")

    def run(self, key: str, curated: Artifact) -> Part:
        """Write rows and embed what is new slice by slice, then the vectors of all in one index."""
        paths = curated.paths("pairs.parquet")
        chosen = choose_pieces(paths)
        total = chosen.n_code + chosen.n_text
        if total == 0:
            raise UserError(f"{curated.folder}: no pairs, so there is nothing to index; look at what extract dropped")
        scratch = self.store.scratch(STAGE.name)
        words = Bm25Writer(scratch) if self.config.bm25 else None
        with RowWriter(scratch, self.config.text_characters, distinct_values(paths)) as writer:
            hashes_N2 = self._embedded(read_pieces(paths, chosen), total, writer, words)
        vectors = Vectors(lambda at: self.cache.read(hashes_N2[at : at + ADDED_ROWS]), range(0, total, ADDED_ROWS))
        made = write_files(vectors, self.config, scratch, self.store)
        made |= settle(scratch, made, self.config, lambda: self._asked(curated) or perturbed(vectors), vectors)
        facts = {"count": total, "code": chosen.n_code, "text": chosen.n_text, "dim": made["dim"]}
        kept = {"text_characters": self.config.text_characters, "texts_cut": writer.n_cut}
        record = {**made, **facts, **kept, "version": 2, "model_digest": self.model_digest}
        record["vectors"] = self.cache.fingerprint  # finds them in the store's cache
        record |= self._with_words(scratch, record, words, hashes_N2, curated) if words else {}
        record |= {"probes": self.config.probes} if self.config.probes > 1 else {}
        (scratch / "index.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        counts = Counts(n_in=chosen.n_seen, n_out=total, dropped={"duplicate": chosen.n_seen - total})
        rows = dict.fromkeys([ROWS, "index.faiss", *([TEXTS] if self.config.text_characters else [])], total)
        draft = draft_part(STAGE, key, "index", counts, rows=rows, facts=facts)
        return self.store.commit_part(draft, scratch)

    def _with_words(
        self, folder: Path, record: dict[str, Any], words: Bm25Writer, hashes_N2: np.ndarray, curated: Artifact
    ) -> dict[str, Any]:
        """Write BM25 and the sample of vectors beside the index: what index.json says of both, and of what ranks best."""
        made = {"bm25": {**words.close(), "k1": BM25_K1, "b": BM25_B, "files": list(WORD_FILES)}}
        np.save(folder / SAMPLE, self.cache.read(hashes_N2[sampled_rows(record["code"], record["text"])]))
        asked = read_questions(curated, self.config.fusion_queries, hashes_N2, record["code"])
        hybrid = Hybrid(folder, record)
        return made | {
            "fusion": measured_fusion(open_index(folder, record), hybrid, asked, self._embed_queries, self.config.fusion_depth)
        }

    def _embed_queries(self, queries: Sequence[str]) -> np.ndarray:
        cache, hashes_Q2 = self.cache_of("x"), text_hashes(queries)
        if len(missing := cache.missing(hashes_Q2)):
            cache.add([queries[row] for row in missing.tolist()], hashes_Q2[missing])
        return cache.read(hashes_Q2)

    def _asked(self, curated: Artifact) -> Asked | None:
        """Queries of validation; None where there are too few."""
        queries = validation_queries(curated, QUERIES)
        if len(queries) < FEWEST_QUERIES:
            return None
        return Asked(self._embed_queries(queries), "queries of validation")

    def _embedded(self, pieces: Iterator[Piece], total: int, writer: RowWriter, words: Bm25Writer | None) -> np.ndarray:
        """Write the rows, and embed the texts that have no vector yet, a slice of them at a time; returns the texts' hashes."""
        hashes_N2 = np.empty((total, 2), np.uint64)
        new: dict[bytes, str] = {}
        done = 0
        while slice_ := list(islice(pieces, self.config.rows_per_slice)):
            writer.write(slice_)
            if words:
                words.add([piece.text for piece in slice_])
            slice_N2 = hashes_N2[done : done + len(slice_)] = text_hashes([piece.text for piece in slice_])
            new |= {slice_N2[row].tobytes(): slice_[row].text for row in self.cache.missing(slice_N2).tolist()}
            done += len(slice_)
            if len(new) >= self.config.rows_per_slice or done == total:
                self._embed(new, done, total)
                new = {}
            self.progress(done - len(new), total, f"{done - len(new):,} texts")
        assert done == total, f"{total} pieces were chosen, {done} were read"
        return hashes_N2

    def _embed(self, new: dict[bytes, str], read: int, n_texts: int) -> None:
        """Embed the texts that are new among those read so far."""
        there = read - len(new)

        def within(done: float, total: float, note: str = "") -> None:
            self.progress(there + done, n_texts, f"{int(there + done):,} texts")

        if new:
            self.cache.add(list(new.values()), np.frombuffer(b"".join(new), np.uint64).reshape(-1, 2), within)


def _check_vectors(vectors_ND: np.ndarray, n_texts: int) -> None:
    assert vectors_ND.ndim == 2 and len(vectors_ND) == n_texts, f"{vectors_ND.shape} vectors for {n_texts} texts"
    lengths_N = np.linalg.norm(vectors_ND, axis=1)
    wrong = ~(np.abs(lengths_N - 1) <= UNIT_TOLERANCE)  # true for nan too
    if wrong.any():
        row = int(wrong.argmax())
        raise ContractViolation(
            f"{int(wrong.sum()):,} of {n_texts:,} vectors are not of length 1, the first at row {row}: {lengths_N[row]}; "
            "the model is broken: look at its training loss"
        )
