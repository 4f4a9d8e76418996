"""Code search: each query's own function among a stated and pinned list of candidates, by rank and MRR.

CodeSearchNet, a docstring that finds its function; three tasks a language, which are never to be compared with each other:

    codesearchnet/ruby:1k    among 1,000: the set shuffled with numpy's seed 0 as the authors do, cut into batches of 1,000,
                             each query against its own batch; the incomplete last batch is left out
    codesearchnet/ruby:10k   the same with batches of 10,000; absent where the set is smaller
    codesearchnet/ruby:all   every function of the split is a candidate

Each docstring ranks functions, as the paper states the task; the authors' model_test.py hands the functions over first, and so
ranks the docstrings of a batch for each function. Figures of the two differ a little. The query is the docstring as
`docstring_tokens` has it (its first paragraph). The candidate is `code`; where that holds the docstring, as it does in Python,
`code_tokens`, which do not. The candidates' order is pinned by a digest in the facts.

CodeXGLUE and CoSQA, every query against one list of functions:

    codexglue-advtest    AdvTest/{valid,test}.jsonl: `docstring_tokens` and `code_tokens`; all of a file are candidates. The
                         test file's names are replaced, and its tokens are called `function_tokens`
    codexglue/ruby       ruby/{valid,test}.jsonl with ruby/codebase.jsonl as candidates, matched by `url`
    cosqa                cosqa-retrieval-{dev,test}-500.json with code_idx_map.txt as candidates, matched by `retrieval_idx`

Q queries, C candidates.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.evaluation.suites.models import COSINE_DECIMALS, HybridModel, Model, WordModel, embedded
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, read_json_lines, read_lines
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
from pipeline_lib.runtime.progress import Progress, embedding, silent
from pipeline_lib.store.files import digest_of

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
    """Ranks of the right answers, those that tie with one before it: without a shared word it is the last."""
    right_Q = np.array([query.right for query in batch.queries])
    ranks: list[int] = []
    for scores_QC in _scores(model, [query.text for query in batch.queries], batch, progress):
        right_Q1 = np.take_along_axis(scores_QC, right_Q[len(ranks) : len(ranks) + len(scores_QC), None], axis=1)
        ranks += (scores_QC >= right_Q1).sum(1).tolist()
    return np.array(ranks, np.float64)


def _scores(model: Model, texts: Sequence[str], batch: CodeSet, progress: Progress) -> Iterator[np.ndarray]:
    if isinstance(model, WordModel):
        yield from model.scores(texts, batch.codes)
        return
    encoder = model.encoder if isinstance(model, HybridModel) else model
    x_QD = embedded(encoder, texts, "x", progress)
    y_CD = embedded(encoder, batch.codes, "y", lambda done, total, note="": progress(len(texts) + done, batch.texts, note))
    words = (row_C for block_QC in Bm25Model().scores(texts, batch.codes) for row_C in block_QC)
    for at in range(0, len(texts), QUERY_BLOCK):
        scores_QC = np.round(x_QD[at : at + QUERY_BLOCK] @ y_CD.T, COSINE_DECIMALS)
        if isinstance(model, HybridModel):
            scores_QC = model.fused(scores_QC, np.stack(list(islice(words, len(scores_QC)))))
        yield scores_QC


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


CODEXGLUE = "github.com/microsoft/CodeXGLUE/tree/main/Text-Code/NL-code-search-Adv (preprocess.py)"
GRAPHCODEBERT = "github.com/microsoft/CodeBERT/tree/master/GraphCodeBERT/codesearch (dataset.zip, preprocess.py)"
COSQA = "github.com/Jun-jie-Huang/CoCLR/tree/main/data/search"


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


SUITES: Suites = {
    **{f"codesearchnet/{language}": partial(CodeSearchNet, language) for language in LANGUAGES},
    "cosqa": CoSqa,
    "codexglue-advtest": AdvTest,
}
FAMILIES: Families = {"codexglue": Codebase}
GROUPS: Groups = {"codesearchnet": tuple(f"codesearchnet/{language}" for language in LANGUAGES)}
