"""Kinds of index: what each is made of, how it is opened, and its nearest rows, with or without a filter.

    flat       exact, every vector compared                                   4 D bytes a row
    hnsw       one graph over the vectors: fast, all in memory                4 D + 8 M
    ivf_flat   inverted lists of whole vectors: a share of them is compared   4 D + 8
    ivf_pq     inverted lists of product-quantized vectors after a rotation   PQ bytes + 8, the exact vectors beside on disk
    sq8        every vector compared, a byte a coordinate                     D, likewise
    binary     every vector compared by Hamming distance, a bit a coordinate  D / 8, likewise

Parameters come from rows and width by the rules of FAISS's own guide, "Guidelines to choose an index" and "The index factory"
(github.com/facebookresearch/faiss/wiki); each function below names its rule. A candidate of the last three is scored again by
its exact vector, which lies in a memory-mapped file beside the index.

N rows, D width, Q queries, K results, C candidates of a query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline_lib.errors import CorruptArtifact

if TYPE_CHECKING:
    import faiss

Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_pq", "sq8", "binary"]
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivf_flat", "ivf_pq", "sq8", "binary")
RESCORED: tuple[Kind, ...] = ("ivf_pq", "sq8", "binary")
FLOORS: dict[str, float] = {"flat": 1.0, "hnsw": 0.98, "ivf_flat": 0.95, "ivf_pq": 0.90, "sq8": 0.95, "binary": 0.90}
INDEX_FILE, LISTS_FILE, EXACT_FILE = "index.faiss", "index.ivfdata", "vectors.npy"
CENTRES = 4  # times the root of N: lists of an index of inverted lists
LEAST_POINTS, POINTS = 39, 64  # training vectors a list: FAISS warns below 39, and samples down above 256
MOST_LISTS, GRAPH_LISTS = 1 << 18, 1 << 14  # from so many on, the nearest lists are found by a graph
EXACT_ROWS = 20_000  # so few allowed rows are compared one by one: a graph or a list would pass by most of what it visits
GATHERED = 4_096  # rows of exact vectors in memory at a time
WIDER = 4


@dataclass(frozen=True)
class Recipe:
    """The parameters that an index is built by; `factory` is empty for what FAISS's factory does not make."""

    kind: str
    factory: str
    M: int = 0
    ef_construction: int = 0
    lists: int = 0
    pq_bytes: int = 0


@dataclass(frozen=True)
class Effort:
    """How far a search goes; 0: of no matter to the kind.

    Attributes:
        probes: inverted lists that are visited.
        ef: candidates that a walk through the graph keeps.
        refine: candidates a result that are scored again by their exact vectors.
    """

    probes: int = 0
    ef: int = 0
    refine: int = 0

    def as_json(self) -> dict[str, int]:
        """What counts."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass
class OpenIndex:
    """An index as search reads it: FAISS's own, the exact vectors beside it, and how far a search goes.

    Attributes:
        exact_ND: float16 or float32, memory-mapped; None: the index itself holds what it scores by.
        centre_D: taken off before a binary code's signs are read.
    """

    faiss: Any
    d: int
    effort: Effort = field(default_factory=Effort)
    exact_ND: np.ndarray | None = None
    centre_D: np.ndarray | None = None

    @property
    def ntotal(self) -> int:
        """N."""
        return int(self.faiss.ntotal)

    def reconstruct_n(self, first: int, n: int) -> np.ndarray:
        """Vectors (n, D) float32 of rows that follow one another."""
        if self.exact_ND is not None:
            return np.asarray(self.exact_ND[first : first + n], np.float32)
        return np.asarray(self.faiss.reconstruct_n(first, n))

    def vectors(self, rows: np.ndarray) -> np.ndarray | None:
        """Vectors (n, D) float32 of some rows; None: the index does not hold them."""
        if self.exact_ND is not None:
            return np.asarray(self.exact_ND[rows], np.float32)
        try:
            return np.asarray(self.faiss.reconstruct_batch(rows))
        except RuntimeError:  # inverted lists without a map from rows to their places, or codes that lose too much
            return None


def lists_for(n: int) -> int:
    """Inverted lists: the power of two next to 4 sqrt(N), of at least 39 vectors each (the guide: 4 to 16 sqrt(N))."""
    wanted = 2 ** round(math.log2(max(1.0, CENTRES * math.sqrt(n))))
    fit = 2 ** int(math.log2(max(1, n // LEAST_POINTS)))
    return max(1, min(wanted, fit, MOST_LISTS))


def recipe_for(
    kind: Kind, n: int, d: int, M: int | None = None, lists: int | None = None, pq_bytes: int | None = None
) -> Recipe:
    """The parameters of a kind for so many rows of such a width, but for those that are given.

    M: 32 links a node (16 below 64 wide), with efConstruction 4 M; PQ bytes: a quarter of the width, which leaves 4 dimensions
    a byte as the guide has it, 8 to 64, and the rotation's width is 4 of them a byte.
    """
    links = M or (32 if d >= 64 else 16)
    cells = min(lists or lists_for(n), n)
    coarse = f"IVF{cells}_HNSW32" if cells >= GRAPH_LISTS else f"IVF{cells}"
    quantized = min(pq_bytes or max(8, min(64, d // 4)), d)
    if kind == "hnsw":
        return Recipe(kind, f"HNSW{links},Flat", M=links, ef_construction=4 * links)
    if kind == "ivf_flat":
        return Recipe(kind, f"{coarse},Flat", lists=cells)
    if kind == "ivf_pq":
        rotated = quantized * max(1, min(4, d // quantized))
        return Recipe(kind, f"OPQ{quantized}_{rotated},{coarse},PQ{quantized}x8", lists=cells, pq_bytes=quantized)
    return Recipe(kind, {"flat": "Flat", "sq8": "SQ8"}.get(kind, ""))


def first_effort(recipe: Recipe) -> Effort:
    """Where a build begins to measure; see `most_effort` for where it stops."""
    probes = max(1, recipe.lists // 64)
    return {
        "hnsw": Effort(ef=2 * recipe.M),
        "ivf_flat": Effort(probes=probes),
        "ivf_pq": Effort(probes=probes, refine=8),
        "sq8": Effort(refine=2),
        "binary": Effort(refine=16),
    }.get(recipe.kind, Effort())


def most_effort(recipe: Recipe) -> Effort:
    """The farthest that a build tries: half of the lists, a walk of 2,048 candidates, 256 scored again a result."""
    return Effort(probes=max(1, -(-recipe.lists // 2)), ef=2048, refine=1024 if recipe.kind == "binary" else 256)


def files_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The files beside index.json that `open_index` reads."""
    return tuple(facts.get("files", [INDEX_FILE]))


