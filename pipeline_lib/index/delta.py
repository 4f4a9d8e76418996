"""Delta of an index: what came, changed and went since the index before it, its base, of the same model and settings.

Rows, texts, BM25 and exact vectors are those of a build of the whole, in the same order, so that their answers are the same; of
vectors only those of new texts are embedded, of words only theirs are read. What takes long to build is taken over:

    hnsw               new rows become nodes of the base's graph; the nodes of rows that went stay behind the last row, as
                       tombstones that a walk goes through and no answer names
    ivf_flat, ivf_pq   centroids, rotation and codes stay; rows get their new numbers, and new ones are coded and added
    flat, sq8, binary  nothing: they are written as fast as they are read

Recall is measured as of a build of the whole; below what the base's had, or after too many changes, graph and lists are built
anew from stored vectors. No file of the base is shared or needed afterwards.

N rows, D width.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation
from pipeline_lib.index.build import (
    ADDED_ROWS,
    SHARD_BYTES,
    Vectors,
    merge_lists,
    planned,
    write_digests,
    write_exact,
    write_files,
)
from pipeline_lib.index.factories import (
    BLOCKS_FILE,
    EXACT_FILE,
    INDEX_FILE,
    LISTS_FILE,
    faiss_module,
    inverted_lists,
    open_index,
)
from pipeline_lib.index.filled import one_thread
from pipeline_lib.index.recall_gate import Asked, settle
from pipeline_lib.index.recipes import FLOORS, RESCORED
from pipeline_lib.index.rows import ROWS
from pipeline_lib.store.store import Store

if TYPE_CHECKING:
    import faiss
    import pyarrow as pa

RECALL_LOSS = 0.002  # of recall@10, at most, below that of the last build of the whole
GROWN = ("hnsw", "ivf_flat", "ivf_pq")


@dataclass(frozen=True)
class Base:
    """The index that a delta begins with.

    Attributes:
        folder: of its files.
        digest: of its artifact.
        facts: its index.json.
        before_N: row of the base of each row now; -1: it is new.
    """

    folder: Path
    digest: str
    facts: Mapping[str, Any]
    before_N: np.ndarray

    @property
    def n(self) -> int:
        """Rows of the base."""
        return int(self.facts["count"])

    @property
    def new(self) -> np.ndarray:
        """Rows that the base does not have."""
        return np.flatnonzero(self.before_N < 0)

    @property
    def gone(self) -> np.ndarray:
        """Rows of the base that are no more."""
        stays = np.zeros(self.n, bool)
        stays[self.before_N[self.before_N >= 0]] = True
        return np.flatnonzero(~stays)

    @property
    def since_whole(self) -> int:
        """Rows that were added and removed since graph or lists were built whole, these among them."""
        earlier = self.facts.get("delta", {}).get("since_whole", 0)
        return int(earlier) + len(self.new) + len(self.gone)

    @property
    def whole_recall(self) -> float:
        """Recall@10 when graph or lists were last built whole."""
        return float(self.facts.get("delta", {}).get("whole_recall", self.facts["recall"]["at_10"]))


def same_rows(now: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The row before of each row now, by the hashes of functions and passages, each hash once a kind; -1: there is none."""
    found, first = [], 0
    for now_N, before_N in zip(now, before, strict=True):
        order = np.argsort(before_N)
        at = np.minimum(np.searchsorted(before_N[order], now_N), max(0, len(before_N) - 1))
        rows = order[at] if len(order) else np.zeros(len(now_N), np.int64)
        there = before_N[rows] == now_N if len(order) else np.zeros(len(now_N), bool)
        found.append(np.where(there, rows + first, -1))
        first += len(before_N)
    return np.concatenate(found)


def changes(base: Base, folder: Path) -> dict[str, int]:
    """Rows by what became of them: changed are those that took the place of one that went, by path and name.

    Args:
        folder: with the rows of now.
    """
    import pyarrow.compute as pc

    new, gone = base.new, base.gone
    now, before = _rows(folder), _rows(base.folder)
    kept = np.flatnonzero(base.before_N >= 0)
    paths = [now.column("path").take(kept), before.column("path").take(base.before_N[kept])]
    changed = (_places(now, new) & _places(before, gone)).total()
    return {
        "added": len(new) - changed,
        "changed": changed,
        "removed": len(gone) - changed,
        "kept": len(kept),
        "moved": pc.sum(pc.not_equal(*paths)).as_py() or 0,
    }


