"""Search of a corpus in blocks, and ranking metrics by ir_measures (trec_eval's own code beneath).

A small corpus is searched by one matrix product a block; one of `faiss_from_rows` documents or more through FAISS: exactly
block by block (factory "Flat", memory bounded), or in an approximate index whose codes are held in memory.
The providers behind ir_measures break ties differently. Ties are therefore broken here, as trec_eval does: of equal scores the
document whose id comes later. What is not judged is not relevant, nor is a grade below 1; a query without results scores 0.
Q queries, C documents of a block, K hits, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.evaluation.suites.models import (
    COSINE_DECIMALS,
    Hits,
    HybridModel,
    Model,
    Side,
    TextEncoder,
    WordModel,
    embedded,
)
from pipeline_lib.index.fusion import Listed, evenly, fused, listed, spread
from pipeline_lib.runtime.progress import Progress, embedding, silent

NO_ROW = -1


def best_of(scores_QC: np.ndarray, depth: int, first_row: int = 0, floor: float = -np.inf) -> Hits:
    """The best `depth` columns of each row, best first; of equal scores the lower column.

    Args:
        first_row: what the first column is called.
        floor: candidates that do not score above it are no hits; their row is -1.
    """
    depth = min(depth, scores_QC.shape[1])
    rows_QK = _columns_kept(scores_QC, depth)
    scores_QK = np.take_along_axis(scores_QC, rows_QK, axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")
    scores_QK = np.take_along_axis(scores_QK, order_QK, axis=1).astype(np.float64)
    rows_QK = np.take_along_axis(rows_QK, order_QK, axis=1).astype(np.int64) + first_row
    rows_QK[scores_QK <= floor] = NO_ROW
    return Hits(rows_QK, scores_QK)


def _columns_kept(scores_QC: np.ndarray, depth: int) -> np.ndarray:
    """The columns of the best `depth` of each row in rising order; of those that tie with the last one the lowest."""
    Q, C = scores_QC.shape
    if depth == C:
        return np.broadcast_to(np.arange(C), (Q, C))
    last_Q1 = np.partition(scores_QC, C - depth, axis=1)[:, C - depth, None]
    above_QC, ties_QC = scores_QC > last_Q1, scores_QC == last_Q1
    wanted_Q1 = depth - above_QC.sum(1, keepdims=True)
    kept_QC = above_QC | (ties_QC & (np.cumsum(ties_QC, axis=1, dtype=np.int32) <= wanted_Q1))
    return np.nonzero(kept_QC)[1].reshape(Q, depth)


def merged(a: Hits, b: Hits, depth: int) -> Hits:
    """The best of both; of equal scores those of `a` first."""
    rows_QK = np.concatenate([a.rows_QK, b.rows_QK], axis=1)
    scores_QK = np.concatenate([a.scores_QK, b.scores_QK], axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")[:, :depth]
    return Hits(np.take_along_axis(rows_QK, order_QK, axis=1), np.take_along_axis(scores_QK, order_QK, axis=1))


SAMPLED_DOCUMENTS = 1024
QUERY_BLOCK = 1024  # 1,024 queries x 8,192 documents of float32: 34 MB
TRAINING_VECTORS = 200_000  # at most; what an approximate index learns its centroids from


class Document(NamedTuple):
    """A text of a corpus under its official id.

    Attributes:
        untitled: the text without its title, where `text` begins with one.
    """

    id: str
    text: str
    untitled: str = ""


Corpus = Callable[[], Iterator[Document]]  # every call reads it from its beginning


class Found(NamedTuple):
    """Hits by row number of the corpus, its size, and how it was searched."""

    hits: Hits
    documents: int
    how: str


def search(
    model: Model,
    queries: Sequence[str],
    corpus: Corpus,
    config: SuiteConfig,
    side: Side = "y",
    progress: Progress = silent,
) -> Found:
    """The best `config.depth` documents of each query; queries are embedded on the x side.

    Raises:
        UserError: there is no query or no document, or the index factory string is wrong.
    """
    n = sum(1 for _ in corpus())
    if not n or not queries:
        raise UserError(f"nothing to search: {len(queries)} queries, {n} documents; the files are empty")
    if isinstance(model, WordModel):
        scores = model.scores(queries, [document.text for document in corpus()])
        # documents that share no word with the query are no hits
        return Found(_joined([best_of(scores_QC, config.depth, floor=0.0) for scores_QC in scores]), n, "words, exact")
    if isinstance(model, HybridModel):
        return _fused(model, queries, corpus, config, side, progress)

    def told(documents_before: int) -> Progress:
        return embedding(progress, len(queries) + documents_before, len(queries) + n)

    queries_QD = embedded(model, queries, "x", told(-len(queries)))
    blocks = _embedded(model, corpus(), config, side, told)
    if n >= config.faiss_from_rows and config.faiss_factory != "Flat":
        sample_ND = _training_sample(model, corpus, n, config, side, told)
        return Found(_approximate(queries_QD, blocks, sample_ND, config), n, f"FAISS {config.faiss_factory}, approximate")
    through_faiss = n >= config.faiss_from_rows
    search_block = _faiss_block if through_faiss else _numpy_block
    hits = Hits(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0)))
    first = 0
    for block_CD in blocks:
        hits = merged(hits, search_block(queries_QD, block_CD, config.depth, first), config.depth)
        first += len(block_CD)
    return Found(hits, n, "FAISS Flat, exact" if through_faiss else "matrix product, exact")


def _fused(
    model: HybridModel, queries: Sequence[str], corpus: Corpus, config: SuiteConfig, side: Side, progress: Progress
) -> Found:
    """The encoder's hits and BM25's, as a search fuses them; the corpus's cosines are read off a sample of it."""
    depth, share = model.fusion.depth, model.fusion.shares[model.side]
    found = search(model.encoder, queries, corpus, config.model_copy(update={"depth": depth}), side, progress)
    wanted = set(evenly(found.documents, SAMPLED_DOCUMENTS).tolist())
    sample = [document.text for row, document in enumerate(corpus()) if row in wanted]
    sample_SD, queries_QD = embedded(model.encoder, sample, side), embedded(model.encoder, queries, "x")
    words = Bm25Model().scores(queries, [document.text for document in corpus()])
    rows_QK, scores_QK = np.full((len(queries), config.depth), NO_ROW), np.full((len(queries), config.depth), -np.inf)
    for at, bm25_C in enumerate(scores_C for scores_QC in words for scores_C in scores_QC):
        rows, cosines = (column[at][found.hits.rows_QK[at] != NO_ROW] for column in found.hits)
        vectors = Listed(rows, cosines, *spread(sample_SD @ queries_QD[at]), float(cosines[-1]) if len(cosines) else 0.0)
        rows, scores = fused(vectors, listed(bm25_C, depth, words=True), share, model.fusion.method)
        rows_QK[at, : len(rows)], scores_QK[at, : len(rows)] = rows[: config.depth], scores[: config.depth]
    return Found(Hits(rows_QK, scores_QK), found.documents, f"{found.how}; fused with words")


