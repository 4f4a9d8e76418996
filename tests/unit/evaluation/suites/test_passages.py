"""MS MARCO's files, and questions over DPR's passages by answer containment."""

from __future__ import annotations

import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.passages import contains_answer, dpr_tokens
from pipeline_lib.evaluation.suites.registry import open_model, open_suite


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_ms_marco(put, data, config, encoder, suffix):
    put(f"msmarco/collection.tsv{suffix}", "0\tred cats sit\n1\tblue dogs run\n2\tgreen birds\n")
    put(f"msmarco/queries.dev.small.tsv{suffix}", "7\tred cats\n8\tbirds and dogs run\n9\tnot judged\n")
    put(f"msmarco/qrels.dev.small.tsv{suffix}", "7\t0\t0\t1\n8\t0\t2\t1\n")
    result = open_suite("ms-marco", data, config).run(encoder, "validation")
    found = {figure.metric: list(figure.values) for figure in result.figures}
    assert found == {"mrr@10": [1.0, 0.5], "recall@100": [1.0, 1.0]} and result.facts["documents"] == 3


def put_dpr(put, passages, questions, place="dpr/data", name="nq-test.qa.csv"):
    rows = "".join(f"{n}\t{text}\t{title}\n" for n, (text, title) in enumerate(passages, 1))
    put(f"{place}/wikipedia_split/psgs_w100.tsv.gz", "id\ttext\ttitle\n" + rows)
    put(f"{place}/retriever/qas/{name}", "".join(f"{question}\t{answers}\n" for question, answers in questions))


def test_recall_by_answer_containment(put, data, config, encoder):
    passages = [
        ('"The ""red"" cat, Félix sat"', "Cats"),
        ("nothing here", "Paris"),
        *[(f"filler {n}", "F") for n in range(120)],
    ]
    questions = [
        ("the red cat sat", "['FELIX', 'Fe\u0301lix']"),  # NFD and case are one, accents are not
        ("nothing here", "['Paris']"),  # in the title alone
        ("filler 3", '"[""no"", ""Filler 3""]"'),
    ]
    put_dpr(put, passages, questions)
    result = open_suite("nq", data, config).run(encoder, "test")
    assert {figure.metric: list(figure.values) for figure in result.figures} == {
        "recall@20": [1.0, 0.0, 1.0],
        "recall@100": [1.0, 0.0, 1.0],
        "mrr@10": [1.0, 0.0, 1.0],
    }
    assert ("y", 'Cats The "red" cat, Félix sat') in encoder.asked


def test_reciprocal_rank_is_of_the_first_passage_with_an_answer(put, data, config):
    fillers = [(f"filler {n}", "F") for n in range(12)]
    passages = [("red cats", "A"), ("red birds", "B"), *fillers, ("filler that ends, many words later, in a zebra", "Z")]
    put_dpr(put, passages, [("red cats", "['birds']"), ("filler", "['zebra']")])
    suite = open_suite("nq", data, config)
    result = suite.run(open_model("bm25"), "test")
    assert {figure.metric: list(figure.values) for figure in result.figures} == {
        "recall@20": [1.0, 1.0],
        "recall@100": [1.0, 1.0],
        "mrr@10": [0.5, 0.0],
    }
    assert suite.settings("test").reciprocal_rank == 10  # part of the key: what was measured without it is measured again


@pytest.mark.parametrize("name", ["trivia-test.qa.csv", "trivia-test.qa.csv.gz", "trivia-test.csv", "trivia-test.csv.gz"])
def test_questions_go_by_the_names_of_the_download_and_of_its_script(put, data, config, name):
    put_dpr(put, [("a", "b")], [("who", "['x']")], place="downloads/data", name=name)
    assert open_suite("trivia-qa", data, config).questions("test") == [("who", ["x"])]
    with pytest.raises(MissingData, match=r"nq-test.qa.csv or nq-test.csv is not there, nor .gz beside it; get it from .*DPR"):
        open_suite("nq", data, config).paths("test")


def test_answers_are_read_and_never_run(put, data, config, tmp_path):
    canary = tmp_path / "canary"
    put_dpr(put, [("a", "b")], [("q", f"[__import__('pathlib').Path('{canary}').touch()]")], name="trivia-test.csv")
    with pytest.raises(UserError, match=r"trivia-test.csv, line 1: answers .* are no list"):
        open_suite("trivia-qa", data, config).questions("test")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("He won in 1,000 days", "1,000", True),
        ("He won in 1000 days", "1,000", False),
        ("U.S. Army", "u.s. army", True),
        ("a catalogue", "cat", False),
        ("Beyonce\u0301 sang", "Beyoncé", True),
        ("one two three", "one three", False),
        ("x", "", False),
        ("\u039f\u0394\u039f\u03a3'\u0391", "\u03bf\u03b4\u03bf\u03c2", True),  # a sigma ends the token, but not the word
    ],
)
def test_containment(text, answer, expected):
    assert contains_answer(text, [tokens for tokens in [dpr_tokens(answer)] if tokens]) is expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_tokens_are_those_of_dpr(text):
    pattern = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)
    # both tables of Unicode must know the character; Python's may be the older one
    known = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Cn")
    assert dpr_tokens(known) == tuple(match.group().lower() for match in pattern.finditer(known))
