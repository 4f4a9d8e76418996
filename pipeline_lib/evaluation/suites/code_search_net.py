"""CodeSearchNet: a docstring finds its function, in the protocol of its authors and in two harder ones.

Three tasks a language, which are never to be compared with each other:

    codesearchnet/ruby:1k    among 1,000: the set shuffled with numpy's seed 0 as the authors do, cut into batches of 1,000,
                             each query against its own batch; the incomplete last batch is left out
    codesearchnet/ruby:10k   the same with batches of 10,000; absent where the set is smaller
    codesearchnet/ruby:all   every function of the split is a candidate

Each docstring ranks functions, as the paper states the task; the authors' model_test.py hands the functions over first, and so
ranks the docstrings of a batch for each function. Figures of the two differ a little.

The query is the docstring as `docstring_tokens` has it (its first paragraph). The candidate is `code`; where that holds the
docstring, as it does in Python, `code_tokens`, which do not. The candidates' order is pinned by a digest in the facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.evaluation.suites.code_ranking import CodeQuery, CodeSet, facts_of, joined, mrr_figure, reciprocal_ranks
from pipeline_lib.evaluation.suites.config import SuiteConfig
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import MissingData, read_json_lines
from pipeline_lib.evaluation.suites.suite import Kind, Suite, SuiteResult, SuiteText, sample_rows
from pipeline_lib.progress import Progress, silent

LANGUAGES = ("go", "java", "javascript", "php", "python", "ruby")
PLACES = ("codesearchnet", "CodeSearchNet", "CodeSearchNet/resources/data", "resources/data", "")
SOURCE = "s3.amazonaws.com/code-search-net/CodeSearchNet/v2/{}.zip or huggingface.co/datasets/code_search_net"
PARTS = {"validation": "valid", "test": "test"}
PROTOCOLS = {"1k": 1000, "10k": 10_000}
AUTHORS_SEED = 0  # of numpy's old generator, whose shuffle is the same in every version


class CodeSearchNet(Suite):
    """One language."""

    kind: Kind = "code_search"
    splits = ("validation", "test")

    def __init__(self, language: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.language = language
        self.name = f"codesearchnet/{language}"

    @property
    def task(self) -> str:
        """The headline is the authors' protocol."""
        return f"{super().task}:1k"

    def paths(self, split: str) -> tuple[Path, ...]:
        """The files of the split, in the order of their names."""
        return record_files(self.data, self.language, PARTS[split])

    def texts(self, split: str) -> Iterator[SuiteText]:
        """Docstrings and functions."""
        pairs = self.pairs(split)
        for query, code in zip(pairs.queries, pairs.codes, strict=True):
            yield SuiteText(f"query-{query.id}", query.text)
            yield SuiteText(query.id, code, True)

    def pairs(self, split: str) -> CodeSet:
        """Query i and code i belong together."""
        queries, codes = list[CodeQuery](), list[str]()
        for path in self.paths(split):
            for record in read_json_lines(path, ("code", "docstring", "docstring_tokens", "code_tokens")):
                name = f"{record.get('url') or record.get('func_name', '')}#{len(codes)}"
                queries.append(CodeQuery(name, query_text(record, path), len(codes)))
                codes.append(code_text(record, path))
        return CodeSet(queries, [query.id for query in queries], codes)

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """MRR in each protocol that the split is large enough for."""
        pairs = self.pairs(split)
        figures, facts = [], dict[str, Any]()
        for protocol, size in {**PROTOCOLS, "all": 0}.items():
            batches = self._batches(pairs, size)
            task = self.task.removesuffix(":1k") + f":{protocol}"
            if not batches:
                facts[protocol] = {"absent": f"{len(pairs.codes)} functions, {size} are needed"}
                continue
            values = reciprocal_ranks(model, batches, progress)
            figures.append(mrr_figure(task, batches, values, self.config.bootstrap, self.config.seed))
            facts[protocol] = facts_of(batches)
        return SuiteResult(tuple(figures), {"protocols": facts})

    def _batches(self, pairs: CodeSet, size: int) -> list[CodeSet]:
        most = self.config.max_queries
        if not size:
            asked = [pairs.queries[row] for row in sample_rows(len(pairs.queries), most, self.config.seed)]
            return [CodeSet(asked, pairs.code_ids, pairs.codes)]
        order = np.arange(len(pairs.queries))
        np.random.RandomState(AUTHORS_SEED).shuffle(order)
        starts = range(0, len(order) - size + 1, size)
        batches = [pairs.taken(order[at : at + size].tolist()) for at in starts]
        if not most:
            return batches
        return [CodeSet(batch.queries[:most], batch.code_ids, batch.codes) for batch in batches[:1]]


def record_files(data: Path, language: str, part: str) -> tuple[Path, ...]:
    """LANGUAGE/final/jsonl/PART/*.jsonl or .jsonl.gz, sorted by name; one that lies there both ways is read once.

    Raises:
        MissingData: there is none.
    """
    for place in PLACES:
        folder = data / place / language / "final" / "jsonl" / part
        found = {path.name.removesuffix(".gz"): path for end in (".jsonl.gz", ".jsonl") for path in folder.glob(f"*{end}")}
        if found:
            return tuple(found[name] for name in sorted(found))
    wanted = data / PLACES[0] / language / "final" / "jsonl" / part
    raise MissingData(f"{wanted} holds no .jsonl.gz; get it from {SOURCE.format(language)}")


def query_text(record: dict[str, Any], path: Path) -> str:
    """The docstring's first paragraph, as its tokens have it."""
    return joined(record["docstring_tokens"], path, "docstring_tokens") or str(record["docstring"])


def code_text(record: dict[str, Any], path: Path) -> str:
    """The function without its docstring."""
    code, docstring = str(record["code"]), str(record["docstring"]).strip()
    return joined(record["code_tokens"], path, "code_tokens") if docstring and docstring in code else code
