"""Text search: queries on the x side against a corpus on the y side, judged; BEIR folders.

BEIR: corpus.jsonl, queries.jsonl and qrels/{train,dev,test} with grades: as .tsv, with a header or without one, in three
columns or TREC's four, or as .jsonl. Ids may be numbers. A title or text may be null: a document without both stays in the
corpus, as BEIR has it, and is counted; a query without a text, or one that nobody judged, is not asked, and is counted.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.models import Hits, Model
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, open_lines, read_json_lines, read_rows
from pipeline_lib.evaluation.suites.searching import Document, ids_at, ranked_ids, ranking_values, search
from pipeline_lib.evaluation.suites.suite import (
    Families,
    Figure,
    Groups,
    Kind,
    Suite,
    SuiteResult,
    Suites,
    SuiteText,
    sample_rows,
)
from pipeline_lib.runtime.progress import Progress, silent

QUERY_BLOCK = 256  # queries whose hits are named and judged at a time

Graded = dict[str, dict[str, int]]  # query id -> document id -> grade


class SearchSuite(Suite):
    """Queries against a corpus; a subclass reads one layout.

    Attributes:
        metrics: of searching.MEASURES, the headline first.
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
        depth = self.depth() + self.queries_are_documents  # one more, as BEIR does: the query itself may be among them
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
        names, found, depth = list(qrels), list[dict[str, np.ndarray]](), self.depth()
        for at in range(0, len(names), QUERY_BLOCK):
            block = slice(at, at + QUERY_BLOCK)
            lists = ranked_ids(Hits(hits.rows_QK[block], hits.scores_QK[block]), ids)
            rankings = {
                query: [pair for pair in self._of_candidates(query, ranked) if pair[0] != query or query not in own][:depth]
                for query, ranked in zip(names[block], lists, strict=True)
            }
            found.append(ranking_values(rankings, {query: qrels[query] for query in rankings}, self.metrics))
        return {metric: np.concatenate([values[metric] for values in found]) for metric in self.metrics}

    def depth(self) -> int:
        """How many documents are ranked for a query."""
        return self.config.depth

    def candidates(self, query: str) -> Set[str] | None:
        """The documents that a query ranks; None: all."""
        return None

    def _of_candidates(self, query: str, ranked: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
        candidates = self.candidates(query)
        return ranked if candidates is None else [pair for pair in ranked if pair[0] in candidates]

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
        """Judgements and texts of the judged queries, in one order; those without a text are left out and counted.

        Raises:
            UserError: no judged query has a text, or no query is judged.
        """
        qrels, texts = self.qrels(split), {query: text for query, text in self.queries(split).items() if text.strip()}
        absent = [query for query in qrels if query not in texts]
        if len(absent) == len(qrels):
            what = f"{len(absent)} judged queries have no text, {absent[0]!r} first" if absent else "no query is judged"
            raise UserError(f"{self.name}, {split}: {what}; the files do not belong together, get them again")
        self.left_out |= {
            "judged_queries_without_text": len(absent),
            "queries_without_judgement": len(texts.keys() - self._judged_anywhere(qrels)),
        }
        judged = {query: graded for query, graded in qrels.items() if query in texts}
        return judged, {query: texts[query] for query in judged}

    def _judged_anywhere(self, qrels: Graded) -> Set[str]:
        """The queries that are judged in this split or another one of the same file of queries."""
        return qrels.keys()

    def _absent(self, qrels: Graded, split: str) -> int:
        """How many relevant documents the corpus lacks: some in a few official sets, many where a download was cut off.

        Raises:
            UserError: it lacks them all, and every query would score 0.
        """
        relevant = _relevant(qrels)
        absent, empty = relevant.copy(), 0
        for document in self.corpus():
            absent.discard(document.id)
            empty += not document.text
        self.left_out["documents_without_text"] = empty  # which stay in the corpus, where nothing should find them
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


BEIR_SOURCE = "public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{}.zip"
QRELS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}

# the sets of the paper's table of zero-shot search
BEIR_11 = (
    "trec-covid", "nfcorpus", "fiqa", "arguana", "webis-touche2020", "quora", "scifact", "climate-fever", "dbpedia-entity",
    "hotpotqa", "fever",
)  # fmt: skip


