"""Each query's own function among candidates: ranks and MRR, for a stated and pinned list of candidates.

Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.models import Model, WordModel
from pipeline_lib.evaluation.suites.scoring import COSINE_DECIMALS, embedded
from pipeline_lib.evaluation.suites.suite import Figure
from pipeline_lib.files import digest_of
from pipeline_lib.progress import Progress, embedding, silent

QUERY_BLOCK = 1024


class CodeQuery(NamedTuple):
    """A query, and the row of its right answer among the codes."""

    id: str
    text: str
    right: int


@dataclass(frozen=True)
class CodeSet:
    """Queries and candidates of one split."""

    queries: list[CodeQuery]
    code_ids: list[str]
    codes: list[str]

    @property
    def texts(self) -> int:
        """How many are embedded."""
        return len(self.queries) + len(self.codes)

    def taken(self, rows: Sequence[int]) -> CodeSet:
        """These queries, with their own answers as the only candidates: a batch of CodeSearchNet's protocol."""
        queries = [self.queries[row] for row in rows]
        rights = [query.right for query in queries]
        renumbered = [query._replace(right=at) for at, query in enumerate(queries)]
        return CodeSet(renumbered, [self.code_ids[right] for right in rights], [self.codes[right] for right in rights])

    @property
    def pin(self) -> str:
        """Names the candidates and their order: figures compare only where it is the same."""
        return digest_of([self.code_ids, [query.id for query in self.queries]])[:16]


def reciprocal_ranks(model: Model, batches: Sequence[CodeSet], progress: Progress = silent) -> np.ndarray:
    """1 / rank of every query of every batch; candidates that tie with the right one come before it, as in CodeSearchNet."""
    ranks, done = [], 0
    of_all = sum(batch.texts for batch in batches)
    for batch in batches:
        ranks.append(_ranks(model, batch, embedding(progress, done, of_all)))
        done += batch.texts
        progress(done, of_all, f"{done:,} of {of_all:,} texts ranked")
    return 1.0 / np.concatenate(ranks)


def mrr_figure(task: str, batches: Sequence[CodeSet], values: np.ndarray, resamples: int, seed: int) -> Figure:
    """The mean reciprocal rank with its interval."""
    ids = [query.id for batch in batches for query in batch.queries]
    return Figure(task, "mrr", metrics.mean_interval(values, resamples, seed), ids, values)


def facts_of(batches: Sequence[CodeSet]) -> dict[str, Any]:
    """What a reader must know to compare: candidates a query, queries, and the name of the pinned lists."""
    return {
        "candidates": len(batches[0].codes),
        "queries": sum(len(batch.queries) for batch in batches),
        "pin": digest_of([batch.pin for batch in batches])[:16],
    }


def joined(tokens: object, path: Path, what: str) -> str:
    """Tokens as one text.

    Raises:
        UserError: they are no list of strings.
    """
    if isinstance(tokens, str):
        return tokens
    if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
        raise UserError(f"{path}: {what} is no list of tokens; get the file again")
    return " ".join(" ".join(tokens).split())


def _ranks(model: Model, batch: CodeSet, progress: Progress) -> np.ndarray:
    texts = [query.text for query in batch.queries]
    right_Q = np.array([query.right for query in batch.queries])
    if isinstance(model, WordModel):
        hits = model.search(texts, batch.codes, len(batch.codes))
        return np.array([_word_rank(*ranked, len(batch.codes)) for ranked in zip(*hits, right_Q, strict=True)], np.float64)
    x_QD = embedded(model, texts, "x", progress)
    y_CD = embedded(model, batch.codes, "y", lambda done, total, note="": progress(len(texts) + done, batch.texts, note))
    ranks = []
    for at in range(0, len(texts), QUERY_BLOCK):
        scores_QC = np.round(x_QD[at : at + QUERY_BLOCK] @ y_CD.T, COSINE_DECIMALS)
        right_Q1 = np.take_along_axis(scores_QC, right_Q[at : at + QUERY_BLOCK, None], axis=1)
        ranks.append((scores_QC >= right_Q1).sum(1))
    return np.concatenate(ranks).astype(np.float64)


def _word_rank(rows: np.ndarray, scores: np.ndarray, right: int, n: int) -> int:
    """Of a right answer that shares no word with the query all others come first."""
    at = np.flatnonzero(rows == right)
    return int((scores >= scores[at[0]]).sum()) if at.size else n
