"""Suites' texts as curation takes them."""

from __future__ import annotations

import gzip
import json

import pytest

from pipeline_lib.config.data import ContaminationConfig
from pipeline_lib.curation.decontaminate import hash_evaluations
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import open_suite, write_judged_texts
from pipeline_lib.store.store import Store


@pytest.fixture
def suites(put, data, config):
    put("STS/STSBenchmark/sts-dev.csv", "g\tf\ty\t1\t5\tone text\tanother text\n")
    put("STS/STSBenchmark/sts-test.csv", "g\tf\ty\t1\t5\tone text\tthe last text\n")
    put("STS/STSBenchmark/sts-train.csv", "g\tf\ty\t1\t5\tfor training\tthis too\n")
    record = {"idx": 3, "docstring_tokens": ["does", "it"], "code_tokens": ["def", "f", "(", ")"]}
    for part in ("valid", "test"):
        put(f"AdvTest/{part}.jsonl", json.dumps(record | {"docstring_tokens": ["does", part]}))
    return [open_suite(name, data, config) for name in ("sts-b", "codexglue-advtest")]


def records_of(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_curation_takes_what_suites_write(suites, tmp_path):
    folder = tmp_path / "texts"
    assert [write_judged_texts(suite, folder) for suite in suites] == [3, 3]
    # what a probe may be trained on may stay
    texts = {record["text"] for record in records_of(folder / "sts-b.jsonl.gz")}
    assert texts == {"one text", "another text", "the last text"}
    kinds = [record["kind"] for record in records_of(folder / "codexglue-advtest.jsonl.gz")]
    assert sorted(kinds) == ["code", "text", "text"]
    hashed = hash_evaluations(Store(tmp_path / "store"), ContaminationConfig(folder=str(folder)))
    assert hashed.manifest.facts["suites"] == {"codexglue-advtest": 3, "sts-b": 3}


def test_equal_downloads_give_equal_bytes(suites, tmp_path):
    for name in ("a", "b"):
        write_judged_texts(suites[0], tmp_path / name)
    first, second = ((tmp_path / name / "sts-b.jsonl.gz").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_missing_split_stops_unless_it_may_be_skipped(suites, data, config, tmp_path):
    (data / "STS/STSBenchmark/sts-dev.csv").unlink()
    with pytest.raises(MissingData, match="sts-dev"):
        write_judged_texts(suites[0], tmp_path)
    assert write_judged_texts(suites[0], tmp_path, skip_missing=True) == 2
    assert write_judged_texts(open_suite("cosqa", data, config), tmp_path, skip_missing=True) == 0
    assert not (tmp_path / "cosqa.jsonl.gz").exists()


def test_a_beir_folder_without_a_split_is_no_trouble(put, data, config, tmp_path):
    put("beir/t/corpus.jsonl", '{"_id": "d", "text": "found"}\n{"_id": "e", "text": "not relevant"}\n')
    put("beir/t/queries.jsonl", '{"_id": "q", "text": "asked"}\n')
    put("beir/t/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
    assert write_judged_texts(open_suite("beir/t", data, config), tmp_path / "texts") == 2
