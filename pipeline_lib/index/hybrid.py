"""Vectors and BM25 of an opened index, fused as index.json says.

index.json's `fusion` is the record of `fusion.choose`: what ranked each kind best on validation queries, with the figures.
What a query's cosines are like over all rows is read off a sample of their vectors, kept beside the index.
N rows, S sampled rows, D width, K rows of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.index.factories import OpenIndex, nearest
from pipeline_lib.index.fusion import Fusion, Listed, evenly, fused, listed, places, spread, union
from pipeline_lib.index.lexical import FILES as BM25_FILES
from pipeline_lib.index.lexical import Bm25
from pipeline_lib.index.rows import Ranked
from pipeline_lib.index.verified import read_json

SAMPLE = "sample.npy"
SAMPLE_ROWS = 512  # of each kind, evenly spread: mean and deviation come out within a few per cent of those of all rows
FILES = (*BM25_FILES, SAMPLE)
KINDS = ("code", "text")
ALONE = {"vectors": 1.0, "bm25": 0.0}  # share of the vectors


def sampled_rows(n_code: int, n_text: int) -> np.ndarray:
    """The rows whose vectors are kept: of each kind so many, evenly spread."""
    return np.concatenate([evenly(n_code, SAMPLE_ROWS), evenly(n_text, SAMPLE_ROWS) + n_code])


class Hybrid:
    """BM25, the sample and the record of an index.

    Args:
        folder: of the index.
        facts: index.json.

    Raises:
        ValueError: the files are not of one index.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.n_code, self.n_rows = int(facts["code"]), int(facts["count"])
        self.bm25 = Bm25(folder, self.n_rows)
        self.sample_SD = np.load(folder / SAMPLE, mmap_mode="r")
        wanted = (len(sampled_rows(self.n_code, self.n_rows - self.n_code)), int(facts["dim"]))
        if self.sample_SD.shape != wanted:
            raise ValueError(f"{folder / SAMPLE}: {self.sample_SD.shape}, not {wanted}")
        self.record: Mapping[str, Any] = facts.get("fusion", {})
        self.fusion = Fusion.of(self.record or None)

    def shares(self, mode: str, allowed_N: np.ndarray | None) -> dict[str, float]:
        """Share of the vectors for each kind that may be an answer.

        Args:
            mode: auto: what measured better for the kind.
        """
        of_auto = {kind: row["auto"] for kind, row in self.record.get("kinds", {}).items()}
        how = {kind: of_auto.get(kind, "vectors") if mode == "auto" else mode for kind in self.kinds(allowed_N)}
        return {kind: ALONE.get(name, self.fusion.shares[kind]) for kind, name in how.items()}

    def kinds(self, allowed_N: np.ndarray | None) -> tuple[str, ...]:
        """The kinds of the rows that may be answers."""
        return tuple(kind for kind in KINDS if (allowed_N is None or allowed_N[self._part(kind)].any()) and self._size(kind))

    def words(self, query: str, depth: int, allowed_N: np.ndarray | None) -> Listed:
        """The best rows by BM25."""
        scores_N = self.bm25.scores(query)
        found = listed(scores_N, depth, None if allowed_N is None else np.flatnonzero(allowed_N), words=True)
        kinds = self.kinds(allowed_N)
        mean, deviation = spread(scores_N if len(kinds) > 1 else scores_N[self._part(kinds[0])] if kinds else scores_N[:0])
        return found._replace(mean=mean, deviation=deviation)

    def vectors(self, vector_D: np.ndarray, rows_K: np.ndarray, scores_K: np.ndarray, kinds: Sequence[str]) -> Listed:
        """The best rows by their vectors, which an index found."""
        n_sampled = min(self.n_code, SAMPLE_ROWS)
        cosines = self.sample_SD @ vector_D
        of_kind = {"code": cosines[:n_sampled], "text": cosines[n_sampled:]}
        scores = np.concatenate([of_kind[kind] for kind in kinds]) if kinds else cosines[:0]
        weights = [np.full(len(of_kind[kind]), self._size(kind) / len(of_kind[kind])) for kind in kinds]
        mean, deviation = _weighted(scores, np.concatenate(weights)) if kinds else (0.0, 0.0)
        there = rows_K >= 0
        rows_K, scores_K = rows_K[there], scores_K[there].astype(np.float64)
        return Listed(rows_K, scores_K, mean, deviation, float(scores_K[-1]) if len(scores_K) else 0.0)

    def by_words(self, query: str, k: int, allowed_N: np.ndarray | None) -> list[Ranked]:
        """The best k rows by BM25 alone; fewer where fewer share a word with the query."""
        found = self.words(query, k, allowed_N)
        pairs = enumerate(zip(found.rows.tolist(), found.scores.tolist(), strict=True), 1)
        return [Ranked(row, score, None, None, rank, score) for rank, (row, score) in pairs]

    def by_both(
        self,
        index: OpenIndex,
        asked: Sequence[tuple[str, np.ndarray]],
        k: int,
        allowed_N: np.ndarray | None,
        shares: Mapping[str, float],
    ) -> list[list[Ranked]]:
        """The best k rows of both lists fused, for each query.

        Args:
            asked: queries and their vectors (D,).
            shares: see `shares`.
        """
        depth = max(k, self.fusion.depth)
        scores_QK, rows_QK = nearest(index, np.stack([vector_D for _, vector_D in asked]), depth, allowed_N)
        answers = []
        for (query, vector_D), rows_K, scores_K in zip(asked, rows_QK, scores_QK, strict=True):
            vectors = self.vectors(vector_D, rows_K, scores_K, list(shares))
            words = self.words(query, depth, allowed_N)
            rows = union(vectors, words)
            share_M = np.where(rows < self.n_code, shares.get("code", 0.0), shares.get("text", 0.0))
            answers.append(_ranked(vectors, words, *fused(vectors, words, share_M, self.fusion.method), k))
        return answers

    def _part(self, kind: str) -> slice:
        return slice(0, self.n_code) if kind == "code" else slice(self.n_code, self.n_rows)

    def _size(self, kind: str) -> int:
        return self.n_code if kind == "code" else self.n_rows - self.n_code


def _ranked(vectors: Listed, words: Listed, rows: np.ndarray, scores: np.ndarray, k: int) -> list[Ranked]:
    """The first k rows with their places in both lists."""
    rows = rows[:k]
    columns = [_places(found, rows) for found in (vectors, words)]
    pairs = zip(rows.tolist(), scores[:k].tolist(), *columns, strict=True)
    return [Ranked(row, score, *one, *other) for row, score, one, other in pairs]


def _places(found: Listed, rows: np.ndarray) -> list[tuple[int | None, float | None]]:
    there = [int(place) for place in places(found, rows)]
    return [(place + 1, float(found.scores[place])) if place < len(found.rows) else (None, None) for place in there]


def _weighted(scores: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = float(np.average(scores, weights=weights))
    return mean, float(np.sqrt(np.average((scores - mean) ** 2, weights=weights)))


def fusion_in(folder: Path) -> Fusion | None:
    """How an index fuses vectors and BM25; None where it has no BM25.

    Raises:
        CorruptArtifact: its index.json cannot be read.
    """
    facts = read_json(folder / "index.json")
    return Fusion.of(facts.get("fusion")) if "bm25" in facts else None
