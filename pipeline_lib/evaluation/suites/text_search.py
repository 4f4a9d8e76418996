"""A search suite: queries, a corpus and judgements; queries are embedded on the x side, documents on the y side."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Set
from typing import ClassVar

import numpy as np

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.models import Hits, Model
from pipeline_lib.evaluation.suites.rank_metrics import ranking_values
from pipeline_lib.evaluation.suites.searching import Document, ids_at, ranked_ids, search
from pipeline_lib.evaluation.suites.suite import Figure, Kind, Suite, SuiteResult, SuiteText, sample_rows
from pipeline_lib.progress import Progress, silent

QUERY_BLOCK = 256  # queries whose hits are named and judged at a time

Graded = dict[str, dict[str, int]]  # query id -> document id -> grade


class SearchSuite(Suite):
    """Queries against a corpus; a subclass reads one layout.

    Attributes:
        metrics: of rank_metrics.MEASURES, the headline first.
        queries_are_documents: whether a document of the query's own id and text is the query, and no hit.
    """

    kind: Kind = "text_search"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg@10", "recall@100", "map", "mrr@10")
    queries_are_documents: ClassVar[bool] = False

    @abstractmethod
    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id."""

    @abstractmethod
    def qrels(self, split: str) -> Graded:
        """Judgements by query; queries that are not asked may be among them."""

    @abstractmethod
    def corpus(self) -> Iterator[Document]:
        """The documents, read anew at each call."""

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The judged queries, and the documents that are relevant to one: the rest of a corpus may be all of Wikipedia."""
        qrels, queries = self._judged(split)
        for query, text in queries.items():
            yield SuiteText(f"query-{query}", text)
        relevant = _relevant(qrels)
        for document in self.corpus():
            if document.id in relevant:
                yield SuiteText(document.id, document.text, self.kind == "code_search")

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Every metric over the judged queries."""
        qrels, texts = self._asked(split)
        absent = self._absent(qrels, split)
        depth = self.config.depth + self.queries_are_documents  # one more, as BEIR does: the query itself may be among them
        config = self.config.model_copy(update={"depth": depth})
        found = search(model, list(texts.values()), lambda: self._searched(qrels), config, "y", progress)
        own = self._queries_in_corpus(texts) if self.queries_are_documents else frozenset[str]()
        values = self._values(found.hits, ids_at(lambda: self._searched(qrels), found.hits), qrels, own)
        bootstrap = (self.config.bootstrap, self.config.seed)
        figures = tuple(
            Figure(self.task, metric, metrics.mean_interval(of_each, *bootstrap), list(qrels), of_each)
            for metric, of_each in values.items()
        )
        unanswerable = sum(not any(grade > 0 for grade in graded.values()) for graded in qrels.values())
        facts = {"documents": found.documents, "search": found.how}
        facts |= {"queries_without_relevant": unanswerable, "relevant_not_in_corpus": absent}
        return SuiteResult(figures, facts)

    def _values(self, hits: Hits, ids: dict[int, str], qrels: Graded, own: Set[str]) -> dict[str, np.ndarray]:
        """Each metric's value for every query; a block of queries at a time, as a hit takes a few hundred bytes in Python.

        Args:
            own: ids that a query and the same text in the corpus share.
        """
        names, found = list(qrels), list[dict[str, np.ndarray]]()
        for at in range(0, len(names), QUERY_BLOCK):
            block = slice(at, at + QUERY_BLOCK)
            lists = ranked_ids(Hits(hits.rows_QK[block], hits.scores_QK[block]), ids)
            rankings = {
                query: [pair for pair in ranked if pair[0] != query or query not in own][: self.config.depth]
                for query, ranked in zip(names[block], lists, strict=True)
            }
            found.append(ranking_values(rankings, {query: qrels[query] for query in rankings}, self.metrics))
        return {metric: np.concatenate([values[metric] for values in found]) for metric in self.metrics}

    def _queries_in_corpus(self, queries: Mapping[str, str]) -> frozenset[str]:
        """Ids of queries that are documents too, as in ArguAna: elsewhere both may be numbered from 0, and differ."""
        words = {query: _words(text) for query, text in queries.items()}
        return frozenset(
            document.id
            for document in self.corpus()
            if document.id in words and words[document.id] in (_words(document.text), _words(document.untitled))
        )

    def _asked(self, split: str) -> tuple[Graded, dict[str, str]]:
        """Judgements and texts of the queries that are asked, in one order."""
        qrels, texts = self._judged(split)
        names = list(qrels)
        kept = [names[row] for row in sample_rows(len(names), self.config.max_queries, self.config.seed)]
        return {query: qrels[query] for query in kept}, {query: texts[query] for query in kept}

    def _judged(self, split: str) -> tuple[Graded, dict[str, str]]:
        """Judgements and texts of the judged queries, in one order.

        Raises:
            UserError: a judged query has no text, or no query is judged.
        """
        qrels, texts = self.qrels(split), self.queries(split)
        absent = [query for query in qrels if query not in texts]
        if absent or not qrels:
            what = f"{len(absent)} judged queries have no text, {absent[0]!r} first" if absent else "no query is judged"
            raise UserError(f"{self.name}, {split}: {what}; the files do not belong together, get them again")
        return qrels, {query: texts[query] for query in qrels}

    def _absent(self, qrels: Graded, split: str) -> int:
        """How many relevant documents the corpus lacks: some in a few official sets, many where a download was cut off.

        Raises:
            UserError: it lacks them all, and every query would score 0.
        """
        relevant = _relevant(qrels)
        absent = relevant.copy()
        for document in self.corpus():
            absent.discard(document.id)
        if relevant and absent == relevant:
            what = f"none of the {len(relevant)} relevant documents is in the corpus, {min(absent)!r} for one"
            raise UserError(f"{self.name}, {split}: {what}; the files do not belong together, get them again")
        return len(absent)

    def _searched(self, qrels: Graded) -> Iterator[Document]:
        """The corpus; of the quick variant a sample that holds every judged document."""
        if not self.config.max_documents:
            yield from self.corpus()
            return
        judged = {document for graded in qrels.values() for document in graded}
        rows = set(sample_rows(sum(1 for _ in self.corpus()), self.config.max_documents, self.config.seed).tolist())
        for row, document in enumerate(self.corpus()):
            if row in rows or document.id in judged:
                yield document


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold()) or text.split()


def _relevant(qrels: Graded) -> set[str]:
    return {document for graded in qrels.values() for document, grade in graded.items() if grade > 0}