class Beir(SearchSuite):
    """One folder; its splits are those that it has judgements of."""

    queries_are_documents = True  # in ArguAna and Quora

    def __init__(self, folder: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = f"beir/{folder}"
        self.places = (f"beir/{folder}", folder)
        self.source = BEIR_SOURCE.format(folder.partition("/")[0])  # CQADupStack is one zip of twelve folders
        there = tuple(split for split in QRELS if self._qrels_file(split))
        self.splits = there or tuple(QRELS)

    def paths(self, split: str) -> tuple[Path, ...]:
        """Corpus, queries and judgements."""
        names = ("corpus.jsonl", "queries.jsonl", _qrels_names(split))
        return tuple(find_file(self.data, self.places, name, self.source) for name in names)

    def queries(self, split: str) -> dict[str, str]:
        """Files of all splits, as the folder has them."""
        return {_id(record): _text(record, "text") for record in read_json_lines(self.paths(split)[1], ("_id",))}

    def qrels(self, split: str) -> Graded:
        """Grades below zero, as TREC-COVID has a few, are not relevant."""
        path = self.paths(split)[2]
        found: Graded = {}
        for number, query, document, score in _judgements(path):
            if not re.fullmatch(r"-?\d+(?:\.0*)?", score):
                raise UserError(f"{path}, line {number}: grade {score!r} is no integer; get the file again")
            found.setdefault(query, {})[document] = int(score.partition(".")[0])
        return found

    def corpus(self) -> Iterator[Document]:
        """Title, where there is one, and text, joined by a space as BEIR does."""
        path = find_file(self.data, self.places, "corpus.jsonl", self.source)
        for record in read_json_lines(path, ("_id",)):
            text = _text(record, "text")
            yield Document(_id(record), f"{_text(record, 'title')} {text}".strip(), text)

    def _judged_anywhere(self, qrels: Graded) -> Set[str]:
        return set(qrels).union(*(self.qrels(split) for split in self.splits if self._qrels_file(split)))

    def _qrels_file(self, split: str) -> Path | None:
        try:
            return find_file(self.data, self.places, _qrels_names(split), self.source)
        except MissingData:
            return None


def _qrels_names(split: str) -> list[str]:
    return [f"qrels/{QRELS[split]}", f"qrels/{QRELS[split].removesuffix('.tsv')}.jsonl"]


def _id(record: dict[str, Any]) -> str:
    return str(record["_id"])


def _text(record: dict[str, Any], field: str) -> str:
    """A field's text; of a missing or null one nothing."""
    value = record.get(field)
    return "" if value is None else str(value)


_COLUMNS = ("query-id", "corpus-id", "score")


def _judgements(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line, query, document, grade) of a file of judgements, with its header or without one."""
    if ".jsonl" in path.suffixes:
        for number, record in enumerate(read_json_lines(path, _COLUMNS), 1):
            yield number, str(record["query-id"]), str(record["corpus-id"]), str(record["score"])
        return
    places: Sequence[int] = ()
    with open_lines(path, "utf-8-sig") as stream:
        for line, row in read_rows(stream):
            cells = row[0].split() if len(row) == 1 else row  # a table that somebody aligned
            if not any(cells):
                continue
            if not places:
                places = _places(cells, path)
                if set(_COLUMNS) <= set(cells):
                    continue
            if len(cells) <= max(places):
                raise UserError(f"{path}, line {line}: {len(cells)} columns, fewer than before; get the file again")
            query, document, score = (cells[place].strip() for place in places)
            yield line, query, document, score


def _places(cells: Sequence[str], path: Path) -> Sequence[int]:
    """The columns of query, document and grade, by the header or, without one, by how many there are."""
    if set(_COLUMNS) <= set(cells):
        return [cells.index(name) for name in _COLUMNS]
    if len(cells) in (3, 4):
        return (0, len(cells) - 2, len(cells) - 1)
    raise UserError(
        f"{path}, line 1: {len(cells)} columns, expected {', '.join(_COLUMNS)}, or TREC's query, 0, document and grade; get the"
        " file again"
    )


FAMILIES: Families = {"beir": Beir}
GROUPS: Groups = {"beir-11": tuple(f"beir/{folder}" for folder in BEIR_11)}
SUITES: Suites = {}
