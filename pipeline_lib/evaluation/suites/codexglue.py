"""Code search in the layouts of CodeXGLUE and CoSQA: every query against one list of functions, by MRR.

codexglue-advtest    AdvTest/{valid,test}.jsonl: `docstring_tokens` and `code_tokens`; all of a file are candidates. The test
                     file's names are replaced, and its tokens are called `function_tokens`
codexglue/ruby       ruby/{valid,test}.jsonl with ruby/codebase.jsonl as candidates, matched by `url`
cosqa                cosqa-retrieval-{dev,test}-500.json with code_idx_map.txt as candidates, matched by `retrieval_idx`
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.code_ranking import CodeQuery, CodeSet, facts_of, joined, mrr_figure, reciprocal_ranks
from pipeline_lib.evaluation.suites.config import SuiteConfig
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import find_file, read_json_lines, read_lines
from pipeline_lib.evaluation.suites.suite import Kind, Suite, SuiteResult, SuiteText, sample_rows
from pipeline_lib.progress import Progress, silent

CODEXGLUE = "github.com/microsoft/CodeXGLUE/tree/main/Text-Code/NL-code-search-Adv (preprocess.py)"
GRAPHCODEBERT = "github.com/microsoft/CodeBERT/tree/master/GraphCodeBERT/codesearch (dataset.zip, preprocess.py)"
COSQA = "github.com/Jun-jie-Huang/CoCLR/tree/main/data/search"
PARTS = {"validation": "valid", "test": "test"}


class OneListSuite(Suite):
    """All candidates of a split in one list."""

    kind: Kind = "code_search"
    splits = ("validation", "test")

    @abstractmethod
    def pairs(self, split: str) -> CodeSet:
        """Queries and candidates."""

    def texts(self, split: str) -> Iterator[SuiteText]:
        """Queries and their functions."""
        pairs = self.pairs(split)
        for query in pairs.queries:
            yield SuiteText(f"query-{query.id}", query.text)
            yield SuiteText(pairs.code_ids[query.right], pairs.codes[query.right], True)

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """MRR over all candidates."""
        pairs = self.pairs(split)
        rows = sample_rows(len(pairs.queries), self.config.max_queries, self.config.seed)
        batches = [CodeSet([pairs.queries[row] for row in rows], pairs.code_ids, pairs.codes)]
        values = reciprocal_ranks(model, batches, progress)
        figure = mrr_figure(self.task, batches, values, self.config.bootstrap, self.config.seed)
        return SuiteResult((figure,), {"protocols": {"all": facts_of(batches)}})


class AdvTest(OneListSuite):
    """Python functions whose names were replaced, so that words in common do not help."""

    name = "codexglue-advtest"

    def paths(self, split: str) -> tuple[Path, ...]:
        """One file."""
        places = ("codexglue/AdvTest", "AdvTest", "NL-code-search-Adv/dataset", "codexglue/NL-code-search-Adv/dataset")
        return (find_file(self.data, places, f"{PARTS[split]}.jsonl", CODEXGLUE),)

    def pairs(self, split: str) -> CodeSet:
        """Query i and code i belong together."""
        (path,) = self.paths(split)
        records = list(read_json_lines(path, ("docstring_tokens",)))
        queries = [CodeQuery(_name(record, at), _query(record, path), at) for at, record in enumerate(records)]
        return CodeSet(queries, [query.id for query in queries], [_code(record, path) for record in records])


class Codebase(OneListSuite):
    """CodeSearchNet as GraphCodeBERT filtered it: a codebase of its own for each language."""

    def __init__(self, language: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = f"codexglue/{language}"
        self.places = (f"codexglue/{language}", f"codexglue/dataset/{language}", f"dataset/{language}")

    def paths(self, split: str) -> tuple[Path, ...]:
        """Queries and codebase."""
        names = (f"{PARTS[split]}.jsonl", "codebase.jsonl")
        return tuple(find_file(self.data, self.places, name, GRAPHCODEBERT) for name in names)

    def pairs(self, split: str) -> CodeSet:
        """Raises UserError where a query's function is not in the codebase."""
        asked, base = self.paths(split)
        records = list(read_json_lines(base, ("url", "code_tokens")))
        urls = [str(record["url"]) for record in records]
        row = {url: at for at, url in enumerate(urls)}
        queries = []
        for record in read_json_lines(asked, ("url", "docstring_tokens")):
            if record["url"] not in row:
                raise UserError(f"{asked}: {record['url']} is not in {base.name}; the files do not belong together")
            queries.append(CodeQuery(str(record["url"]), _query(record, asked), row[record["url"]]))
        return CodeSet(queries, urls, [_code(record, base) for record in records])


class CoSqa(OneListSuite):
    """Questions that people typed into a search engine, and Python functions that answer them."""

    name = "cosqa"

    def paths(self, split: str) -> tuple[Path, ...]:
        """Questions and the list of functions."""
        names = ("cosqa-retrieval-{}-500.json".format({"validation": "dev", "test": "test"}[split]), "code_idx_map.txt")
        return tuple(find_file(self.data, ("cosqa", "CoCLR/data/search", ""), name, COSQA) for name in names)

    def pairs(self, split: str) -> CodeSet:
        """Raises UserError where a question's function is not in the list."""
        asked, listed = self.paths(split)
        by_index = {int(index): str(code) for code, index in _json(listed, dict).items()}
        row = {index: at for at, index in enumerate(sorted(by_index))}
        queries = []
        for at, record in enumerate(_json(asked, list)):
            index = record.get("retrieval_idx") if isinstance(record, dict) else None
            if index not in row or "doc" not in record:
                raise UserError(f"{asked}, record {at}: retrieval_idx {index!r} is not in {listed.name}, or no `doc`; get both")
            queries.append(CodeQuery(_name(record, at), str(record["doc"]), row[index]))
        return CodeSet(queries, [str(index) for index in row], [by_index[index] for index in row])


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads("\n".join(read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); get the file again") from error
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}; get the file again")
    return value


def _name(record: dict[str, Any], at: int) -> str:
    return str(record.get("idx", record.get("url", at)))


def _query(record: dict[str, Any], path: Path) -> str:
    return joined(record["docstring_tokens"], path, "docstring_tokens")


def _code(record: dict[str, Any], path: Path) -> str:
    name = "code_tokens" if "code_tokens" in record else "function_tokens"
    return joined(record.get(name), path, name)
