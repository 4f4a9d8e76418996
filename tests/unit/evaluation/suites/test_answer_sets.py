"""Sets that come as pairs or questions: WikiQA, WebQuery, NQ-open and SNLI, as their publishers lay them out."""

from __future__ import annotations

import json

import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import open_model, open_suite
from pipeline_lib.store.store import Store


def by_metric(result):
    return {figure.metric: figure for figure in result.figures}


HEADER = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel\n"
WIKI_QA = [
    ("Q0", "how old are cats", "D0", "Cats", "D0-0", "cats sleep", 0),
    ("Q0", "how old are cats", "D0", "Cats", "D0-1", "how old cats get", 1),
    ("Q1", "what do dogs eat", "D1", "Dogs", "D1-0", 'dogs eat "meat', 1),
    ("Q1", "what do dogs eat", "D1", "Dogs", "D1-1", "what do dogs eat is asked", 0),
    ("Q2", "nobody knows", "D2", "None", "D2-0", "nothing", 0),
    ("Q3", "no sentence", "D3", "None", "D3-0", "", 1),
]


def test_wikiqa_ranks_the_sentences_of_one_article(put, data, config, tmp_path):
    put("wikiqa/WikiQA-test.tsv", HEADER + "".join("\t".join(map(str, row)) + "\n" for row in WIKI_QA))
    suite = open_suite("wikiqa", data, config)
    figures = by_metric(suite.run(open_model("bm25"), "test"))
    assert figures["map"].ids == ["Q0", "Q1"]
    assert list(figures["mrr"].values) == [1.0, 0.5]  # the sentences of other articles take no rank
    artifact = evaluate_suite(Store(tmp_path / "store"), open_model("bm25"), suite, "test")
    assert artifact.manifest.facts["left_out"] == {"incomplete_pairs": 1, "questions_without_answer": 1}
    with pytest.raises(MissingData, match=r"WikiQA-dev.tsv is not there"):
        suite.paths("validation")
    put("wikiqa/WikiQA-dev.tsv", "<html>\n")
    with pytest.raises(UserError, match="no column QuestionID"):
        suite.queries("validation")


WEB_QUERY = [
    {"idx": "t-1", "doc": "open a file", "code": "def open_a_file(path): open(path)"},
    {"idx": "t-2", "doc": "open a file", "code": "def remove(path): unlink(path)"},
    {"idx": "t-3", "doc": "remove a path", "code": "def  remove(path): unlink(path)"},  # the function once more
    {"idx": "t-4", "doc": "sort a list", "code": "def walk(tree): pass"},
    {"idx": "t-5", "doc": "never judged", "code": "def other(): pass"},
    {"idx": "t-6", "doc": None, "code": "def no_query(): pass"},
]


def test_web_query_is_a_search_among_the_distinct_functions(put, data, config):
    put("webquery/test_webquery.json", json.dumps(WEB_QUERY))
    put("webquery/webquery_answers.txt", "t-1\t1\nt-2\t0\nt-3\t1\nt-4\t0\n")
    suite = open_suite("webquery", data, config)
    result = suite.run(open_model("bm25"), "test")
    assert result.facts["documents"] == 4 and by_metric(result)["mrr"].interval.n == 2
    assert list(by_metric(result)["mrr"].values) == [1.0, 1.0]
    left_out = {"incomplete_pairs": 1, "pairs_without_label": 1, "queries_without_answer": 1}
    assert {reason: n for reason, n in suite.left_out.items() if reason in left_out} == left_out
    assert {text.is_code for text in suite.texts("test")} == {True, False}


def test_web_query_takes_cosqa_with_its_own_labels_and_says_where_there_are_none(put, data, config):
    put("NL-code-search-WebQuery/CoSQA/cosqa-dev.json", json.dumps([row | {"label": 1} for row in WEB_QUERY[:1]]))
    put("webquery/test_webquery.json", json.dumps(WEB_QUERY))
    suite = open_suite("webquery", data, config)
    assert by_metric(suite.run(open_model("tfidf"), "validation"))["mrr"].interval.value == 1.0
    with pytest.raises(UserError, match=r"test_webquery.json: no pair is labelled as right; .*webquery_answers.txt"):
        suite.run(open_model("tfidf"), "test")
    put("webquery/test_webquery.json", "{}")
    with pytest.raises(UserError, match="a dict, expected a list"):
        suite.queries("test")


