"""Plan of an index: for so many rows of such a width, every kind's bytes, build time and expected recall, and which is chosen.

Build times come from this machine's own rates, which a calibration of a few seconds measures by small builds of each kind; they
are kept below the artifact root. What is not measured at full size is scaled by the operations that it takes:

    writing            by bytes
    training           lists, k-means of R = 64 lists^2 D products a round; a rotation and its codes by rows and width
    adding             lists D a vector to find its list, and its encoding; divided by the processes
    a graph            log N a node, on one thread

N rows, D width.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from threadpoolctl import threadpool_limits

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import UserError
from pipeline_lib.index.build import Vectors, write_files
from pipeline_lib.index.recipes import FLOORS, KINDS, Kind, choose, recipe_for, weight
from pipeline_lib.runtime.machine import cores
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import replace_file
from pipeline_lib.store.store import Store

RATES_FILE = "index-rates.json"
VERSION = 1  # of what a calibration measures
MOST_ROWS, MOST_WIDTH = 10**12, 65_536
MEASURED_WIDTH = 1_024  # at most: of wider vectors a calibration would take hours and gigabytes; its seconds are scaled
ROWS = 10_240  # of a calibration: enough for a rotation to be learnt
# Recall@10 at the efforts that builds settle on, rounded down: `python -m benchmarks.index`, clustered vectors
EXPECTED: dict[str, float] = {"flat": 1.0, "hnsw": 0.99, "ivf_flat": 0.95, "ivf_pq": 0.90, "sq8": 0.99, "binary": 0.95}


@dataclass(frozen=True)
class Rates:
    """Seconds of this machine for one thread.

    Attributes:
        width: D that they were measured at.
        seconds: of a build of `rows` rows, by kind.
        product_seconds: of one multiplication and addition in a large matrix product.
    """

    width: int
    rows: int
    seconds: dict[str, float]
    product_seconds: float
    cores: int


@dataclass(frozen=True)
class Row:
    """One kind of index in a plan; bytes are without the rows and texts beside the vectors."""

    kind: str
    factory: str
    disk_bytes: int
    memory_bytes: int
    build_seconds: float
    build_memory_bytes: int
    expected_recall: float
    floor: float
    fits: bool
    chosen: bool


def chosen_kind(n: int, d: int, budget_bytes: int | None = None) -> Kind:
    """The kind that `kind: auto` takes for N rows of D dimensions.

    Raises:
        UserError: there is no row or no dimension, or no kind fits the budget.
    """
    if not 1 <= n <= MOST_ROWS or not 1 <= d <= MOST_WIDTH:
        said = f"{n:,}" if abs(n) <= 10**18 else f"a number of {len(str(n))} digits of"
        raise UserError(f"{said} vectors of {d:,} dimensions: expected 1 to {MOST_ROWS:,} of 1 to {MOST_WIDTH:,}")
    return choose(n, d, budget_bytes)


def plan_rows(n: int, d: int, budget_bytes: int | None, rates: Rates) -> list[Row]:
    """All kinds for N rows of D dimensions; the chosen one is that of `kind: auto`.

    Raises:
        UserError: see `chosen_kind`.
    """
    chosen = chosen_kind(n, d, budget_bytes)
    return [_row(kind, n, d, budget_bytes, rates, kind == chosen) for kind in KINDS]


def calibrated(home: Path, d: int, progress: Progress = silent) -> Rates:
    """This machine's rates at a width: those that are kept, or measured now and kept.

    Args:
        home: the artifact root.
    """
    d = min(d, MEASURED_WIDTH)
    name = f"{platform.node()}, {cores()} cores, {d} dimensions, version {VERSION}"
    path = home / RATES_FILE
    known = _read(path)
    if name not in known:
        known[name] = measure_rates(d, progress)
        with contextlib.suppress(OSError):  # a home that others write, a full disk: measured again the next time
            replace_file(path, json.dumps({name: vars(rates) for name, rates in known.items()}, indent=1).encode())
    return known[name]


def measure_rates(d: int, progress: Progress = silent, rows: int = ROWS) -> Rates:
    """Build a small index of each kind, and multiply two matrices."""
    generator = np.random.default_rng(0)
    vectors_ND = generator.standard_normal((rows, d)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    vectors = Vectors(lambda at: vectors_ND[at : at + rows], range(0, rows, rows))
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place, "store"))
        for done, kind in enumerate(KINDS):
            progress(done, len(KINDS) + 1, f"measuring {kind}")
            seconds[kind] = _seconds(lambda kind=kind: _build(kind, vectors, Path(place), store))  # type: ignore[misc]
    progress(len(KINDS), len(KINDS) + 1, "measuring matrix products")
    with threadpool_limits(1):
        product = _seconds(lambda: vectors_ND @ vectors_ND[:1024].T) / (rows * 1024 * d)
    progress(len(KINDS) + 1, len(KINDS) + 1, "measured")
    return Rates(d, rows, seconds, product, cores())


def describe(rows: list[Row], n: int, d: int) -> str:
    """The plan as people read it."""
    head = f"{'':2}{'kind':9} {'on disk':>9} {'in memory':>10} {'build':>8} {'its memory':>11} {'recall@10':>10}   factory"
    foot = (
        "* what `kind: auto` takes   - above the budget   in memory: what answers without waiting for the disk; it is mapped,"
        " so that less memory makes a search slower, and not wrong"
    )
    lines = [_line(row) for row in rows]
    return "\n".join([f"{n:,} vectors of {d:,} dimensions, float32 {said_bytes(4 * n * d)}", "", head, *lines, "", foot])


def _line(row: Row) -> str:
    mark = "*" if row.chosen else " " if row.fits else "-"
    sizes = f"{said_bytes(row.disk_bytes):>9} {said_bytes(row.memory_bytes):>10}"
    build = f"{_time(row.build_seconds):>8} {said_bytes(row.build_memory_bytes):>11}"
    return f"{mark} {row.kind:9} {sizes} {build} {row.expected_recall:>10.2f}   {row.factory}"


def _row(kind: Kind, n: int, d: int, budget_bytes: int | None, rates: Rates, chosen: bool) -> Row:
    recipe = recipe_for(kind, n, d)
    weighs = weight(kind, n, d, recipe)
    fits = budget_bytes is None or weighs.memory_bytes <= budget_bytes
    return Row(
        kind, recipe.factory or "signs", weighs.disk_bytes, weighs.memory_bytes, _build_seconds(kind, n, d, rates),
        _build_memory(kind, n, d), EXPECTED[kind], FLOORS[kind], fits, chosen,
    )  # fmt: skip


def _build_seconds(kind: Kind, n: int, d: int, rates: Rates) -> float:
    """The measured build scaled to N, and the products that its lists take."""
    scale = n / rates.rows * d / rates.width
    measured = rates.seconds[kind]
    if kind == "hnsw":
        return measured * scale * max(1.0, math.log(max(2, n)) / math.log(rates.rows))
    if not kind.startswith("ivf"):
        return measured * scale
    small, large = recipe_for(kind, rates.rows, d).lists, recipe_for(kind, n, d).lists
    fixed = max(0.0, measured - rates.seconds["flat"] - _list_seconds(rates.rows, small, d, rates))
    spread = min(1.0, 65_536 / rates.rows) if kind == "ivf_pq" and n <= rates.rows else min(n, 65_536) / rates.rows
    encoding = rates.seconds["flat"] * scale
    return fixed * max(1.0, spread) + encoding + _list_seconds(n, large, d, rates)


def _list_seconds(n: int, lists: int, d: int, rates: Rates) -> float:
    """k-means of ten rounds over 64 vectors a list, one thread; then each vector's nearest list, all processes."""
    near = min(lists, 4_096) if lists < 1 << 14 else 2_048  # a graph over the lists compares so many
    return rates.product_seconds * d * (10 * min(n, 64 * lists) * lists + n * near / rates.cores)


