"""CodeSearchNet's challenge: 99 queries, people's grades of functions in annotationStore.csv, nDCG as its authors compute it.

The corpus is every record of the language that there is (train, valid and test files); the authors' own corpus of functions
without docstrings is a pickle, which is not opened. Annotated functions that are in no file can only be missed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.code_search import LANGUAGES, PLACES, code_text, record_files
from pipeline_lib.evaluation.suites.code_search import SOURCE as FUNCTIONS
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import MissingData, as_number, find_file, read_csv, read_json_lines
from pipeline_lib.evaluation.suites.searching import Document, ids_at, in_order, ranked_ids, search
from pipeline_lib.evaluation.suites.suite import Figure, Groups, Kind, Suite, SuiteResult, Suites, SuiteText
from pipeline_lib.runtime.progress import Progress, silent

SOURCE = "github.com/github/CodeSearchNet/tree/master/resources"
PARTS = ("train", "valid", "test")
DEPTH = 100  # functions that a submission lists for a query

Grades = dict[str, dict[str, float]]  # query -> url -> mean grade


class CodeChallenge(Suite):
    """One language's share of the 99 queries."""

    kind: Kind = "code_search"
    splits = ("test",)

    def __init__(self, language: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.language = language
        self.name = f"codesearchnet-99/{language}"
        self._found: dict[tuple[Path, ...], set[str]] = {}

    def paths(self, split: str) -> tuple[Path, ...]:
        """The annotations, and every file of the language.

        Raises:
            MissingData: no file, or no annotated function in any.
        """
        files: list[Path] = []
        for part in PARTS:
            try:
                files += record_files(self.data, self.language, part)
            except MissingData:
                continue
        if not files:
            record_files(self.data, self.language, "test")  # says what is missing
        annotations = self._annotations()
        if not self._present(tuple(files)):
            what = f"{files[0].parent.parent} holds no annotated function; add the train files"
            raise MissingData(f"{what} of {self.language}, from {FUNCTIONS.format(self.language)}")
        return (annotations, *files)

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The queries, and the annotated functions that are there."""
        grades = self.grades()
        for query in grades:
            yield SuiteText(f"query-{query}", query)
        annotated = {url for graded in grades.values() for url in graded}
        for document in self.corpus():
            if document.id in annotated:
                yield SuiteText(document.id, document.text, True)

    def grades(self) -> Grades:
        """The mean grade, 0 to 3, that people gave each function for each query."""
        path = self._annotations()
        given: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in read_csv(path, ("Language", "Query", "GitHubUrl", "Relevance")):
            if row["Language"].lower() == self.language:
                given[row["Query"].lower()][row["GitHubUrl"]].append(as_number(row["Relevance"], path, "a grade"))
        return {query: {url: float(np.mean(marks)) for url, marks in urls.items()} for query, urls in given.items()}

    def corpus(self) -> Iterator[Document]:
        """Every function by its URL."""
        for path in self.paths("test")[1:]:
            for record in read_json_lines(path, ("code", "docstring", "code_tokens", "url")):
                yield Document(str(record["url"]), code_text(record, path))

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """nDCG over the corpus, and among the annotated functions alone ("within")."""
        grades = {query: graded for query, graded in self.grades().items() if any(grade > 0 for grade in graded.values())}
        annotated = {url for graded in grades.values() for url in graded}
        present = self._present(self.paths(split)[1:]) & annotated
        config = self.config.model_copy(update={"depth": DEPTH})
        found = search(model, list(grades), self.corpus, config, "y", progress)
        lists = ranked_ids(found.hits, ids_at(self.corpus, found.hits))
        among = search(model, list(grades), lambda: self._annotated(annotated), config, "y")
        near = ranked_ids(among.hits, ids_at(lambda: self._annotated(annotated), among.hits))
        figures = [
            self._figure(self.task, grades, lists, skips_unjudged=False),
            self._figure(f"{self.task}:within", grades, near, skips_unjudged=True),
        ]
        facts = {"documents": found.documents, "search": found.how, "annotated": len(annotated), "present": len(present)}
        return SuiteResult(tuple(figures), facts)

    def _figure(self, task: str, grades: Grades, lists: Sequence[Sequence[tuple[str, float]]], skips_unjudged: bool) -> Figure:
        rankings = [list(dict.fromkeys(in_order(ranked)))[:DEPTH] for ranked in lists]
        each = zip(rankings, grades.values(), strict=True)
        values = np.array([challenge_ndcg(ranking, graded, skips_unjudged) for ranking, graded in each])
        return Figure(
            task, "ndcg", metrics.mean_interval(values, self.config.bootstrap, self.config.seed), list(grades), values
        )

    def _annotated(self, urls: set[str]) -> Iterator[Document]:
        return (document for document in self.corpus() if document.id in urls)

    def _present(self, files: tuple[Path, ...]) -> set[str]:
        if files not in self._found:
            annotated = {url for graded in self.grades().values() for url in graded}
            urls = {str(record["url"]) for path in files for record in read_json_lines(path, ("url",))}
            self._found[files] = urls & annotated
        return self._found[files]

    def _annotations(self) -> Path:
        places = tuple(f"{place}/resources".lstrip("/") for place in PLACES)
        return find_file(self.data, places, "annotationStore.csv", SOURCE)


def challenge_ndcg(ranking: Sequence[str], grades: Mapping[str, float], skips_unjudged: bool) -> float:
    """nDCG with gains 2^grade - 1, as the challenge's relevanceeval.py has it.

    Args:
        grades: one of them above zero.
        skips_unjudged: functions without a grade take no rank.
    """
    dcg, rank = 0.0, 1
    for url in ranking:
        if url in grades:
            dcg += (2 ** grades[url] - 1) / math.log2(rank + 1)
        elif skips_unjudged:
            continue
        rank += 1
    ideal = sorted(grades.values(), reverse=True)
    return dcg / sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(ideal, 1))


CHALLENGES = tuple(f"codesearchnet-99/{language}" for language in LANGUAGES)

SUITES: Suites = {name: partial(CodeChallenge, name.partition("/")[2]) for name in CHALLENGES}
GROUPS: Groups = {"codesearchnet-99": tuple(SUITES)}
