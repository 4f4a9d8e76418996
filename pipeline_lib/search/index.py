"""All functions and passages of the curated pairs in one FAISS index: stage "index".

Legend: N rows, D width.

Which texts of the curated pairs are searchable: every distinct function body, and every distinct piece of prose.

A function may come in several pairs (views of it); the one made of its docstring speaks for it. A passage stands in up to
two pairs, as y of one and x of the next: y is preferred, because a pair's line is that of its y.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import INDEX_ROWS, row_id
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation, UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.store import KEY_DIGITS, Artifact, Counts, Outcome, Part, Stage, Store, digest_of, draft_part

BATCH_ROWS = 4096
DOC_CHARACTERS = 160
DOC_WORDS = 12
DOCSTRING = "docstring"
_COLUMNS = ["id", "kind", "x", "y", "document_id", "source", "path", "line", "name"]


@dataclass(frozen=True)
class Piece:
    """One searchable text and its columns of INDEX_ROWS."""

    text: str
    id: str
    kind: str
    name: str
    path: str
    line: int
    doc: str
    source: str


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
            code, text = kinds == "code", kinds == "text"
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


def _candidates(hashes: np.ndarray, priority: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.stack([hashes, priority.astype(np.int64), places])


def _first_of_each(candidates: list[np.ndarray]) -> np.ndarray:
    """Of each hash, the place with the lowest priority, then the lowest place; ascending."""
    if not candidates:
        return np.empty(0, np.int64)
    hashes, priority, places = np.concatenate(candidates, axis=1)
    order = np.lexsort((places, priority, hashes))
    hashes, places = hashes[order], places[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    return np.sort(places[is_first])


def _function(row: dict[str, Any]) -> Piece:
    return Piece(row["y"], row["id"], "code", row["name"], row["path"], row["line"], _first_line(row["x"]), row["source"])


def _passage(row: dict[str, Any], is_y: bool) -> Piece:
    text = row["y"] if is_y else row["x"]
    identity = row_id("passage", row["document_id"], text)
    return Piece(text, identity, "text", row["name"], row["path"], row["line"], _first_words(text), row["source"])


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    return line if len(line) <= DOC_CHARACTERS else line[: DOC_CHARACTERS - 1] + "…"


def _first_words(text: str) -> str:
    words = text.split(maxsplit=DOC_WORDS)
    shown = " ".join(words[:DOC_WORDS]) + (" …" if len(words) > DOC_WORDS else "")
    return shown if len(shown) <= DOC_CHARACTERS else shown[: DOC_CHARACTERS - 1] + "…"


STAGE = Stage(name="index", version=1)
# embeddings by slice, kept so that a killed build goes on where it was and another factory needs no model
VECTORS = Stage(name="index-vectors", version=1)
UNIT_TOLERANCE = 1e-2  # of a vector's length; bfloat16 products stay within
TRAINING_VECTORS = 100_000  # at most, spread evenly over the rows, for factories that need training

EmbedDocuments = Callable[[Sequence[str], Progress], np.ndarray]


def build_index(
    store: Store,
    exported: Artifact,
    curated: Artifact,
    config: IndexConfig,
    embed_documents: EmbedDocuments,
    progress: Progress = silent,
) -> Artifact:
    """Index every distinct function and passage, code first; the part "index" ties it to the model's digest.

    Args:
        exported: the model; only its digest is read here.
        curated: every split's pairs are read: a search finds all there is.
        config: the FAISS factory.
        embed_documents: texts to (N, D) float32 vectors of length 1, by that model, as documents.
        progress: counts texts.

    Raises:
        UserError: there is nothing to index, or FAISS does not know the factory.
        ContractViolation: a vector is not finite or not of length 1.
    """

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key)
        if part is None:
            part = _Build(store, exported.digest, config, embed_documents, progress).run(key, curated)
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, config, {"curated": curated, "exported": exported}, make)


@dataclass(frozen=True)
class _Slice:
    """Consecutive rows, and the file of their vectors."""

    pieces: list[Piece]
    vectors: Path


@dataclass(frozen=True)
class _Build:
    store: Store
    model_digest: str
    config: IndexConfig
    embed_documents: EmbedDocuments
    progress: Progress

    def run(self, key: str, curated: Artifact) -> Part:
        """Embed slice by slice, then write rows, vectors and manifest."""
        paths = curated.paths("pairs.parquet")
        chosen = choose_pieces(paths)
        total = chosen.n_code + chosen.n_text
        if total == 0:
            raise UserError(f"{curated.folder}: no pairs, so there is nothing to index; look at what extract dropped")
        scratch = self.store.scratch(STAGE.name)
        files, done = [], 0
        with (
            pa.OSFile(str(scratch / "rows.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, INDEX_ROWS) as writer,
        ):
            for pieces in _slices(read_pieces(paths, chosen), self.config.rows_per_slice):
                part = self._embedded(pieces, done, total)
                files.append(self.store.folder_of(part) / "vectors.npy")
                writer.write_batch(_row_batch(pieces))
                done += len(pieces)
                self.progress(done, total, f"{done:,} texts")
        assert done == total, f"{curated.folder}: {total} pieces were chosen, {done} were read"
        index = filled_index([np.load(file, mmap_mode="r", allow_pickle=False) for file in files], self.config.factory)
        faiss.write_index(index, str(scratch / "index.faiss"))
        facts = {"count": total, "code": chosen.n_code, "text": chosen.n_text, "dim": index.d}
        record = {**facts, "version": 1, "model_digest": self.model_digest, "factory": self.config.factory}
        record |= {"probes": self.config.probes} if self.config.probes > 1 else {}
        (scratch / "index.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        counts = Counts(n_in=chosen.n_seen, n_out=total, dropped={"duplicate": chosen.n_seen - total})
        draft = draft_part(STAGE, key, "index", counts, rows={"rows.arrow": total, "index.faiss": total}, facts=facts)
        return self.store.commit_part(draft, scratch)

    def _embedded(self, pieces: list[Piece], first: int, n_texts: int) -> Part:
        """The part that holds the slice's vectors, found by model and texts, or made."""
        texts = hashlib.sha256()
        for piece in pieces:
            texts.update(hashlib.sha256(piece.text.encode()).digest())
        key = digest_of([VECTORS.name, VECTORS.version, self.model_digest, texts.hexdigest()])[:KEY_DIGITS]
        found = self.store.find_part(VECTORS.name, key)
        if found is not None:
            return found

        def within(done: float, total: float, note: str = "") -> None:
            self.progress(first + done, n_texts, f"{int(first + done):,} texts")

        vectors_ND = np.ascontiguousarray(self.embed_documents([piece.text for piece in pieces], within), np.float32)
        _check_vectors(vectors_ND, len(pieces))
        scratch = self.store.scratch(VECTORS.name)
        np.save(scratch / "vectors.npy", vectors_ND, allow_pickle=False)
        counts = Counts(n_in=len(pieces), n_out=len(pieces))
        label = f"{first:09d}"
        return self.store.commit_part(draft_part(VECTORS, key, label, counts, rows={"vectors.npy": len(pieces)}), scratch)