def _build_memory(kind: Kind, n: int, d: int) -> int:
    """The most that a build holds beside the interpreter: the training sample, a shard a process, or the whole graph."""
    if kind == "hnsw":
        return weight(kind, n, d).memory_bytes
    if kind == "flat":
        return 8_192 * 4 * d
    sample = 4 * d * min(n, max(65_536, 64 * recipe_for(kind, n, d).lists))
    return 2 * min(sample, 1 << 30) + 4 * d * 8_192


def _build(kind: Kind, vectors: Vectors, place: Path, store: Store) -> None:
    folder = place / kind
    folder.mkdir()
    write_files(vectors, IndexConfig(kind=kind, workers=1), folder, store)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read(path: Path) -> dict[str, Rates]:
    """The rates that are kept; what cannot be understood is measured anew."""
    known = {}
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        for name, value in json.loads(path.read_text(encoding="utf-8")).items():
            with contextlib.suppress(ValueError):  # pydantic's are a kind of it
                rates = TypeAdapter(Rates).validate_python(value)
                if set(rates.seconds) == set(KINDS):
                    known[name] = rates
    return known


def said_bytes(value: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def _time(seconds: float) -> str:
    for limit, unit, by in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / by:.1f} {unit}"
    return f"{seconds / 86_400:,.1f} d"