def ids_at(corpus: Corpus, hits: Hits) -> dict[int, str]:
    """The ids of the documents that are somebody's hit, by row.

    No text is held: what thousands of queries hit together can be most of a corpus.
    """
    rows, documents, read = np.unique(hits.rows_QK[hits.rows_QK != NO_ROW]), corpus(), 0
    ids: dict[int, str] = {}
    for row in map(int, rows):
        ids[row] = next(islice(documents, row - read, None)).id
        read = row + 1
    return ids


def ranked_ids(hits: Hits, ids: dict[int, str]) -> list[list[tuple[str, float]]]:
    """(document id, score) of each query's hits, best first."""
    return [
        [(ids[int(row)], float(score)) for row, score in zip(rows, scores, strict=True) if row != NO_ROW]
        for rows, scores in zip(hits.rows_QK, hits.scores_QK, strict=True)
    ]


def _embedded(
    model: TextEncoder, documents: Iterable[Document], config: SuiteConfig, side: Side, told: Callable[[int], Progress]
) -> Iterator[np.ndarray]:
    rest, done = iter(documents), 0
    while block := list(islice(rest, config.block_texts)):
        yield embedded(model, [document.text for document in block], side, told(done))
        told(done)(len(block), len(block))  # an encoder says nothing of what it remembers
        done += len(block)


def _numpy_block(queries_QD: np.ndarray, block_CD: np.ndarray, depth: int, first_row: int) -> Hits:
    found = [
        best_of(np.round(queries_QD[at : at + QUERY_BLOCK] @ block_CD.T, COSINE_DECIMALS), depth, first_row)
        for at in range(0, len(queries_QD), QUERY_BLOCK)
    ]
    return _joined(found)


def _joined(blocks: Sequence[Hits]) -> Hits:
    """The hits of blocks of queries as one."""
    return Hits(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _faiss_block(queries_QD: np.ndarray, block_CD: np.ndarray, depth: int, first_row: int) -> Hits:
    import faiss

    index = faiss.IndexFlatIP(block_CD.shape[1])
    index.add(block_CD)
    return _faiss_hits(index, queries_QD, min(depth, len(block_CD)), first_row)


def _approximate(queries_QD: np.ndarray, blocks: Iterable[np.ndarray], sample_ND: np.ndarray, config: SuiteConfig) -> Hits:
    import faiss

    try:
        index = faiss.index_factory(queries_QD.shape[1], config.faiss_factory, faiss.METRIC_INNER_PRODUCT)
        index.train(sample_ND)
    except RuntimeError as error:
        raise UserError(f"faiss_factory {config.faiss_factory!r} cannot be built here: {error}") from error
    for block_CD in blocks:
        index.add(block_CD)
    if inverted := faiss.try_extract_index_ivf(index):  # which may lie behind a transform, as in "OPQ16,IVF4096,PQ16"
        inverted.nprobe = min(config.faiss_probes, inverted.nlist)
    return _faiss_hits(index, queries_QD, min(config.depth, index.ntotal), 0)


def _faiss_hits(index: Any, queries_QD: np.ndarray, depth: int, first_row: int) -> Hits:
    scores_QK, rows_QK = index.search(queries_QD, depth)
    rows_QK = np.where(rows_QK < 0, NO_ROW, rows_QK + first_row)
    scores_QK = np.where(rows_QK == NO_ROW, -np.inf, np.round(scores_QK.astype(np.float64), COSINE_DECIMALS))
    return Hits(rows_QK, scores_QK)


def _training_sample(
    model: TextEncoder, corpus: Corpus, n: int, config: SuiteConfig, side: Side, told: Callable[[int], Progress]
) -> np.ndarray:
    """Vectors of documents spread evenly over the corpus: the first ones are often of one kind."""
    stride = -(-n // TRAINING_VECTORS)
    spread = (document for row, document in enumerate(corpus()) if row % stride == 0)
    return np.concatenate(list(_embedded(model, spread, config, side, told)))


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
