"""Recall of an index that is being built: measured against exact search on held-out queries, and raised to its floor.

N rows, D width, Q queries, K results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import ContractViolation
from pipeline_lib.index.build import Vectors
from pipeline_lib.index.factories import exact_search, nearest, open_index, recall_by_scores
from pipeline_lib.index.recipes import FLOORS, Effort, Recipe, first_effort, most_effort

TOP = 10  # of recall
QUERIES = 400  # the standard error of a recall of 0.98 is then 0.002 to 0.007
FEWEST_QUERIES = 100  # of validation: of fewer, one miss would be a hundredth
NOISE = 0.7  # length of what is added to a document's vector where there are no queries: a cosine of 0.82


@dataclass(frozen=True)
class Asked:
    """Queries (Q, D) that recall is measured by, and what they are, in words."""

    vectors_QD: np.ndarray
    said: str


def settle(
    folder: Path, facts: dict[str, Any], config: IndexConfig, asked: Callable[[], Asked], vectors: Vectors
) -> dict[str, Any]:
    """Recall@10 against exact search, and the effort that reaches its floor: what index.json says of both.

    Raises:
        ContractViolation: no effort that is tried reaches it.
    """
    if facts["kind"] == "flat":
        return {"effort": {}, "recall": {"at_10": 1.0, "of": "exact"}}
    recipe = Recipe(facts["kind"], facts["factory"], **{"M": 0, "lists": 0, **_known(facts["parameters"])})
    queries = asked()
    k = min(TOP, vectors.n)
    scores_QK, rows_QK = exact_search(vectors.slices(), queries.vectors_QD, k)
    index = open_index(folder, facts)
    if index.exact is not None:  # scores as this index has them, of 2 bytes a coordinate
        scores_QK = np.stack([index.exact[rows] @ vector for rows, vector in zip(rows_QK, queries.vectors_QD, strict=True)])
    floor = FLOORS[recipe.kind] if config.least_recall is None else config.least_recall
    curve: dict[Effort, float] = {}

    def measured(effort: Effort) -> float:
        if effort not in curve:
            index.effort = effort
            curve[effort] = recall_by_scores(nearest(index, queries.vectors_QD, k), (scores_QK, rows_QK))
        return curve[effort]

    effort, most = _begin(recipe, config, index.can_refine), most_effort(recipe)
    while measured(effort) < floor:
        further = _further(effort, most)
        if not further:
            raise ContractViolation(_refusal(recipe, effort, curve[effort], floor, queries.said))
        effort = max(further, key=measured)
    shown = [{**tried.as_json(), "recall": round(recall, 4)} for tried, recall in curve.items()]
    return {
        "effort": effort.as_json(),
        "recall": {
            "at_10": round(curve[effort], 4), "floor": floor, "queries": len(queries.vectors_QD), "of": queries.said,
            "curve": shown,
        },
    }  # fmt: skip


def perturbed(vectors: Vectors) -> Asked:
    """Vectors of documents that are spread over the rows, each moved at random: queries where nobody asked any."""
    n = min(QUERIES, vectors.n)
    wanted = np.arange(n, dtype=np.int64) * vectors.n // n
    vectors_QD = np.concatenate([
        slice_ND[wanted[(wanted >= start) & (wanted < start + len(slice_ND))] - start]
        for start, slice_ND in zip(vectors.starts, vectors.slices(), strict=True)
    ])  # fmt: skip
    noise_QD = np.random.default_rng(0).standard_normal(vectors_QD.shape).astype(np.float32)
    moved_QD = vectors_QD + NOISE * noise_QD / np.linalg.norm(noise_QD, axis=1, keepdims=True)
    return Asked(moved_QD / np.linalg.norm(moved_QD, axis=1, keepdims=True), "vectors of documents, moved at random")


def _known(parameters: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in parameters.items() if name in Recipe.__dataclass_fields__}


def _begin(recipe: Recipe, config: IndexConfig, can_refine: bool) -> Effort:
    """The kind's first effort, or what is given; a dimension that the kind does not have stays out."""
    first = first_effort(recipe)
    probes = config.probes if config.probes > 1 else first.probes
    return Effort(
        min(probes, max(1, recipe.lists)) if first.probes else 0,
        (config.ef_search or first.ef) if first.ef else 0,
        (config.refine or first.refine) if first.refine and can_refine else 0,
    )


def _further(effort: Effort, most: Effort) -> list[Effort]:
    """The efforts that go twice as far in one way."""
    given = {name: value for name, value in vars(effort).items() if 0 < value < getattr(most, name)}
    return [replace(effort, **{name: min(2 * value, getattr(most, name))}) for name, value in given.items()]


def _refusal(recipe: Recipe, effort: Effort, recall: float, floor: float, said: str) -> str:
    tried = ", ".join(f"{name} {value:,}" for name, value in effort.as_json().items()) or "no effort to raise"
    return (
        f"index {recipe.kind} ({recipe.factory}): recall@{TOP} is {recall:.3f} over {said}, at {tried}, the most that is tried;"
        f" {floor:g} is asked for, so that it is not published. Set index.kind to flat or hnsw, raise index.pq_bytes,"
        " index.refine or index.links, or lower index.least_recall"
    )
