"""CodeSearchNet's protocols, its challenge, CodeXGLUE and CoSQA."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites import code_search as code_search_net
from pipeline_lib.evaluation.suites.code_challenge import challenge_ndcg
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import open_model, open_suite


def record(n: int, words: str = "") -> dict:
    words = words or f"w{n % 3} v{n % 4} u{n % 2}"
    url = f"https://example.org/f{n}.rb#L1-L2"
    code = f"def f\n  {words} x{n % 5}\nend"
    return {"url": url, "code": code, "docstring": words, "docstring_tokens": words.split(), "code_tokens": code.split()}


def put_csn(put, n=25, part="test", suffix=".gz"):
    lines = [json.dumps(record(at)) for at in range(n)]
    half = n // 2
    for number, rows in enumerate((lines[:half], lines[half:])):
        put(f"codesearchnet/ruby/final/jsonl/{part}/ruby_{part}_{number}.jsonl{suffix}", "\n".join(rows) + "\n")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(code_search_net, "PROTOCOLS", {"1k": 10, "10k": 100})


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_each_protocol_is_a_task_of_its_own(put, data, config, encoder, small_batches, suffix):
    put_csn(put, suffix=suffix)
    result = open_suite("codesearchnet/ruby", data, config).run(encoder, "test")
    found = {figure.task: figure for figure in result.figures}
    assert {task: figure.interval.n for task, figure in found.items()} == {
        "codesearchnet/ruby:1k": 20,
        "codesearchnet/ruby:all": 25,
    }
    assert result.facts["protocols"]["10k"] == {"absent": "25 functions, 100 are needed"}
    assert result.facts["protocols"]["1k"]["candidates"] == 10 and result.facts["protocols"]["all"]["candidates"] == 25


def test_the_protocol_of_the_authors_written_out(put, data, config, encoder, embed_words, small_batches):
    put_csn(put)
    suite = open_suite("codesearchnet/ruby", data, config)
    result = suite.run(encoder, "test")
    records = np.array([record(at) for at in range(25)], dtype=object)
    np.random.seed(0)  # noqa: NPY002
    np.random.shuffle(records)  # noqa: NPY002
    expected = []
    for batch in (records[:10], records[10:20]):
        queries = embed_words([" ".join(row["docstring_tokens"]) for row in batch])
        codes = embed_words([" ".join(row["code_tokens"]) for row in batch])
        distances = np.round(1 - codes @ queries.T, 6).T
        correct = np.diag(distances)[:, None]
        expected += list(1 / np.sum(distances <= correct, axis=-1))  # as model_test.py, but that it ranks queries for a code
    assert list(result.figures[0].values) == pytest.approx(expected) and min(expected) < 1


def test_candidates_are_pinned(put, data, config, encoder, small_batches):
    put_csn(put)
    suite = open_suite("codesearchnet/ruby", data, config)
    pins = [suite.run(model, "test").facts["protocols"]["1k"]["pin"] for model in (encoder, open_model("bm25"))]
    assert pins[0] == pins[1]
    put_csn(put, 26)
    assert suite.run(encoder, "test").facts["protocols"]["1k"]["pin"] != pins[0]


def test_a_word_model_that_shares_no_word_comes_last(put, data, config, small_batches):
    rows = [record(at, f"only{at}") for at in range(10)]
    rows[3]["docstring_tokens"] = ["nothing"]
    put("codesearchnet/ruby/final/jsonl/test/a.jsonl", "\n".join(map(json.dumps, rows)))
    for name in ("bm25", "tfidf"):
        values = open_suite("codesearchnet/ruby", data, config).run(open_model(name), "test").figures[-1].values
        assert values[3] == 0.1 and values[:3].tolist() == [1, 1, 1]


def test_a_docstring_inside_its_function_is_no_candidate(put, data, config):
    leaky = record(0) | {
        "code": 'def f():\n  """w0 v0 u0"""\n  return 1',
        "code_tokens": ["def", "f", "(", ")", ":", "return", "1"],
    }
    put(
        "codesearchnet/python/final/jsonl/test/a.jsonl",
        json.dumps(leaky) + "\n" + json.dumps(record(1) | {"docstring": "elsewhere"}),
    )
    codes = open_suite("codesearchnet/python", data, config).pairs("test").codes
    assert codes == ["def f ( ) : return 1", record(1)["code"]]


def test_a_file_beside_its_gzipped_self_is_read_once(put, data, config):
    for suffix in ("", ".gz"):
        put_csn(put, suffix=suffix)
    suite = open_suite("codesearchnet/ruby", data, config)
    assert [path.name for path in suite.paths("test")] == ["ruby_test_0.jsonl", "ruby_test_1.jsonl"]
    assert len(suite.pairs("test").codes) == 25


def test_what_is_missing(data, config):
    with pytest.raises(MissingData, match=r"go/final/jsonl/test holds no .jsonl.gz; get it from .*go.zip"):
        open_suite("codesearchnet/go", data, config).paths("test")


def test_the_shared_ruby_set(eval_data, config):
    pairs = open_suite("codesearchnet/ruby", eval_data, config).pairs("test")
    assert len(pairs.codes) == 1261 and not any(
        query.text in code for query, code in zip(pairs.queries, pairs.codes, strict=True)
    )


# ---- the challenge


def official_ndcg(predictions, annotations, ignore_rank_of_non_annotated_urls):
    """CodeSearchNet's relevanceeval.py, for one query."""
    current_rank, query_dcg, query_idcg = 1, 0.0, 0.0
    for url in predictions:
        if url in annotations:
            query_dcg += (2 ** annotations[url] - 1) / np.log2(current_rank + 1)
            current_rank += 1
        elif not ignore_rank_of_non_annotated_urls:
            current_rank += 1
    for i, ideal_rel in enumerate(sorted(annotations.values(), reverse=True), start=1):
        query_idcg += (2**ideal_rel - 1) / np.log2(i + 1)
    return query_dcg / query_idcg


