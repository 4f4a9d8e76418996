"""Index of any kind as search reads it: opened memory-mapped, and its nearest rows, with or without a filter.

A filter is a bool a row, which FAISS's search takes as an IDSelector. Where a kind holds codes in place of vectors, candidates
are scored again by their exact vectors, which lie in a memory-mapped file beside the index.

N rows, D width, Q queries, K results, C candidates of a query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.index.recipes import Effort

if TYPE_CHECKING:
    import faiss

INDEX_FILE, LISTS_FILE, EXACT_FILE, BLOCKS_FILE = "index.faiss", "index.ivfdata", "vectors.bin", "vectors.sha256"
BLOCK_BYTES = 16_384  # of exact vectors that are verified together, in whole rows
EXACT_ROWS = 20_000  # so few allowed rows are compared one by one: a graph or a list would pass by most of what it visits
GATHERED = 4_096  # rows of exact vectors in memory at a time
WIDER = 4
TIE = 1e-6  # between scores of equal vectors: float32's rounding
DIGEST_BYTES = 32


class ExactVectors:
    """Vectors (N, D) in a memory-mapped file, of which no row is given that was not verified.

    Args:
        path: float16 or float32, row after row, without a header.
        digests: sha256 of each block of rows, verified.

    Raises:
        CorruptArtifact: the file is not of that shape; on reading, a block is not the one that was written.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, int], digests: bytes) -> None:
        self.path, self.digests = path, digests
        expected = shape[0] * shape[1] * np.dtype(dtype).itemsize
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise CorruptArtifact(f"{path}: {found:,} bytes, {expected:,} were written; run `cpt run` again")
        self._vectors_ND: np.ndarray = np.memmap(path, dtype, "r", shape=shape)
        self._step = rows_per_block(self._vectors_ND)
        self._is_verified = np.zeros(-(-shape[0] // self._step), bool)
        if len(digests) != DIGEST_BYTES * len(self._is_verified):
            raise CorruptArtifact(f"{path}: {len(digests):,} bytes of digests; run `cpt run` again")

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        for block in np.unique(rows // self._step):
            if not self._is_verified[block]:
                self._verify(int(block))
        return np.asarray(self._vectors_ND[rows], np.float32)

    def _verify(self, block: int) -> None:
        content = self._vectors_ND[block * self._step : (block + 1) * self._step].tobytes()
        if hashlib.sha256(content).digest() != self.digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES]:
            raise CorruptArtifact(
                f"{self.path}: sha256 of the rows from {block * self._step:,} on is not what was written; "
                f"remove {self.path.parent} and run `cpt run` again"
            )
        self._is_verified[block] = True


def rows_per_block(vectors_ND: np.ndarray) -> int:
    """Rows of exact vectors that are verified together."""
    return max(1, BLOCK_BYTES // (vectors_ND.shape[1] * vectors_ND.itemsize))


@dataclass
class OpenIndex:
    """An index as search reads it: FAISS's own, the exact vectors beside it, and how far a search goes.

    Attributes:
        exact: vectors that candidates are scored by again; None: the index itself holds what it scores by.
        centre_D: taken off before a binary code's signs are read.
        tombstones: nodes of a graph behind its rows, which a walk goes through and no answer names.
    """

    faiss: Any
    d: int
    effort: Effort = field(default_factory=Effort)
    exact: ExactVectors | None = None
    centre_D: np.ndarray | None = None
    tombstones: int = 0

    @property
    def ntotal(self) -> int:
        """N."""
        return int(self.faiss.ntotal) - self.tombstones

    @property
    def can_refine(self) -> bool:
        """Whether candidates are scored again, here or by FAISS."""
        return self.exact is not None or type(self.faiss).__name__.startswith("IndexRefine")

    def reconstruct_n(self, first: int, n: int) -> np.ndarray:
        """Vectors (n, D) float32 of rows that follow one another."""
        if self.exact is not None:
            return self.exact[np.arange(first, first + n)]
        return np.asarray(self.faiss.reconstruct_n(first, n))

    def vectors(self, rows: np.ndarray) -> np.ndarray | None:
        """Vectors (n, D) float32 of some rows; None: the index does not hold them."""
        if self.exact is not None:
            return self.exact[rows]
        try:
            return np.asarray(self.faiss.reconstruct_batch(rows))
        except RuntimeError:  # inverted lists without a map from rows to their places, or codes that lose too much
            return None


def faiss_module() -> Any:
    """FAISS, imported where it is used; the types that it comes with leave much out."""
    import faiss

    return faiss


def lists_of(index: faiss.Index) -> int:
    """Inverted lists of an index; 0: it has none."""
    inverted = inverted_lists(index)
    return int(inverted.nlist) if inverted else 0


def files_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The files beside index.json that `open_index` reads."""
    return tuple(facts.get("files", [INDEX_FILE]))


def open_index(folder: Path, facts: Mapping[str, Any]) -> OpenIndex:
    """An index, memory-mapped, with how far its searches go, as index.json says.

    Raises:
        CorruptArtifact: its exact vectors are not of its shape.
    """
    faiss = faiss_module()

    path, effort = str(folder / INDEX_FILE), Effort(**facts.get("effort", {}))
    if facts.get("kind") == "binary":
        centre_D = np.asarray(facts["centre"], np.float32)
        found = OpenIndex(faiss.read_index_binary(path, faiss.IO_FLAG_MMAP_IFC), facts["dim"], effort, centre_D=centre_D)
    else:
        on_disk = LISTS_FILE in files_of(facts)
        # the lists are attached by hand: told to look for them beside the index, FAISS prints that it does
        flags = faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY if on_disk else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(path, flags)
        if on_disk:
            lists = faiss.downcast_InvertedLists(inverted_lists(index).invlists)
            lists.filename = str(folder / LISTS_FILE)
            lists.do_mmap()
            lists.prefetch_nthread = 0  # a thread a list that is read ahead costs more than it brings
        found = OpenIndex(index, index.d, effort, tombstones=facts.get("tombstones", 0))
    if inverted := inverted_lists(found.faiss):
        probes = min(effort.probes or facts.get("probes", 1), inverted.nlist)
        found.effort = Effort(**(vars(effort) | {"probes": probes}))
    if EXACT_FILE in files_of(facts):
        digests = (folder / BLOCKS_FILE).read_bytes()
        found.exact = ExactVectors(folder / EXACT_FILE, facts["exact"], (found.ntotal, found.d), digests)
    return found


def inverted_lists(index: faiss.Index) -> Any:
    """The inverted lists in an index, behind a transform or not; None where there are none."""
    faiss = faiss_module()

    return None if isinstance(index, faiss.IndexBinary) else faiss.try_extract_index_ivf(index)


def nearest(
    index: OpenIndex, vectors_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query among those that are allowed, best first, equal ones in the order of their rows.

    It goes farther than the index's effort where that leaves a query fewer than k rows, and there are more.

    Args:
        allowed_N: a bool a row; None: all.

    Returns:
        Scores (Q, K) and rows (Q, K); where there are fewer rows than k, K is as many.
    """
    vectors_QD = np.ascontiguousarray(vectors_QD, np.float32)
    n = index.ntotal if allowed_N is None else int(np.count_nonzero(allowed_N))
    k = min(k, n)
    if k == 0:
        return np.empty((len(vectors_QD), 0), np.float32), np.empty((len(vectors_QD), 0), np.int64)
    if allowed_N is not None and n <= EXACT_ROWS and (found := _among(index, vectors_QD, np.flatnonzero(allowed_N), k)):
        return found
    share = n / index.ntotal  # so much of what is visited may be an answer
    effort = Effort(_scaled(index.effort.probes, share), _scaled(index.effort.ef, share), index.effort.refine)
    while True:
        scores_QK, rows_QK = _search(index, vectors_QD, k, effort, allowed_N)
        if (rows_QK >= 0).all():
            return _in_order(scores_QK, rows_QK)
        if not (wider := _wider(index, effort)):  # a graph may have nodes that no walk comes to
            rows_N = np.arange(index.ntotal) if allowed_N is None else np.flatnonzero(allowed_N)
            return _among(index, vectors_QD, rows_N, k) or _in_order(scores_QK, rows_QK)
        effort = wider


def exact_nearest(slices: Iterable[np.ndarray], vectors_QD: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, K) of `exact_search`."""
    return exact_search(slices, vectors_QD, k)[1]


def exact_search(slices: Iterable[np.ndarray], vectors_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (Q, K) of the k nearest by exact search through all vectors, a slice (n, D) of them at a time."""
    best_QK, rows_QK = np.empty((len(vectors_QD), 0), np.float32), np.empty((len(vectors_QD), 0), np.int64)
    first = 0
    for vectors_ND in slices:
        scores_QN = vectors_QD @ np.asarray(vectors_ND, np.float32).T
        top = min(k, scores_QN.shape[1])
        rows_QN = np.argpartition(-scores_QN, top - 1, axis=1)[:, :top] if top else np.empty((len(vectors_QD), 0), np.int64)
        scores = np.concatenate([best_QK, np.take_along_axis(scores_QN, rows_QN, 1)], axis=1)
        rows = np.concatenate([rows_QK, rows_QN + first], axis=1)
        order = np.lexsort((rows, -scores))[:, :k]
        best_QK, rows_QK = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        first += len(vectors_ND)
    return best_QK, rows_QK


def recall_by_scores(found: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> float:
    """`recall_of`, where in place of a right row another counts that scores the same: equal vectors are equal answers.

    Args:
        found, right: scores and rows (Q, K).
    """
    shares = []
    for scores_K, rows_K, right_scores_K, right_rows_K in zip(*found, *right, strict=True):
        missed = right_scores_K[~np.isin(right_rows_K, rows_K)].tolist()
        for score in scores_K[~np.isin(rows_K, right_rows_K)].tolist():
            tie = next((at for at, one in enumerate(missed) if abs(one - score) <= TIE), None)
            if tie is not None:
                missed.pop(tie)
        shares.append(1 - len(missed) / max(1, len(right_rows_K)))
    return float(np.mean(shares)) if shares else 1.0


def recall_of(found: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> float:
    """Share of the right rows that were found, on average over the queries; 1 where there is none."""
    shares = [len(set(rows) & set(wanted)) / len(wanted) for rows, wanted in zip(found, right, strict=True) if wanted]
    return float(np.mean(shares)) if shares else 1.0


def binary_codes(vectors_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """A bit a coordinate, whether it is above the corpus's mean; zeros up to a whole byte."""
    return np.packbits(vectors_ND > centre_D, axis=1)


def _search(
    index: OpenIndex, vectors_QD: np.ndarray, k: int, effort: Effort, allowed_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What FAISS finds, scored again where the index has exact vectors; rows that are not there are -1."""
    n = k if index.exact is None else min(index.ntotal, k * effort.refine)
    asked = vectors_QD if index.centre_D is None else binary_codes(vectors_QD, index.centre_D)
    scores_QC, rows_QC = _found(index, asked, n, effort, allowed_N)
    if index.exact is None:
        return scores_QC[:, :k], rows_QC[:, :k]
    rows_QC = np.sort(rows_QC, axis=1)  # in the order of the file; what is not there, -1, comes first
    scores_QC = np.stack([_scores(index, rows, vector) for rows, vector in zip(rows_QC, vectors_QD, strict=True)])
    order = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QC, order, 1), np.take_along_axis(rows_QC, order, 1)


def _found(
    index: OpenIndex, asked: np.ndarray, n: int, effort: Effort, allowed_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's candidates; an index that takes no selector is asked for all rows, and what is not allowed is taken out."""
    try:
        return index.faiss.search(asked, n, params=_parameters(index.faiss, effort, n, _selector(index, allowed_N)))
    except RuntimeError:
        if allowed_N is None:
            raise
    scores_QN, rows_QN = index.faiss.search(asked, index.ntotal)
    allowed = (rows_QN >= 0) & allowed_N[rows_QN]
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :n]
    rows_QC = np.where(np.take_along_axis(allowed, order, 1), np.take_along_axis(rows_QN, order, 1), -1)
    return np.where(rows_QC < 0, -np.inf, np.take_along_axis(scores_QN, order, 1)), rows_QC


def _scores(index: OpenIndex, rows_C: np.ndarray, vector_D: np.ndarray) -> np.ndarray:
    scores_C = np.full(len(rows_C), -np.inf, np.float32)
    for first in range(int(np.searchsorted(rows_C, 0)), len(rows_C), GATHERED):
        vectors_CD = index.vectors(rows_C[first : first + GATHERED])
        assert vectors_CD is not None
        scores_C[first : first + GATHERED] = vectors_CD @ vector_D
    return scores_C


def _among(index: OpenIndex, vectors_QD: np.ndarray, rows_N: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The best of a few rows, each compared; None where the index does not hold their vectors."""
    blocks = []
    for first in range(0, len(rows_N), GATHERED):
        vectors_ND = index.vectors(rows_N[first : first + GATHERED])
        if vectors_ND is None:
            return None
        blocks.append(vectors_QD @ vectors_ND.T)
    scores_QN = np.concatenate(blocks, axis=1)
    order = np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QN, order, 1), rows_N[order]


def _selector(index: OpenIndex, allowed_N: np.ndarray | None) -> Any:
    """FAISS's filter by rows; tombstones are behind the last bit."""
    if allowed_N is None:
        return faiss_module().IDSelectorRange(0, index.ntotal) if index.tombstones else None
    return faiss_module().IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))


def _parameters(index: Any, effort: Effort, k: int, selector: Any) -> Any:
    """FAISS's parameters of one search; an index is not changed by a search, so that threads may share it."""
    faiss = faiss_module()

    chosen = {} if selector is None else {"sel": selector}
    if not isinstance(index, faiss.IndexBinary):
        index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(index.index, effort, k, selector))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort.probes or index.nprobe, **chosen)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(effort.ef or index.hnsw.efSearch, k), **chosen)
    if isinstance(index, faiss.IndexRefine):
        below = _parameters(index.base_index, effort, k, selector)
        return faiss.IndexRefineSearchParameters(k_factor=max(index.k_factor, effort.refine), base_index_params=below)
    return faiss.SearchParameters(**chosen) if chosen else None


def _scaled(value: int, share: float) -> int:
    return int(value / share)


def _wider(index: OpenIndex, effort: Effort) -> Effort | None:
    """The next effort, up to that which visits every row; None: this one did."""
    most_probes = inverted.nlist if (inverted := inverted_lists(index.faiss)) else 0
    most = Effort(most_probes, index.ntotal, index.ntotal if index.exact is not None else 0)
    wider = {name: min(limit, max(1, getattr(effort, name)) * WIDER) for name, limit in vars(most).items()}
    return Effort(**wider) if Effort(**wider) != effort else None


def _in_order(scores_QK: np.ndarray, rows_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best first, equal scores in the order of their rows."""
    order = np.lexsort((rows_QK, -scores_QK))
    return np.take_along_axis(scores_QK, order, 1), np.take_along_axis(rows_QK, order, 1)