QUESTIONS = [
    {"question": "who wrote emma", "answer": ["Jane Austen", "Austen"]},
    {"question": "where are cats", "answer": ["Nowhere to be found"]},
    {"question": "no answer", "answer": []},
    {"question": None, "answer": ["x"]},
]
PASSAGES = [("1", "emma was written by jane austen who wrote", "Emma"), ("2", "cats are everywhere", "Cats")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nq-open/passages.tsv", "id\ttext\ttitle\n" + "".join("\t".join(row) + "\n" for row in PASSAGES)),
        ("nq-open/passages.tsv.gz", "title\tid\ttext\n" + "".join(f"{c}\t{a}\t{b}\n" for a, b, c in PASSAGES)),
        ("nq_open/corpus.tsv", "".join("\t".join(row) + "\n" for row in PASSAGES)),
        ("dpr/passages.tsv", "".join(f"{a}\t{b}\n" for a, b, _ in PASSAGES)),
        ("nq-open/corpus.jsonl", "".join(json.dumps({"_id": a, "text": b, "title": c}) + "\n" for a, b, c in PASSAGES)),
        ("nq-open/passages.jsonl", "".join(json.dumps({"id": int(a), "contents": b}) + "\n" for a, b, _ in PASSAGES)),
    ],
)
def test_nq_open_over_any_file_of_passages(put, data, config, name, content):
    put("nq-open/NQ-open.dev.jsonl", "".join(json.dumps(question) + "\n" for question in QUESTIONS))
    put(name, content)
    suite = open_suite("nq-open", data, config)
    assert suite.splits == ("validation",)
    result = suite.run(open_model("bm25"), "validation")
    assert {metric: list(figure.values) for metric, figure in by_metric(result).items()} == {
        "recall@20": [1.0, 0.0], "recall@100": [1.0, 0.0], "mrr@10": [1.0, 0.0],
    }  # fmt: skip
    assert result.facts["documents"] == 2 and suite.left_out["questions_without_answer"] == 2


def test_nq_open_says_what_is_missing(put, data, config):
    put("nq-open/NQ-open.dev.jsonl", json.dumps(QUESTIONS[0]) + "\n")
    suite = open_suite("nq-open", data, config)
    assert suite.splits == ("validation", "test")
    with pytest.raises(MissingData, match=r"psgs_w100.tsv or passages.tsv .*is not there.*nq-open/passages.tsv"):
        suite.paths("validation")


LABELS = ["entailment", "contradiction", "neutral"]


def nli_rows(n):
    """Pairs whose second side tells the label, and each tenth without one."""
    words = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}
    labels = ["-" if at % 10 == 9 else LABELS[at % 3] for at in range(n)]
    return [(f"a thing {at}", f"{words.get(label, 'odd')} thing {at}", label) for at, label in enumerate(labels)]


def put_snli(put, layout):
    for part, n in (("train", 90), ("dev", 30), ("test", 30)):
        rows = nli_rows(n)
        if layout == "senteval":
            for at, name in enumerate(("s1", "s2", "labels")):
                put(f"senteval/SNLI/{name}.{part}", "".join(f"{row[at]}\n" for row in rows))
        elif layout == "jsonl":
            fields = ("sentence1", "sentence2", "gold_label")
            put(
                f"snli_1.0/snli_1.0_{part}.jsonl",
                "".join(json.dumps(dict(zip(fields, row, strict=True))) + "\n" for row in rows),
            )
        else:
            codes = {"entailment": 0, "neutral": 1, "contradiction": 2, "-": -1}
            records = [{"premise": a, "hypothesis": b, "label": codes[label]} for a, b, label in rows]
            put(f"nli/snli/{part}.jsonl.gz", "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("layout", ["senteval", "jsonl", "codes"])
def test_snli_in_three_files_or_one(put, data, config, layout):
    put_snli(put, layout)
    suite = open_suite("snli", data, config)
    assert len(suite.paths("validation")) == (6 if layout == "senteval" else 2)
    result = suite.run(open_model("tfidf"), "validation")
    assert by_metric(result)["accuracy"].interval.n == 27 and by_metric(result)["accuracy"].interval.value > 0.9
    assert suite.left_out == {
        "train_pairs_without_label": 9, "validation_pairs_without_label": 3, "train_examples_beyond_the_bound": 0,
    }  # fmt: skip
    assert len(list(suite.texts("test"))) == 2 * 27


def test_snli_files_of_other_lengths_are_refused(put, data, config):
    put_snli(put, "senteval")
    put("senteval/SNLI/labels.dev", "entailment\n")
    with pytest.raises(UserError, match=r"labels.dev: ends before line 2"):
        open_suite("snli", data, config).run(open_model("tfidf"), "validation")