@pytest.mark.parametrize("skips", [True, False])
def test_ndcg_is_that_of_the_challenge(skips):
    random = np.random.default_rng(1)
    for _ in range(50):
        urls = [f"u{n}" for n in range(20)]
        grades = {url: float(grade) for url, grade in zip(urls[:8], random.integers(0, 7, 8) / 2, strict=True)} | {
            "absent": 3.0
        }
        ranking = random.permutation(urls)[:12].tolist()
        assert challenge_ndcg(ranking, grades, skips) == pytest.approx(official_ndcg(ranking, grades, skips), abs=1e-12)


def put_annotations(put, rows):
    content = "Language,Query,GitHubUrl,Relevance,Notes\n" + "".join(f'{",".join(map(str, row))},"a, note"\n' for row in rows)
    put("codesearchnet/resources/annotationStore.csv", content)


def test_the_challenge(put, data, config, encoder):
    put_csn(put, 6, "train")
    put_csn(put, 6, "test")  # the same functions again: a corpus of 12 with 6 addresses
    url = [record(at)["url"] for at in range(6)]
    put_annotations(put, [
        ("Ruby", "w1 v1 u1", url[1], 3), ("Ruby", "w1 v1 u1", url[1], 2), ("Ruby", "w1 v1 u1", url[2], 1),
        ("Ruby", "w1 v1 u1", "https://example.org/absent", 3), ("Ruby", "all bad", url[4], 0), ("Go", "w2", url[2], 3),
    ])  # fmt: skip
    suite = open_suite("codesearchnet-99/ruby", data, config)
    assert suite.grades()["w1 v1 u1"] == {url[1]: 2.5, url[2]: 1.0, "https://example.org/absent": 3.0}
    result = suite.run(encoder, "test")
    assert [figure.task for figure in result.figures] == ["codesearchnet-99/ruby", "codesearchnet-99/ruby:within"]
    assert all(figure.ids == ["w1 v1 u1"] for figure in result.figures)  # no grade above zero, no query
    ideal = 7 + (2**2.5 - 1) / math.log2(3) + 1 / 2
    within = (2**2.5 - 1 + 1 / math.log2(3)) / ideal
    assert result.figures[1].interval.value == pytest.approx(within) and result.figures[0].interval.value <= within
    assert result.facts == {"documents": 12, "search": "matrix product, exact", "annotated": 3, "present": 2}