def open_index(folder: Path, facts: Mapping[str, Any]) -> OpenIndex:
    """An index, memory-mapped, with how far its searches go, as index.json says.

    Raises:
        CorruptArtifact: its exact vectors are not of its shape.
    """
    import faiss

    path, effort = str(folder / INDEX_FILE), Effort(**facts.get("effort", {}))
    if facts.get("kind") == "binary":
        centre_D = np.asarray(facts["centre"], np.float32)
        found = OpenIndex(faiss.read_index_binary(path, faiss.IO_FLAG_MMAP_IFC), facts["dim"], effort, centre_D=centre_D)
    else:
        on_disk = LISTS_FILE in files_of(facts)
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY if on_disk else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(path, flags)
        found = OpenIndex(index, index.d, effort)
    if inverted := inverted_lists(found.faiss):
        probes = min(effort.probes or facts.get("probes", 1), inverted.nlist)
        found.effort = Effort(**(vars(effort) | {"probes": probes}))
    if EXACT_FILE in files_of(facts):
        found.exact_ND = np.load(folder / EXACT_FILE, mmap_mode="r", allow_pickle=False)
        if found.exact_ND.shape != (found.ntotal, found.d):
            raise CorruptArtifact(f"{folder / EXACT_FILE}: {found.exact_ND.shape}, not {(found.ntotal, found.d)}")
    return found


def inverted_lists(index: faiss.Index) -> Any:
    """The inverted lists in an index, behind a transform or not; None where there are none."""
    import faiss

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


def exact_nearest(slices: Any, vectors_QD: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, K) of the k nearest by exact search through all vectors, a slice (n, D) of them at a time; -1: there are fewer."""
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
    return rows_QK


def recall_of(found_QK: np.ndarray, right_QK: np.ndarray) -> float:
    """Share of the right rows that were found, over the queries; 1 where there is none."""
    if not right_QK.size:
        return 1.0
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found_QK.tolist(), right_QK.tolist(), strict=True)]))


def binary_codes(vectors_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """A bit a coordinate, whether it is above the corpus's mean; zeros up to a whole byte."""
    return np.packbits(vectors_ND > centre_D, axis=1)


def _search(
    index: OpenIndex, vectors_QD: np.ndarray, k: int, effort: Effort, allowed_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What FAISS finds, scored again where the index has exact vectors; rows that are not there are -1."""
    asked = vectors_QD if index.centre_D is None else binary_codes(vectors_QD, index.centre_D)
    scores_QC, rows_QC = _found(index, asked, min(index.ntotal, k * max(1, effort.refine)), effort, allowed_N)
    if index.exact_ND is None:
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
        return index.faiss.search(asked, n, params=_parameters(index.faiss, effort, n, _selector(allowed_N)))  # type: ignore[no-any-return]
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


def _selector(allowed_N: np.ndarray | None) -> Any:
    if allowed_N is None:
        return None
    import faiss

    return faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))


def _parameters(index: Any, effort: Effort, k: int, selector: Any) -> Any:
    """FAISS's parameters of one search; an index is not changed by a search, so that threads may share it."""
    import faiss

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
    most = Effort(most_probes, index.ntotal, index.ntotal if index.exact_ND is not None else 0)
    wider = {name: min(limit, max(1, getattr(effort, name)) * WIDER) for name, limit in vars(most).items()}
    return Effort(**wider) if Effort(**wider) != effort else None


def _in_order(scores_QK: np.ndarray, rows_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best first, equal scores in the order of their rows."""
    order = np.lexsort((rows_QK, -scores_QK))
    return np.take_along_axis(scores_QK, order, 1), np.take_along_axis(rows_QK, order, 1)
