"""Metrics of rankings by ir_measures (trec_eval's own code beneath), with one rule for ties in all of them.

The providers behind ir_measures break ties differently, so that ties are broken here, as trec_eval does: of equal scores the
document whose id comes later. What is not judged is not relevant, nor is a grade below 1; a query without results scores 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade
Rankings = Mapping[str, Sequence[tuple[str, float]]]  # query id -> (document id, score)

MEASURES = {"ndcg@10": "nDCG@10", "recall@100": "R@100", "map": "AP", "mrr@10": "RR@10", "mrr": "RR", "ndcg": "nDCG"}


def ranking_values(rankings: Rankings, qrels: Qrels, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Each metric's value for every judged query, in the order of `qrels`.

    Raises:
        ValueError: a score is NaN, which no rule can rank.
    """
    import ir_measures

    asked = {MEASURES[metric]: metric for metric in metrics}
    judged = [
        ir_measures.Qrel(query, document, max(grade, 0))  # uncut nDCG of negative grades alone never ends in trec_eval
        for query, graded in qrels.items()
        for document, grade in graded.items()
    ]
    run = [
        ir_measures.ScoredDoc(query, document, -float(rank))
        for query in qrels
        for rank, document in enumerate(in_order(rankings.get(query, ())))
    ]
    row = {query: at for at, query in enumerate(qrels)}
    values = {metric: np.zeros(len(row)) for metric in metrics}
    measures = [ir_measures.parse_measure(name) for name in asked]
    for found in ir_measures.iter_calc(measures, judged, run):
        values[asked[str(found.measure)]][row[found.query_id]] = found.value
    return values


def in_order(scored: Iterable[tuple[str, float]]) -> list[str]:
    """Document ids, best first; of equal scores the id that comes later, as trec_eval does."""
    scored = list(scored)
    if any(np.isnan(score) for _, score in scored):
        raise ValueError("a score is NaN, which no rule can rank")
    by_id = sorted(scored, key=lambda pair: pair[0], reverse=True)
    return [document for document, _ in sorted(by_id, key=lambda pair: -pair[1])]
