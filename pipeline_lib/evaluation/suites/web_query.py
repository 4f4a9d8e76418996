"""Web queries for Python functions: CodeXGLUE's WebQueryTest and CoSQA's pairs, judged by people, as search.

cosqa-dev.json (validation) and test_webquery.json (test) are lists of {idx, doc, code, label}: a query, a function, and whether
it answers. The labels of the test are kept by its authors; where somebody has them they stand beside it, as the lines
`idx<TAB>label` of webquery_answers.txt. All functions of the file are the corpus, each text once. Pairs without a label are not
judged, and are counted; queries without a right answer are not asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, ClassVar

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, open_lines, read_columns
from pipeline_lib.evaluation.suites.searching import Document
from pipeline_lib.evaluation.suites.suite import Kind, Suites
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite
from pipeline_lib.store.files import digest_of

SOURCE = "github.com/microsoft/CodeXGLUE/tree/main/Text-Code/NL-code-search-WebQuery"
_FOLDER = "NL-code-search-WebQuery"
PLACES = ("webquery", _FOLDER, f"{_FOLDER}/CoSQA", f"{_FOLDER}/data", f"{_FOLDER}/evaluator", "cosqa", "CoSQA", "")
FILES = {"validation": ["cosqa-dev.json"], "test": ["test_webquery.json"]}
ANSWERS = ["webquery_answers.txt", "test_webquery_answers.txt", "answers.txt"]


class WebQuery(SearchSuite):
    """Distinct queries against the distinct functions of one file."""

    name = "webquery"
    kind: Kind = "code_search"
    splits = ("validation", "test")
    metrics: ClassVar[tuple[str, ...]] = ("mrr", "ndcg@10", "recall@100")
    _split = "test"

    def paths(self, split: str) -> tuple[Path, ...]:
        """The pairs and, where they are apart, the labels of the test."""
        pairs = find_file(self.data, PLACES, FILES[split], SOURCE)
        try:
            return (pairs, find_file(self.data, PLACES, ANSWERS, SOURCE)) if split == "test" else (pairs,)
        except MissingData:
            return (pairs,)

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by a digest of it."""
        self._split = split
        return {_id(row["doc"]): row["doc"] for row in self.rows(split)}

    def qrels(self, split: str) -> Graded:
        """The labels of each query that has a right answer.

        Raises:
            UserError: no pair is labelled as right.
        """
        pairs, *answers = self.paths(split)
        labels = {row[0]: row[1] for path in answers for row in read_columns(path, 2)}
        graded: Graded = {}
        unlabelled = 0
        for row in self.rows(split):
            label = str(row.get("label", labels.get(str(row["idx"]), ""))).strip()
            if label not in ("0", "1"):
                unlabelled += 1
                continue
            of_query, code = graded.setdefault(_id(row["doc"]), {}), _id(row["code"])
            of_query[code] = max(int(label), of_query.get(code, 0))
        answered = {query: found for query, found in graded.items() if any(found.values())}
        self.left_out |= {"pairs_without_label": unlabelled, "queries_without_answer": len(graded) - len(answered)}
        if not answered:
            where = f"put the labels beside it as {ANSWERS[0]} (idx<TAB>label lines), or take the split validation"
            raise UserError(f"{pairs}: no pair is labelled as right; {where}")
        return answered

    def _judged_anywhere(self, qrels: Graded) -> Set[str]:
        return self.queries(self._split).keys()  # those without an answer are counted by that reason

    def corpus(self) -> Iterator[Document]:
        """Every function once."""
        seen = set[str]()
        for row in self.rows(self._split):
            if (name := _id(row["code"])) not in seen:
                seen.add(name)
                yield Document(name, row["code"])

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """Pairs that have a query and a function; the others are counted.

        Raises:
            UserError: the file is no list of pairs.
        """
        path, bad = self.paths(split)[0], 0
        with open_lines(path) as stream:
            try:
                rows = json.load(stream)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: not JSON ({error}); get it from {SOURCE}") from error
        if not isinstance(rows, list):
            raise UserError(f"{path}: a {type(rows).__name__}, expected a list of pairs; get it from {SOURCE}")
        for row in rows:
            if _is_whole(row):
                yield row
            else:
                bad += 1
        self.left_out["incomplete_pairs"] = bad


def _is_whole(row: Any) -> bool:
    texts = (row.get("doc"), row.get("code")) if isinstance(row, dict) and "idx" in row else ()
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def _id(text: str) -> str:
    return digest_of(" ".join(text.split()))[:16]


SUITES: Suites = {"webquery": WebQuery}