@dataclass(frozen=True)
class Growth:
    """The vectors of a delta, and what they are added to.

    Attributes:
        vectors: of all rows.
        read: vectors of some rows.
    """

    base: Base
    vectors: Vectors
    read: Callable[[np.ndarray], np.ndarray]
    config: IndexConfig
    store: Store

    def write(self, folder: Path, asked: Callable[[], Asked]) -> dict[str, Any]:
        """Write the index's files: what index.json says of them, of recall, and under `delta` of how they came about.

        Raises:
            ContractViolation: recall@10 stays below its floor, even of an index that is built anew.
        """
        why = self._why_anew()
        if why is None:
            try:
                facts = self._grown(folder)
                facts |= settle(folder, facts, self._as_good(), asked, self.vectors)
                return facts | {"delta": self._told("grown", self.base.since_whole, self.base.whole_recall)}
            except ContractViolation as error:
                why = str(error).partition(", so that")[0]
                for name in (INDEX_FILE, LISTS_FILE, EXACT_FILE, BLOCKS_FILE):
                    (folder / name).unlink(missing_ok=True)
        facts = write_files(self.vectors, self.config, folder, self.store)
        facts |= settle(folder, facts, self.config, asked, self.vectors)
        return facts | {"delta": self._told("written", 0, facts["recall"]["at_10"]) | ({"why": why} if why else {})}

    def _told(self, how: str, since_whole: int, whole_recall: float) -> dict[str, Any]:
        number = int(self.base.facts.get("delta", {}).get("number", 0)) + 1
        own = {"how": how, "since_whole": since_whole, "whole_recall": whole_recall}
        return {"base": self.base.digest, "number": number, **own}

    def _why_anew(self) -> str | None:
        """Reason for which graph or lists are not taken over; "": the kind has none."""
        recipe, facts = planned(self.config, self.vectors.n, int(self.base.facts["dim"])), self.base.facts
        kind = facts.get("kind", str(facts.get("factory")).lower())  # earlier indexes are Flat
        if recipe.kind != kind:  # a given factory string is one, whatever it makes
            return f"{kind} is built as {recipe.kind}"
        if recipe.kind not in GROWN:
            return ""
        n, most = self.base.since_whole, self.config.rebuild_share
        if n > most * self.vectors.n:
            return f"{n:,} rows came and went since the last whole build, over {most:.0%} of {self.vectors.n:,}"
        return None

    def _as_good(self) -> IndexConfig:
        """The settings with a floor that is near the recall of the last whole build; none where none is asked for."""
        floor = FLOORS[self.base.facts["kind"]] if self.config.least_recall is None else self.config.least_recall
        wanted = max(floor, self.base.whole_recall - RECALL_LOSS) if floor else 0.0
        return self.config.model_copy(update={"least_recall": wanted})

    def _grown(self, folder: Path) -> dict[str, Any]:
        kept = ("kind", "factory", "parameters", "dim", "exact", "files")
        facts = {name: self.base.facts[name] for name in kept if name in self.base.facts}
        if facts["kind"] == "hnsw":
            tombstones = self._grow_graph(folder / INDEX_FILE)
            return facts | ({"tombstones": tombstones} if tombstones else {})
        if facts["kind"] in RESCORED:
            dtype = np.dtype(facts["exact"])
            write_exact(self.vectors, facts["dim"], folder / EXACT_FILE, dtype)
            write_digests(np.memmap(folder / EXACT_FILE, dtype, "r").reshape(-1, facts["dim"]), folder / BLOCKS_FILE)
        self._grow_lists(folder)
        return facts

    def _grow_graph(self, out: Path) -> int:
        """Add nodes, and order all of them as the rows are; returns how many stand behind the last row."""
        faiss = faiss_module()
        index, before_N = faiss.read_index(str(self.base.folder / INDEX_FILE)), self.base.before_N
        node_N = np.where(before_N < 0, index.ntotal + np.cumsum(before_N < 0) - 1, before_N)
        with one_thread():  # of several, nodes would be linked in the order in which they happen to come
            for _, vectors_ND in self._new():
                index.add(vectors_ND)
        is_row = np.zeros(index.ntotal, bool)
        is_row[node_N] = True
        order = np.concatenate([node_N, np.flatnonzero(~is_row)]).astype(np.int64)
        index.permute_entries(order)
        faiss.write_index(index, str(out))
        return len(order) - len(before_N)

    def _grow_lists(self, folder: Path) -> None:
        """Lists of the base with the numbers that its rows have now, and new rows behind them; merged from pieces on disk."""
        faiss, room = faiss_module(), self.store.scratch("index")
        try:
            _write_trained(self.base.folder / INDEX_FILE, room / "trained")
            opened = open_index(self.base.folder, self.base.facts)
            lists = faiss.downcast_InvertedLists(inverted_lists(opened.faiss).invlists)
            fills = [partial(self._keep, lists, numbers) for numbers in _pieces(lists)]
            step = max(ADDED_ROWS, SHARD_BYTES // (4 * self.base.facts["dim"]))
            fills += [partial(self._add, range(at, at + step)) for at in range(0, len(self.base.new), step)]
            places = [room / f"piece-{number}" for number in range(len(fills))]
            for fill, place in zip(fills, places, strict=True):
                index = faiss.read_index(str(room / "trained"))
                fill(index)
                faiss.write_index(index, str(place))
            merge_lists(room / "trained", places, folder)
        finally:
            shutil.rmtree(room)

    def _keep(self, lists: Any, numbers: range, index: faiss.Index) -> None:
        """Some lists of the base, without the rows that went."""
        faiss, inverted = faiss_module(), inverted_lists(index)
        now_N = np.full(self.base.n, -1, np.int64)
        kept = np.flatnonzero(self.base.before_N >= 0)
        now_N[self.base.before_N[kept]] = kept
        for number in numbers:
            if not (size := lists.list_size(number)):
                continue
            rows = now_N[faiss.rev_swig_ptr(lists.get_ids(number), size)]
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)[rows >= 0]
            rows = rows[rows >= 0]
            if len(rows):
                inverted.invlists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(codes))
                inverted.ntotal += len(rows)
        index.ntotal = inverted.ntotal

    def _add(self, places: range, index: faiss.Index) -> None:
        """Some of the new rows, coded as the base's are."""
        with one_thread():
            for rows, vectors_ND in self._new(places):
                index.add_with_ids(vectors_ND, rows)

    def _new(self, places: range | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """New rows, or some of them, and their vectors, a batch at a time."""
        new = self.base.new.astype(np.int64)
        new = new if places is None else new[places.start : places.stop]
        for first in range(0, len(new), ADDED_ROWS):
            rows = new[first : first + ADDED_ROWS]
            yield rows, np.ascontiguousarray(self.read(rows), np.float32)


def _write_trained(place: Path, out: Path) -> None:
    """An index without its lists' contents."""
    faiss = faiss_module()
    index = faiss.read_index(str(place), faiss.IO_FLAG_SKIP_IVF_DATA)
    inverted = inverted_lists(index)
    lists = faiss.ArrayInvertedLists(inverted.nlist, inverted.code_size)
    inverted.replace_invlists(lists, True)
    lists.this.disown()
    index.ntotal = inverted.ntotal = 0
    faiss.write_index(index, str(out))


def _pieces(lists: Any) -> Iterator[range]:
    """Ranges of lists that hold about as many bytes as a shard."""
    first = held = 0
    for number in range(lists.nlist):
        held += lists.list_size(number) * (lists.code_size + 8)
        if held >= SHARD_BYTES or number == lists.nlist - 1:
            yield range(first, number + 1)
            first, held = number + 1, 0


def _rows(folder: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(folder / ROWS))).read_all()


def _places(rows: pa.Table, chosen: np.ndarray) -> Counter[tuple[str, ...]]:
    taken = rows.select(["kind", "path", "name"]).take(chosen)
    return Counter(zip(*(column.to_pylist() for column in taken.columns), strict=True))
