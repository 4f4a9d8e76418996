"""What ranks an index's rows best, measured on validation queries over all of them: vectors, BM25, or both fused.

A query is a docstring whose function, or a passage whose next one, is the right row; the passage itself is no answer to it.
The test split is not opened. N rows, Q queries, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.index.factories import OpenIndex, nearest
from pipeline_lib.index.fusion import LEAST_QUERIES, Listed, Tried, choose, tried
from pipeline_lib.index.hybrid import KINDS, Hybrid
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.vectors import text_hashes

SPLIT = "validation"
VIEWS = {"code": "docstring", "text": "neighbour"}
PER_GROUP = 50  # queries of one group at most, as the held-out tasks have it
QUERY_BLOCK = 256
BATCH_ROWS = 4096

Embed = Callable[[Sequence[str]], np.ndarray]  # queries to vectors (Q, D)


@dataclass(frozen=True)
class Questions:
    """Queries of one kind, the row that answers each, and the row of the query itself; -1: it is none."""

    texts: list[str]
    right: np.ndarray
    own: np.ndarray


def read_questions(curated: Artifact, most: int, hashes_N2: np.ndarray, n_code: int) -> dict[str, Questions]:
    """Validation queries of each kind, in the order of their pairs' ids; of a kind that has none there are none.

    Args:
        most: of each kind.
        hashes_N2: of the index's texts, by row.
        n_code: how many of them are functions, which come first.
    """
    pairs = _chosen_pairs(curated, most) if any(part.label == SPLIT for part in curated.manifest.parts) else {}
    found = {}
    for kind in KINDS:
        texts, answers = [x for x, _ in pairs.get(kind, ())], [y for _, y in pairs.get(kind, ())]
        first, end = (0, n_code) if kind == "code" else (n_code, len(hashes_N2))
        right, own = (_rows_of(side, hashes_N2[first:end], first) for side in (answers, texts))
        found[kind] = Questions(texts, right, own)
    return found


def measured_fusion(index: OpenIndex, hybrid: Hybrid, asked: dict[str, Questions], embed: Embed, depth: int) -> dict[str, Any]:
    """The record of `fusion.choose`."""
    n_rows = hybrid.n_rows
    of_kind = {"code": np.arange(n_rows) < hybrid.n_code, "text": np.arange(n_rows) >= hybrid.n_code}
    found = {kind: _tried(index, hybrid, questions, of_kind[kind], embed, depth) for kind, questions in asked.items()}
    return choose(found, depth)


def _tried(index: OpenIndex, hybrid: Hybrid, asked: Questions, allowed_N: np.ndarray, embed: Embed, depth: int) -> Tried:
    if len(asked.texts) < LEAST_QUERIES:
        return tried([(_NOTHING, _NOTHING)] * len(asked.texts), asked.right.tolist())
    lists, kinds = list[tuple[Listed, Listed]](), hybrid.kinds(allowed_N)
    for at in range(0, len(asked.texts), QUERY_BLOCK):
        texts = asked.texts[at : at + QUERY_BLOCK]
        vectors_QD = embed(texts)
        scores_QK, rows_QK = nearest(index, vectors_QD, depth + 1, allowed_N)
        for query, vector_D, rows_K, scores_K, own in zip(
            texts, vectors_QD, rows_QK, scores_QK, asked.own[at : at + QUERY_BLOCK].tolist(), strict=True
        ):
            both = (hybrid.vectors(vector_D, rows_K, scores_K, kinds), hybrid.words(query, depth + 1, allowed_N))
            lists.append((_without(both[0], own, depth), _without(both[1], own, depth)))
    return tried(lists, asked.right.tolist())


_NOTHING = Listed(np.zeros(0, np.int64), np.zeros(0), 0.0, 0.0, 0.0)


def _without(found: Listed, row: int, depth: int) -> Listed:
    kept = np.flatnonzero(found.rows != row)[:depth]
    rest = found.scores[kept[-1]] if len(kept) == depth else found.rest
    return found._replace(rows=found.rows[kept], scores=found.scores[kept], rest=float(rest))


def _chosen_pairs(curated: Artifact, most: int) -> dict[str, list[tuple[str, str]]]:
    """(x, y) of the chosen pairs of each kind: no more of one group than the rest can stand."""
    path = curated.part_folder(SPLIT) / "pairs.parquet"
    columns = pq.read_table(path, columns=["id", "kind", "view", "group"]).to_pydict()
    at = sorted(range(len(columns["id"])), key=columns["id"].__getitem__)
    taken: dict[str, list[int]] = {kind: [] for kind in KINDS}
    seen = Counter[tuple[str, str]]()
    for row in at:
        kind, group = columns["kind"][row], columns["group"][row]
        if columns["view"][row] == VIEWS[kind] and len(taken[kind]) < most and seen[kind, group] < PER_GROUP:
            seen[kind, group] += 1
            taken[kind].append(row)
    wanted, texts, first = sorted(row for rows in taken.values() for row in rows), dict[int, tuple[str, str]](), 0
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["x", "y"]):
        inside = [row for row in wanted if first <= row < first + batch.num_rows]
        for row, pair in zip(inside, batch.take(np.array(inside, np.int64) - first).to_pylist(), strict=True):
            texts[row] = (pair["x"], pair["y"])
        first += batch.num_rows
    return {kind: [texts[row] for row in rows if texts[row][0].strip()] for kind, rows in taken.items()}


def _rows_of(texts: Sequence[str], hashes_N2: np.ndarray, first: int) -> np.ndarray:
    """The row of each text; -1 where the index does not hold it."""
    wanted_Q2 = text_hashes(texts)
    near = np.flatnonzero(np.isin(hashes_N2[:, 0], wanted_Q2[:, 0])) if len(texts) else np.zeros(0, np.int64)
    row_of = {hashes_N2[row].tobytes(): int(row) + first for row in near}
    return np.array([row_of.get(hash_2.tobytes(), -1) for hash_2 in wanted_Q2], np.int64)