def test_a_challenge_without_its_functions_is_missing_data(put, data, config):
    put_csn(put)
    put_annotations(put, [("Ruby", "query", "https://example.org/absent", 3)])
    with pytest.raises(MissingData, match=r"holds no annotated function; add the train files of ruby, from .*ruby.zip"):
        open_suite("codesearchnet-99/ruby", data, config).paths("test")


# ---- CodeXGLUE and CoSQA


def test_advtest(put, data, config, encoder):
    rows = [record(at, f"word{at}") | {"idx": at} for at in range(12)]
    put("AdvTest/test.jsonl", "\n".join(map(json.dumps, rows)))
    result = open_suite("codexglue-advtest", data, config).run(encoder, "test")
    assert result.figures[0].interval.value == 1.0 and result.facts["protocols"]["all"]["candidates"] == 12


def test_the_test_file_of_advtest_calls_its_tokens_otherwise(put, data, config, encoder):
    rows = [record(at, f"word{at}") | {"idx": at} for at in range(12)]
    rows = [row | {"function": row["code"], "function_tokens": row["code_tokens"]} for row in rows]
    rows = [{name: value for name, value in row.items() if name not in ("code", "code_tokens")} for row in rows]
    put("AdvTest/test.jsonl", "\n".join(map(json.dumps, rows)))
    assert open_suite("codexglue-advtest", data, config).run(encoder, "test").figures[0].interval.value == 1.0
    put("AdvTest/test.jsonl", json.dumps({"docstring_tokens": ["a"], "idx": 1}))
    with pytest.raises(UserError, match=r"test.jsonl: function_tokens is no list of tokens"):
        open_suite("codexglue-advtest", data, config).pairs("test")


def test_a_codebase_of_its_own(put, data, config, encoder):
    base = [record(at, f"word{at}") for at in range(12)]
    put("codexglue/ruby/codebase.jsonl", "\n".join(map(json.dumps, base)))
    put("codexglue/ruby/valid.jsonl.gz", "\n".join(json.dumps(base[at]) for at in (7, 2)))
    result = open_suite("codexglue/ruby", data, config).run(encoder, "validation")
    assert result.figures[0].interval.value == 1.0 and result.facts["protocols"]["all"] | {"pin": ""} == {
        "candidates": 12, "queries": 2, "pin": ""
    }  # fmt: skip
    put("codexglue/ruby/valid.jsonl.gz", json.dumps(record(99)))
    with pytest.raises(UserError, match=r"f99.rb#L1-L2 is not in codebase.jsonl"):
        open_suite("codexglue/ruby", data, config).run(encoder, "validation")


def test_cosqa(put, data, config, encoder):
    put("cosqa/code_idx_map.txt", json.dumps({f"def answer{n}(): pass": n for n in (5, 9, 30)}))
    rows = [{"idx": f"cosqa-dev-{n}", "doc": f"python answer{n}", "code": "", "retrieval_idx": n, "label": 1} for n in (30, 5)]
    put("cosqa/cosqa-retrieval-dev-500.json", json.dumps(rows))
    result = open_suite("cosqa", data, config).run(encoder, "validation")
    assert result.figures[0].interval.value == 1.0 and list(result.figures[0].ids) == ["cosqa-dev-30", "cosqa-dev-5"]
    put("cosqa/cosqa-retrieval-dev-500.json", json.dumps([{"doc": "x", "retrieval_idx": 4}]))
    with pytest.raises(UserError, match="record 0: retrieval_idx 4 is not in code_idx_map"):
        open_suite("cosqa", data, config).run(encoder, "validation")
    put("cosqa/cosqa-retrieval-dev-500.json", "{}")
    with pytest.raises(UserError, match="expected a JSON list, got dict"):
        open_suite("cosqa", data, config).run(encoder, "validation")
