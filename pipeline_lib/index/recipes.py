"""Kinds of index: what each is made of and weighs, and which is chosen for so many rows, such a width and a budget.

    flat       exact, every vector compared                                   4 D bytes a row
    hnsw       one graph over the vectors: fast, all in memory                4 D + 8 M
    ivf_flat   inverted lists of whole vectors: a share of them is compared   4 D + 8
    ivf_pq     inverted lists of product-quantized vectors after a rotation   PQ bytes + 8, the exact vectors beside on disk
    sq8        every vector compared, a byte a coordinate                     D, likewise
    binary     every vector compared by Hamming distance, a bit a coordinate  D / 8, likewise

Parameters come from rows and width by the rules of FAISS's own guide, "Guidelines to choose an index" and "The index factory"
(github.com/facebookresearch/faiss/wiki); each function below names its rule. A candidate of the last three is scored again by
its exact vector, which lies in a memory-mapped file beside the index.

N rows, D width.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline_lib.errors import UserError

Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_pq", "sq8", "binary"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RESCORED: tuple[Kind, ...] = ("ivf_pq", "sq8", "binary")
FLOORS: dict[str, float] = {
    "flat": 1.0,
    "hnsw": 0.98,
    "ivf_flat": 0.95,
    "ivf_pq": 0.90,
    "sq8": 0.95,
    "binary": 0.90,
    "other": 0.90,
}
EXACT_BYTES = 2  # a coordinate of the exact vectors, which hits are scored anew by
CENTRES = 4  # times the root of N: lists of an index of inverted lists
LEAST_POINTS = 39  # training vectors a list: FAISS warns below
ROTATION_ROWS = 39 * 256  # fewer teach no rotation
MOST_LISTS, GRAPH_LISTS = 1 << 18, 1 << 14  # from so many on, the nearest lists are found by a graph
SCANNED_BYTES = 1 << 30  # of an index that is read whole for each query: 0.1 s on one core
MOST_BYTES = 1e18  # of a budget
GRAPH_ROWS = 10_000_000  # of a graph, which one thread builds: some hours


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
    a byte as the guide has it, 8 to 64, and the rotation's width is 4 of them a byte. Codes are ordered for no Hamming
    comparison ("np"), which nothing here makes and whose training would be most of the build.
    """
    links = M or (32 if d >= 64 else 16)
    cells = min(lists or lists_for(n), n)
    coarse = f"IVF{cells}_HNSW32" if cells >= GRAPH_LISTS else f"IVF{cells}"
    quantized = min(pq_bytes or max(8, min(64, d // 4)), d)
    if kind == "hnsw":
        return Recipe(kind, f"HNSW{links},Flat", M=links, ef_construction=4 * links)
    if kind == "ivf_flat":
        return Recipe(kind, f"{coarse},Flat", lists=cells)
    if kind == "ivf_pq" and n < ROTATION_ROWS:
        quantized = next(value for value in range(quantized, 0, -1) if d % value == 0)
        return Recipe(kind, f"{coarse},PQ{quantized}x8np", lists=cells, pq_bytes=quantized)
    if kind == "ivf_pq":
        rotated = quantized * max(1, min(4, d // quantized))
        return Recipe(kind, f"OPQ{quantized}_{rotated},{coarse},PQ{quantized}x8np", lists=cells, pq_bytes=quantized)
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
    """The farthest that a build tries: half of the lists, or all of few, 2,048 candidates of a walk, 256 or 1,024 a result."""
    return Effort(
        probes=max(min(recipe.lists, 64), recipe.lists // 2), ef=2048, refine=1024 if recipe.kind == "binary" else 256
    )


def family(factory: str) -> str:
    """The kind whose floor and first effort a given factory string has; "other": none."""
    if "HNSW" in factory and "IVF" not in factory:
        return "hnsw"
    if "PQ" in factory.replace("OPQ", "") or "RaBitQ" in factory:
        return "ivf_pq"
    return "ivf_flat" if "IVF" in factory else "other"


@dataclass(frozen=True)
class Weight:
    """Bytes of an index: on disk, and those that a search wants in memory (mapped, so that less makes it slower, not wrong)."""

    disk_bytes: int
    memory_bytes: int


def weight(kind: Kind, n: int, d: int, recipe: Recipe | None = None) -> Weight:
    """Bytes of a kind, without the rows and texts beside it (the guide's figures, and the lists' centroids)."""
    recipe = recipe or recipe_for(kind, n, d)
    memory = {
        "flat": n * 4 * d,
        "hnsw": n * (4 * d + 8 * recipe.M + 16),  # two times M links of 4 bytes at the bottom; levels and offsets
        "ivf_flat": n * (4 * d + 8) + recipe.lists * 4 * d,
        "ivf_pq": n * (recipe.pq_bytes + 8) + recipe.lists * 4 * d,
        "sq8": n * d,
        "binary": n * -(-d // 8),
    }[kind]
    return Weight(memory + (n * d * EXACT_BYTES if kind in RESCORED else 0), memory)


def choose(n: int, d: int, budget_bytes: int | None = None) -> Kind:
    """The most exact kind that is fast enough and fits.

    flat while it is scanned in a tenth of a second, then hnsw while one thread builds it in hours, then ivf_flat; where memory
    is short sq8 while it is scanned as fast, then ivf_pq, then binary.

    Raises:
        UserError: none fits.
    """
    scanned: tuple[Kind, ...] = ("flat", "sq8", "binary")
    by_exactness: tuple[Kind, ...] = ("flat", "hnsw", "ivf_flat", "sq8", "ivf_pq", "binary")
    fits = {kind: weight(kind, n, d).memory_bytes for kind in KINDS}
    for kind in by_exactness:
        slow = fits[kind] > SCANNED_BYTES if kind in scanned else kind == "hnsw" and n > GRAPH_ROWS
        if not slow and (budget_bytes is None or fits[kind] <= budget_bytes):
            return kind
    least = min(by_exactness[-2:], key=lambda kind: fits[kind])
    if budget_bytes is None or fits[least] <= budget_bytes:
        return least
    raise UserError(
        f"{n:,} vectors of {d} dimensions: no kind of index fits {budget_bytes:,} bytes; {least} takes the least,"
        f" {fits[least]:,} bytes: raise index.memory_budget_bytes"
    )


def parse_bytes(text: str) -> int:
    """Bytes from words such as 2GB, 1.5 GiB or 800M; GB is 10^9.

    Raises:
        UserError: they are none.
    """
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in units or not 1 <= float(found[1]) * units[found[2]] < MOST_BYTES:
        raise UserError(f"{text!r} is no size; write it as 2GB, 800MB or 1.5GiB")
    return int(float(found[1]) * units[found[2]])
