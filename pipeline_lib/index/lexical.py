"""BM25 over the rows of an index: the words of its texts in columns, written in bounded memory, read by memory map.

    bm25_terms.npy   (V,) uint64     hash of each word, ascending
    bm25_starts.npy  (V + 1,) int64  first posting of each word
    bm25_rows.npy    (P,) int32      rows that hold the word, ascending
    bm25_scores.npy  (P,) float32    what the word adds to the row's score

The columns are those of bm25s (CSC arrays of scores worked out beforehand), the scores Lucene's. bm25s itself holds all words
of a corpus in Python lists to build them and takes longer to import than a query may take; opening these files reads nothing.
N rows, V distinct words, P postings.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

BM25_K1 = 1.5
BM25_B = 0.75
TERMS, STARTS, ROWS, SCORES = FILES = ("bm25_terms.npy", "bm25_starts.npy", "bm25_rows.npy", "bm25_scores.npy")
CHUNK_POSTINGS = 4_000_000  # sorted at a time, of as many words as fit and one at least: 200 MB
PENDING_TERMS = 4_000_000  # of runs, until they are merged: 64 MB
TEXTS_PER_RUN = 4096
# all words of a row, each there that many times more, would change a score by 0.375 of its inverse: 60 times float32's rounding
MOST_TOLD = 1e5
UNTOLD = "scores of BM25 from which times cannot be told"
_RUN = {"terms": np.uint64, "counts": np.int32, "rows": np.int32, "times": np.int32}

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# letters and marks of scripts that write no spaces: Thai, Lao, Burmese, Khmer, Chinese and Japanese, not Korean
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(r"[^\W_]+")
_TERM = re.compile(rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[^\W_])+")


def words(text: str) -> list[str]:
    """Lower-case words, camelCase and snake_case split: "parseHTTPHeader_v2" gives parse, http, header, v2."""
    return _WORD.findall(_CAMEL.sub(" ", text).lower())


def terms(text: str) -> list[str]:
    """What BM25 counts: words, and of scripts that write no spaces each character and each pair of neighbours.

    "東京都API" gives 東, 京, 都, 東京, 京都, api.
    """
    if text.isascii() or not _IS_UNSPACED.search(text):
        return words(text)
    found = _TERM.findall(_CAMEL.sub(" ", text).lower())
    return [
        part for term in found for part in ((*term, *map("".join, pairwise(term))) if _IS_UNSPACED.match(term) else (term,))
    ]


def term_hashes(terms: Iterable[str]) -> np.ndarray:
    """Hash of each word, uint64: two words of a million share one in 1 of 30 million corpora, and would count as one word."""
    digests = (hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest() for term in terms)
    return np.frombuffer(b"".join(digests), np.uint64)


class Bm25:
    """BM25 of the rows of an index whose files are in a folder.

    Args:
        folder: with the four files.
        n_rows: of the index.

    Raises:
        ValueError: the files are not of one index.
    """

    def __init__(self, folder: Path, n_rows: int) -> None:
        self.n_rows = n_rows
        self._terms, self._starts, self._rows, self._scores = (np.load(folder / name, mmap_mode="r") for name in FILES)
        sizes = (len(self._starts) - 1, len(self._rows), len(self._scores))
        if sizes != (len(self._terms), int(self._starts[-1]), int(self._starts[-1])):
            raise ValueError(f"{folder}: columns, rows and scores of BM25 are {sizes}; they are not of one index")

    def scores(self, query: str) -> np.ndarray:
        """Score of every row (N,) float32; 0 where no word is shared. A word that stands twice counts twice."""
        scores_N = np.zeros(self.n_rows, np.float32)
        hashes, times = np.unique(term_hashes(terms(query)), return_counts=True)
        places = np.searchsorted(self._terms, hashes)
        for term, place, n in zip(hashes, places, times, strict=True):
            if place < len(self._terms) and self._terms[place] == term:
                column = slice(int(self._starts[place]), int(self._starts[place + 1]))
                scores_N[self._rows[column]] += np.float32(n) * self._scores[column]
        return scores_N


class Bm25Writer:
    """Writer of the four files from texts that are seen once, in the order of the rows.

    Texts become sorted runs on disk; `close` merges them word by word. In memory are a run, the distinct words' hashes and
    counts (16 bytes each), 4 bytes a row, and one chunk of postings.

    Args:
        folder: that gets the files; runs lie in a folder of their own in it until they are merged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._runs_folder = folder, folder / "bm25_runs"
        self._reset()

    def _reset(self) -> None:
        self._runs_folder.mkdir()
        for name in _RUN:
            (self._runs_folder / name).touch()  # texts without a word write nothing
        self._runs = [(0, 0)]  # (terms, postings) before each run, and after the last
        self._lengths: list[tuple[np.ndarray, np.ndarray]] = []  # of rows
        self._vocabulary = _Vocabulary()
        self._n, self._in_order = 0, True  # rows of one run come after those of the run before it

    def add(self, texts: Sequence[str], rows_T: np.ndarray | None = None) -> None:
        """Texts of the next rows, or of these, which ascend."""
        rows_T = np.arange(self._n, self._n + len(texts)) if rows_T is None else rows_T
        for at in range(0, len(texts), TEXTS_PER_RUN):
            self._add_run(texts[at : at + TEXTS_PER_RUN], rows_T[at : at + TEXTS_PER_RUN])

    def add_base(self, base: Path, before_N: np.ndarray, n_before: int) -> bool:
        """Rows of another index under their numbers here, told by its scores; False: they have to be added as texts.

        Args:
            base: folder of that index.
            before_N: row there of each row here; -1: none, it is added as a text.
            n_before: rows there.
        """
        now = np.full(n_before, -1, np.int64)
        kept = np.flatnonzero(before_N >= 0)
        now[before_N[kept]] = kept
        n_terms = n_postings = 0
        try:
            counted = _Counts(base, n_before)
            for first, ids, rows, times in counted.chunks():
                stays = now[rows] >= 0
                counts = np.bincount(ids[stays], minlength=int(ids[-1]) + 1)
                terms = counted.terms[first : first + len(counts)][counts > 0]
                counts = counts[counts > 0]
                self._write({"terms": terms, "counts": counts, "rows": now[rows[stays]], "times": times[stays]})
                self._vocabulary.add(terms, counts)
                n_terms, n_postings = n_terms + len(terms), n_postings + int(stays.sum())
        except (ValueError, FileNotFoundError):  # an index of earlier versions has no BM25
            shutil.rmtree(self._runs_folder)
            self._reset()
            return False
        self._runs.append((n_terms, n_postings))
        self._lengths.append((kept, counted.lengths_N[before_N[kept]]))
        self._n, self._in_order = self._n + len(kept), False
        return True

    def _add_run(self, texts: Sequence[str], rows_T: np.ndarray) -> None:
        local: dict[str, int] = {}
        found = [[local.setdefault(word, len(local)) for word in terms(text)] for text in texts]
        lengths = np.array([len(ids) for ids in found], np.int32)
        ids = np.fromiter((number for row in found for number in row), np.int64, int(lengths.sum()))
        hashes = term_hashes(local)
        order = np.argsort(hashes)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        keys, times = np.unique(place[ids] * len(texts) + np.repeat(np.arange(len(texts)), lengths), return_counts=True)
        counts = np.bincount(keys // len(texts), minlength=len(order))
        self._write({"terms": hashes[order], "counts": counts, "rows": rows_T[keys % len(texts)], "times": times})
        self._lengths.append((rows_T, lengths))
        self._n += len(texts)
        self._runs.append((self._runs[-1][0] + len(order), self._runs[-1][1] + len(keys)))
        self._vocabulary.add(hashes[order], counts)

    def _write(self, run: dict[str, np.ndarray]) -> None:
        for name, values in run.items():
            with (self._runs_folder / name).open("ab") as stream:
                values.astype(_RUN[name]).tofile(stream)

    def close(self) -> dict[str, int]:
        """Write the four files; returns how many distinct words and postings there are."""
        terms, counts = self._vocabulary.merged()
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        np.save(self.folder / TERMS, terms)
        np.save(self.folder / STARTS, starts)
        lengths_N = np.zeros(self._n, np.int32)
        for rows, lengths in self._lengths:
            lengths_N[rows] = lengths
        norms_N, idf_V = _norms(lengths_N), _idf(len(lengths_N), counts)
        with (self.folder / ROWS).open("wb") as rows_file, (self.folder / SCORES).open("wb") as scores_file:
            _begin(rows_file, np.int32, int(starts[-1]))
            _begin(scores_file, np.float32, int(starts[-1]))
            for first, ids, rows, times in self._chunks(terms, starts):
                rows.tofile(rows_file)
                _scores(idf_V[first + ids], times, norms_N[rows]).tofile(scores_file)
        shutil.rmtree(self._runs_folder)
        return {"words": len(terms), "postings": int(starts[-1])}

    def _chunks(self, terms: np.ndarray, starts: np.ndarray) -> Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """(first word, word less it, row, times) of a range of words after the other, ordered by word and row."""
        bounds = _chunk_bounds(starts)
        inside = [self._bounds_in_run(run, terms[bounds[:-1]]) for run in range(len(self._runs) - 1)]
        for chunk, (first, end) in enumerate(pairwise(bounds.tolist())):
            found = []
            for run_terms, run_postings in inside:
                of_terms, of_postings = run_terms[chunk : chunk + 2], run_postings[chunk : chunk + 2]
                ids = np.searchsorted(terms[first:end], self._read("terms", *of_terms))
                counts = self._read("counts", *of_terms)
                found.append((np.repeat(ids, counts), self._read("rows", *of_postings), self._read("times", *of_postings)))
            ids, rows, times = (np.concatenate(column) for column in zip(*found, strict=True))
            order = np.argsort(ids, kind="stable") if self._in_order else np.lexsort((rows, ids))
            yield first, ids[order], rows[order], times[order]

    def _bounds_in_run(self, run: int, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each chunk begins in a run, and where the last ends: by its terms, and by its postings."""
        (term, posting), (term_end, posting_end) = self._runs[run], self._runs[run + 1]
        within = np.searchsorted(self._read("terms", term, term_end), firsts)
        postings = np.concatenate([[0], np.cumsum(self._read("counts", term, term_end), dtype=np.int64)])[within]
        return np.append(term + within, term_end), np.append(posting + postings, posting_end)

    def _read(self, name: str, start: int, end: int) -> np.ndarray:
        kind = np.dtype(_RUN[name])
        return np.fromfile(self._runs_folder / name, kind, int(end - start), offset=int(start) * kind.itemsize)


def _norms(lengths_N: np.ndarray) -> np.ndarray:
    mean = float(lengths_N.mean()) if len(lengths_N) else 0.0
    return BM25_K1 * (1 - BM25_B + BM25_B * lengths_N / max(mean, 1e-9))


def _idf(n: int, counts_V: np.ndarray) -> np.ndarray:
    return np.log1p((n - counts_V + 0.5) / (counts_V + 0.5))


def _scores(idf: np.ndarray, times: np.ndarray, norms: np.ndarray) -> np.ndarray:
    found: np.ndarray = (idf * times / (norms + times)).astype(np.float32)
    return found


class _Counts:
    """Times behind the scores of an index, which it does not keep.

    score = idf times / (norm + times), so that times = norm ratio with ratio = s / (1 - s), s = score / idf; a row's length is
    the sum of its times, and its norm follows from its length and the mean of all.

    Args:
        folder: of the index.
        n: its rows.

    Raises:
        ValueError: a score is too near to its word's idf to tell.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.terms, self._starts, self._rows, self._found = (np.load(folder / name, mmap_mode="r") for name in FILES)
        self._counts = np.diff(self._starts)
        self._idf_V = _idf(n, self._counts)
        ratio_N, least_N = np.zeros(n), np.full(n, np.inf)  # of a row's words: the sum, and the smallest
        for _, _, rows, ratio in self._ratios():
            ratio_N += np.bincount(rows, ratio, n)
            np.minimum.at(least_N, rows, ratio)
        if not np.isfinite(ratio_N).all():
            raise ValueError(UNTOLD)
        mean = _mean_length(ratio_N)
        norms_N = BM25_K1 * (1 - BM25_B + BM25_B * _lengths(ratio_N, mean) / max(mean, 1e-9))
        least_N[ratio_N == 0] = 1
        times_N = np.maximum(1, np.rint(norms_N * least_N))  # of a row's rarest word: there once or twice, it tells best
        norms_N = times_N / least_N
        if (times_N * (norms_N + times_N) > MOST_TOLD).any():
            raise ValueError(UNTOLD)
        lengths_N = (np.bincount(rows, np.rint(norms_N[rows] * ratio), n) for _, _, rows, ratio in self._ratios())
        self.lengths_N = sum(lengths_N, np.zeros(n)).astype(np.int32)

    def chunks(self) -> Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """See `Bm25Writer._chunks`.

        Raises:
            ValueError: these times do not give the scores to the bit, or others near them do too.
        """
        norms_N = _norms(self.lengths_N)
        for first, ids, rows, ratio in self._ratios():
            times = np.rint(norms_N[rows] * ratio).astype(np.int32)
            start = int(self._starts[first])
            found, idf, norms = self._found[start : start + len(rows)], self._idf_V[first + ids], norms_N[rows]
            near = [_scores(idf, times + by, norms) == found for by in (-1, 0, 1)]
            if near[0].any() or not near[1].all() or near[2].any():  # of a word there tens of thousands of times many fit
                raise ValueError(UNTOLD)
            yield first, ids, rows, times

    def _ratios(self) -> Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        for first, end in pairwise(_chunk_bounds(self._starts).tolist()):
            postings = slice(int(self._starts[first]), int(self._starts[end]))
            ids = np.repeat(np.arange(end - first), self._counts[first:end])
            share = self._found[postings] / self._idf_V[first + ids]
            with np.errstate(divide="ignore"):
                ratio = share / (1 - share)
            yield first, ids, self._rows[postings], ratio


def _lengths(ratio_N: np.ndarray, mean: float) -> np.ndarray:
    """Lengths (N,) of rows whose sums of ratios these are, where this is their mean."""
    found: np.ndarray = BM25_K1 * (1 - BM25_B) * ratio_N / (1 - BM25_K1 * BM25_B * ratio_N / max(mean, 1e-9))
    return found


def _mean_length(ratio_N: np.ndarray) -> float:
    """The mean length that lengths have which follow from it; they fall where it rises, so that there is one."""
    low = BM25_K1 * BM25_B * float(ratio_N.max(initial=0.0)) * (1 + 1e-12)
    high = max(1.0, 2 * low)
    while _lengths(ratio_N, high).mean() > high:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _lengths(ratio_N, middle).mean() > middle else (low, middle)
    return high


class _Vocabulary:
    """Distinct words' hashes, and in how many rows each stands; merged when there is as much again."""

    def __init__(self) -> None:
        self._parts = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
        self._pending = 0

    def add(self, terms: np.ndarray, counts: np.ndarray) -> None:
        self._parts.append((terms, counts))
        self._pending += len(terms)
        if self._pending > max(PENDING_TERMS, len(self._parts[0][0])):
            self.merged()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        all_terms, all_counts = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        terms, places = np.unique(all_terms, return_inverse=True)
        counts = np.bincount(places, all_counts, minlength=len(terms)).astype(np.int64)
        self._parts, self._pending = [(terms, counts)], 0
        return terms, counts


def _chunk_bounds(starts: np.ndarray) -> np.ndarray:
    """Words at which chunks of at most so many postings begin, and the number of words."""
    bounds, last = [0], len(starts) - 1
    while bounds[-1] < last:
        fits = int(np.searchsorted(starts, starts[bounds[-1]] + CHUNK_POSTINGS, side="right")) - 1
        bounds.append(min(last, max(fits, bounds[-1] + 1)))
    return np.array(bounds)


def _begin(stream: BinaryIO, kind: type[np.generic], n: int) -> None:
    """Header of a .npy file of so many numbers."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(stream, header)