def filled_index(slices: list[np.ndarray], factory: str) -> faiss.Index:
    """A FAISS index by inner product over float32 vectors that come in slices (n, D).

    Raises:
        UserError: FAISS does not know the factory.
    """
    with _one_thread():  # of several, HNSW would link in the order in which they happen to come
        try:
            index = faiss.index_factory(slices[0].shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UserError(f"index.factory {factory!r}: FAISS does not take it; try Flat") from error
        if not index.is_trained:
            index.train(_sample(slices))
        for slice_ in slices:
            index.add(np.ascontiguousarray(slice_))
        return index


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS's threads are OpenMP's, and torch's too: what comes after in this process gets them back."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _slices(pieces: Iterator[Piece], rows: int) -> Iterator[list[Piece]]:
    while slice_ := list(islice(pieces, rows)):
        yield slice_


def _row_batch(pieces: list[Piece]) -> pa.RecordBatch:
    columns: list[list[Any]] = [[getattr(piece, name) for piece in pieces] for name in INDEX_ROWS.names]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, INDEX_ROWS, strict=True)], schema=INDEX_ROWS
    )


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


def _sample(slices: list[np.ndarray]) -> np.ndarray:
    total = sum(map(len, slices))
    step = -(-total // TRAINING_VECTORS)
    starts = np.cumsum([0, *map(len, slices)])
    return np.concatenate([slice_[(-start) % step :: step] for slice_, start in zip(slices, starts[:-1].tolist(), strict=True)])
