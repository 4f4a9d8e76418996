"""FAISS index over all functions and passages of the curated pairs: stage "index".

What is searchable stands in pieces.py. Vectors come from the store's cache (store/vectors.py), so that another factory,
a killed build that goes on, and a corpus that grew embed only texts that are new.

N rows, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation, CorruptArtifact, UserError
from pipeline_lib.index.build import ADDED_ROWS, Vectors, write_files
from pipeline_lib.index.delta import Base, Growth, changes, same_rows
from pipeline_lib.index.factories import open_index
from pipeline_lib.index.hybrid import FILES as WORD_FILES
from pipeline_lib.index.hybrid import SAMPLE, Hybrid, sampled_rows
from pipeline_lib.index.lexical import BM25_B, BM25_K1, Bm25Writer
from pipeline_lib.index.measured_fusion import measured_fusion, read_questions
from pipeline_lib.index.pieces import Choice, Piece, choose_pieces, distinct_values, read_pieces, validation_queries
from pipeline_lib.index.recall_gate import FEWEST_QUERIES, QUERIES, Asked, perturbed, settle
from pipeline_lib.index.rows import ROWS, TEXTS, RowWriter
from pipeline_lib.index.verified import read_json
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.prune import BASE
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import Side, VectorCache, text_hashes

STAGE = Stage(name="index", version=4)
UNIT_TOLERANCE = 1e-2  # of a vector's length; bfloat16 products stay within


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
    return _made(store, {"curated": curated, "exported": exported}, config, encoder, progress)


def update_index(
    store: Store,
    base: Artifact,
    inputs: Mapping[str, Artifact],
    config: IndexConfig,
    encoder: DocumentEncoder,
    progress: Progress = silent,
) -> Artifact:
    """The same as `build_index`, made of an index that there is already; see delta.py.

    It is built whole where `why_whole` says so; where it has been, or nothing came and went, it is found.

    Args:
        base: an index; its pairs are what its own manifest names.
        inputs: "exported" and "curated".

    Raises: see `build_index`.
    """
    config = config.model_copy(update={"precision": encoder.precision})
    digests = {name: artifact.digest for name, artifact in inputs.items()}
    whole = store.find(STAGE.name, store.key(STAGE, config, digests))
    if whole is not None:
        return whole
    if why_whole(store, base, inputs["exported"], config):
        return _made(store, inputs, config, encoder, progress)
    if base.manifest.inputs["curated"] == digests["curated"]:
        return base
    return _made(store, {**inputs, BASE: base}, config, encoder, progress)


def why_whole(store: Store, base: Artifact, exported: Artifact, config: IndexConfig) -> str:
    """The reason for which an index cannot be made of another; empty: it can.

    Args:
        exported: the model of the new one.
        config: of the new one, with the precision of its encoder.
    """
    made = base.manifest
    if made.inputs.get("exported") != exported.digest:
        return "the index before is another model's"
    asked = {"version": STAGE.version, **config.key_fields()}
    had = {"version": made.stage_version, **made.config}
    if other := sorted(name for name in {*asked, *had} if asked.get(name) != had.get(name)):
        return f"the index before was made with another {', '.join(other)}"
    if _pairs_of(store, base) is None:
        return "the pairs that the index before was made from are gone"
    try:
        base.verify()
    except CorruptArtifact as error:
        return f"the index before is damaged: {error}"
    return ""


def _pairs_of(store: Store, index: Artifact) -> Artifact | None:
    digest = index.manifest.inputs.get("curated")
    found = (store.find("curate", made.manifest.key) for made in store.artifacts("curate") if made.digest == digest)
    return next(found, None)


def _made(
    store: Store, inputs: Mapping[str, Artifact], config: IndexConfig, encoder: DocumentEncoder, progress: Progress
) -> Artifact:
    """The index of its inputs, `BASE` among them or not."""
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
            build = _Build(store, inputs["exported"].digest, config, cache, progress, inputs.get(BASE))
            part = build.run(key, inputs["curated"])
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, config, inputs, make)


@dataclass(frozen=True)
class _Build:
    store: Store
    model_digest: str
    config: IndexConfig
    cache_of: Callable[[Side], VectorCache]
    progress: Progress
    base: Artifact | None = None

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
        words, base = Bm25Writer(scratch) if self.config.bm25 else None, self._opened_base(chosen)
        is_new_N = np.ones(total, bool)
        if words and base and words.add_base(base.folder, base.before_N, base.n):
            is_new_N = base.before_N < 0
        with RowWriter(scratch, self.config.text_characters, distinct_values(paths)) as writer:
            hashes_N2 = self._embedded(read_pieces(paths, chosen), is_new_N, writer, words)
        vectors = Vectors(lambda at: self.cache.read(hashes_N2[at : at + ADDED_ROWS]), range(0, total, ADDED_ROWS))
        made = self._vector_files(scratch, vectors, base, hashes_N2, lambda: self._asked(curated) or perturbed(vectors))
        facts = {"count": total, "code": chosen.n_code, "text": chosen.n_text, "dim": made["dim"]}
        delta = {"delta": made["delta"]} if self.base else {}
        kept = {"text_characters": self.config.text_characters, "texts_cut": writer.n_cut}
        record = {**made, **facts, **kept, "version": 2, "model_digest": self.model_digest}
        record["vectors"] = self.cache.fingerprint  # finds them in the store's cache
        record |= self._with_words(scratch, record, words, hashes_N2, curated) if words else {}
        record |= {"probes": self.config.probes} if self.config.probes > 1 else {}
        (scratch / "index.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        counts = Counts(n_in=chosen.n_seen, n_out=total, dropped={"duplicate": chosen.n_seen - total})
        rows = dict.fromkeys([ROWS, "index.faiss", *([TEXTS] if self.config.text_characters else [])], total)
        draft = draft_part(STAGE, key, "index", counts, rows=rows, facts=facts | delta)
        return self.store.commit_part(draft, scratch)

    def _opened_base(self, chosen: Choice) -> Base | None:
        if self.base is None:
            return None
        pairs, place = _pairs_of(self.store, self.base), self.base.part_folder()
        assert pairs is not None, "see why_whole"
        before_N = same_rows(chosen.hashes, choose_pieces(pairs.paths("pairs.parquet")).hashes)
        return Base(place, self.base.digest, read_json(place / "index.json"), before_N)

    def _vector_files(
        self, folder: Path, vectors: Vectors, base: Base | None, hashes_N2: np.ndarray, asked: Callable[[], Asked]
    ) -> dict[str, Any]:
        """Write what finds vectors, of the whole or from the base on: what index.json says of it."""
        if base is None:
            made = write_files(vectors, self.config, folder, self.store)
            return made | settle(folder, made, self.config, asked, vectors)
        growth = Growth(base, vectors, lambda rows: self.cache.read(hashes_N2[rows]), self.config, self.store)
        made = growth.write(folder, asked)
        made["delta"] |= changes(base, folder) | {"tombstones": made.get("tombstones", 0)}
        return made

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

    def _embedded(
        self, pieces: Iterator[Piece], is_new_N: np.ndarray, writer: RowWriter, words: Bm25Writer | None
    ) -> np.ndarray:
        """Write the rows, and embed the texts that have no vector yet, a slice of them at a time; returns the texts' hashes.

        Args:
            is_new_N: true where the words of a row are not known.
        """
        total = len(is_new_N)
        hashes_N2 = np.empty((total, 2), np.uint64)
        new: dict[bytes, str] = {}
        done = 0
        while slice_ := list(islice(pieces, self.config.rows_per_slice)):
            writer.write(slice_)
            if words:
                rows = np.flatnonzero(is_new_N[done : done + len(slice_)])
                words.add([slice_[row].text for row in rows.tolist()], done + rows)
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
