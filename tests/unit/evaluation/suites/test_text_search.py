"""BEIR folders and SMART collections in their official layouts."""

from __future__ import annotations

import csv
import json

import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites import text_search
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import GROUPS, open_model, open_suite

CORPUS = [
    {"_id": "d1", "title": "Red cats", "text": "sit on mats"},
    {"_id": "d2", "title": "", "text": "blue dogs run"},
    {"_id": "d3", "text": "green birds fly", "metadata": {}},
    {"_id": "q1", "title": "", "text": "red cats sit"},
]
QUERIES = [{"_id": "q1", "text": "red cats sit"}, {"_id": "q2", "text": "dogs run"}, {"_id": "q3", "text": "unjudged"}]


def write_beir(put, qrels=(("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1)), suffix="", split="test"):
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        put(f"beir/tiny/{name}.jsonl{suffix}", "".join(json.dumps(record) + "\n" for record in records))
    rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in qrels)
    put(f"beir/tiny/qrels/{split}.tsv", "query-id\tcorpus-id\tscore\n" + rows)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_beir_folder(put, data, config, encoder, suffix):
    write_beir(put, suffix=suffix)
    suite = open_suite("beir/tiny", data, config)
    result = suite.run(encoder, "test")
    by_metric = {figure.metric: figure for figure in result.figures}
    assert list(by_metric) == ["ndcg@10", "recall@100", "map", "mrr@10"]
    # without leaving the query itself out of its own hits, q1 would find q1 first
    assert list(by_metric["mrr@10"].values) == [1.0, 1.0] and by_metric["ndcg@10"].ids == ["q1", "q2"]
    assert result.facts["documents"] == 4 and result.facts["search"] == "matrix product, exact"
    assert ("y", "Red cats sit on mats") in encoder.asked and ("y", "blue dogs run") in encoder.asked
    assert ("x", "unjudged") not in encoder.asked


def test_a_query_that_is_a_document_takes_no_rank(put, data, config, encoder, monkeypatch):
    monkeypatch.setattr(text_search, "QUERY_BLOCK", 1)
    names = [f"d{number:03}" for number in range(102)]  # all alike, the query too; the last names rank first
    put("beir/alike/corpus.jsonl", "".join(json.dumps({"_id": name, "text": "red"}) + "\n" for name in names))
    put("beir/alike/queries.jsonl", "".join(json.dumps({"_id": name, "text": "red"}) + "\n" for name in ("d000", "other")))
    rows = [f"{query}\t{name}\t1\n" for query in ("d000", "other") for name in names[1:]]
    put("beir/alike/qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + "".join(rows))
    result = open_suite("beir/alike", data, config.model_copy(update={"depth": 100})).run(encoder, "test")
    recall = next(figure for figure in result.figures if figure.metric == "recall@100")
    assert list(recall.values) == pytest.approx([100 / 101, 99 / 101])  # of "other" d000 is among the first 100


@pytest.mark.parametrize("model", ["bm25", "tfidf"])
def test_a_document_that_has_but_the_id_of_a_query_is_a_hit(put, data, config, model):
    """Queries and documents are both numbered from 0; the document of a query's own number answers it."""
    topics = ["red cats", "blue dogs", "green birds", "old trees"]
    texts = [f"about {topic}" for topic in topics]
    documents = [{"_id": str(n), "title": topic, "text": f"the {topic} are known to us"} for n, topic in enumerate(topics)]
    documents[3] |= {"title": "A title", "text": "About  old trees."}  # a query that is a document, as in ArguAna
    documents.append({"_id": "4", "title": "", "text": "old trees"})
    queries = [{"_id": str(n), "text": text} for n, text in enumerate(texts)]
    for name, records in (("corpus", documents), ("queries", queries)):
        put(f"beir/numbered/{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    put("beir/numbered/qrels/test.tsv", "query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n2\t2\t1\n3\t4\t1\n")
    result = open_suite("beir/numbered", data, config).run(open_model(model), "test")
    ndcg = next(figure for figure in result.figures if figure.metric == "ndcg@10")
    assert list(ndcg.values) == [1.0, 1.0, 1.0, 1.0]


def test_splits_are_those_that_have_judgements(put, data, config):
    write_beir(put, split="dev")
    suite = open_suite("beir/tiny", data, config)
    assert suite.splits == ("validation",) and suite.qrels("validation")["q1"] == {"d1": 2, "d2": 0}
    with pytest.raises(MissingData, match=r"beir/nfcorpus/corpus.jsonl is not there.*BEIR/datasets/nfcorpus.zip"):
        open_suite("beir/nfcorpus", data, config).paths("test")
    assert len(GROUPS["beir-11"]) == 11


def test_a_folder_of_cqadupstack(put, data, config, encoder):
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        put(f"beir/cqadupstack/android/{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    put("beir/cqadupstack/android/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq2\td2\t1\n")
    figure = open_suite("beir/cqadupstack/android", data, config).run(encoder, "test").figures[0]
    assert figure.task == "beir/cqadupstack/android" and figure.interval.value == 1.0
    with pytest.raises(MissingData, match=r"cqadupstack/gis/corpus.jsonl is not there.*BEIR/datasets/cqadupstack.zip"):
        open_suite("beir/cqadupstack/gis", data, config).paths("test")


@pytest.mark.parametrize("name", ["beir", "beir/", "codexglue"])
def test_a_family_without_a_folder_is_no_suite(data, config, name):
    with pytest.raises(
        UserError, match=rf"no suite '{name}'; the nearest are .*{name.strip(chr(47))}/FOLDER.*codexglue/FOLDER, .*beir/FOLDER"
    ):
        open_suite(name, data, config)


def test_graded_and_broken_judgements(put, data, config, encoder):
    write_beir(put, (("q1", "d1", 0), ("q2", "d2", -1)))
    result = open_suite("beir/tiny", data, config).run(encoder, "test")
    assert result.facts["queries_without_relevant"] == 2 and result.figures[0].interval.value == 0
    write_beir(put, (("q1", "d1", "yes"),))
    with pytest.raises(UserError, match=r"test.tsv, line 2: grade 'yes'"):
        open_suite("beir/tiny", data, config).run(encoder, "test")
    write_beir(put, (("q9", "d1", 1),))
    suite = open_suite("beir/tiny", data, config)
    for of_suite in (lambda: suite.run(encoder, "test"), lambda: list(suite.texts("test"))):
        with pytest.raises(UserError, match="1 judged queries have no text, 'q9' first"):
            of_suite()


def test_a_corpus_without_the_relevant_documents_is_no_figure_of_zero(put, data, config, encoder):
    write_beir(put, (("q1", "d1", 1), ("q2", "d8", 1)))
    assert open_suite("beir/tiny", data, config).run(encoder, "test").facts["relevant_not_in_corpus"] == 1
    write_beir(put, (("q1", "d9", 1), ("q2", "d8", 1), ("q2", "d1", 0)))
    with pytest.raises(UserError, match="tiny, test: none of the 2 relevant documents is in the corpus, 'd8' for one"):
        open_suite("beir/tiny", data, config).run(encoder, "test")


def test_a_broken_download_is_named(put, data, config):
    write_beir(put, suffix=".gz")
    path = data / "beir/tiny/corpus.jsonl.gz"
    whole = path.read_bytes()
    for broken in (whole[:-9], whole[:12] + bytes([255] * 20) + whole[32:], b"<html>"):  # cut off, overwritten, another file
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"corpus.jsonl.gz: cannot be read to its end as utf-8 .*get the file again"):
            list(open_suite("beir/tiny", data, config).corpus())


def test_a_quote_that_nothing_closes_is_named_whatever_was_read_before(put, data, config):
    write_beir(put)
    put("beir/tiny/qrels/test.tsv", 'query-id\tcorpus-id\tscore\nq1\t"' + "d1\t1\n" * 30_000)
    before = csv.field_size_limit()
    for limit in (before, 10**9):  # readers of dumps raise it for the whole process
        csv.field_size_limit(limit)
        try:
            with pytest.raises(UserError, match=r"qrels/test.tsv: cannot be read to its end .*field larger than field limit"):
                open_suite("beir/tiny", data, config).qrels("test")
        finally:
            csv.field_size_limit(before)


def test_texts_for_decontamination_are_queries_and_relevant_documents(put, data, config):
    write_beir(put)
    texts = {text.id: text.text for text in open_suite("beir/tiny", data, config).texts("test")}
    assert set(texts) == {"query-q1", "query-q2", "d1", "d2"} and texts["d1"] == "Red cats sit on mats"


def test_the_quick_variant_keeps_every_judged_document(put, data, config, encoder):
    write_beir(put)
    quick = config.model_copy(update={"quick": True, "max_documents": 1, "max_queries": 1})
    result = open_suite("beir/tiny", data, quick).run(encoder, "test")
    assert result.figures[0].interval.n == 1 and result.figures[0].task == "beir/tiny-quick"
    assert 1 <= result.facts["documents"] <= 3


def write_lines(put, name, records):
    put(name, "".join(json.dumps(record) + "\n" for record in records))


def test_null_titles_and_texts_are_counted_and_nothing_stops(put, data, config, encoder):
    documents = [
        {"_id": 1, "title": None, "text": "red cats"},
        {"_id": 2, "title": "blue dogs", "text": None},
        {"_id": 3, "title": None, "text": None},
        {"_id": 4},
        {"_id": 5, "title": "", "text": ""},
    ]
    queries = [{"_id": 10, "text": "red cats"}, {"_id": 11, "text": None}, {"_id": 12}, {"_id": 13, "text": "nobody judged it"}]
    write_lines(put, "beir/nulls/corpus.jsonl", documents)
    write_lines(put, "beir/nulls/queries.jsonl.gz", queries)
    put("beir/nulls/qrels/test.tsv", "query-id\tcorpus-id\tscore\n10\t1\t1\n11\t2\t1\n12\t2\t1\n99\t2\t1\n")
    suite = open_suite("beir/nulls", data, config)
    result = suite.run(encoder, "test")
    assert [d.text for d in suite.corpus()] == ["red cats", "blue dogs", "", "", ""]
    assert result.figures[0].ids == ["10"] and result.figures[0].interval.value == 1.0 and result.facts["documents"] == 5
    assert suite.left_out == {
        "judged_queries_without_text": 3, "queries_without_judgement": 1, "documents_without_text": 3,
    }  # fmt: skip
    assert ("x", "None") not in encoder.asked and ("y", "None") not in encoder.asked


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("test.tsv", "q1\td1\t2\nq2\td2\t1\n"),
        ("test.tsv", "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t2.0\n\nq2\td2\t1\n"),
        ("test.tsv", "score\tquery-id\tcorpus-id\n2\tq1\td1\n1\tq2\td2\n"),
        ("test.tsv", "q1 0 d1 2\nq2 0 d2 1\n"),
        ("test.tsv.gz", "q1\t0\td1\t2\nq2\t0\td2\t1\n"),
        (
            "test.jsonl",
            '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n{"query-id": "q2", "corpus-id": "d2", "score": 1}\n',
        ),
    ],
)
def test_judgements_come_in_several_shapes(put, data, config, name, rows):
    write_beir(put, split="dev")
    put(f"beir/tiny/qrels/{name}", rows)
    suite = open_suite("beir/tiny", data, config)
    assert suite.splits == ("validation", "test") and suite.qrels("test") == {"q1": {"d1": 2}, "q2": {"d2": 1}}


@pytest.mark.parametrize("rows", ["q1\td1\n", "q1\t0\td1\t1\tx\n", "q1\td1\t1\nq2\td2\n", "q1\td1\tinf\n", "q1\td1\t0.5\n"])
def test_judgements_of_another_shape_are_named(put, data, config, rows):
    write_beir(put)
    put("beir/tiny/qrels/test.tsv", rows)
    with pytest.raises(UserError, match=r"test.tsv.*get the file again"):
        open_suite("beir/tiny", data, config).qrels("test")


SMART = {
    "cran.all.1400": ".I 1\n.T\nwings in\nflow\n.A\nsmith\n.B\nj. 1\n.W\nlift of wings\n"
    ".I 2\n.T\nheat\n.A\n.W\nheat of\n.5 inch plates\n",
    "cran.qry": ".I 001\n.W\nlift of wings\n.I 004\n.W\nheat plates\n",
    "cranqrel": "1 1 2\n1 2 -1\n2 2 3 \n2 1 5\n\n",
    "MED.ALL": ".I 1\n.W\nblood cells\n.I 2\n.W\nbone\n",
    "MED.QRY": ".I 1\n.W\nblood\n",
    "MED.REL": "1 0 1 1\n",
    "cacm.all": ".I 1\n.T\nsorting lists\n.B\nCACM\n.K\nkeyword\n.N\nnote\n.X\n1\t5\t1\n.I 2\n.T\ngraphs\n.X\n2\t5\t2\n",
    "query.text": ".I  1\n.W\n sorting\n.N\n someone\n",
    "qrels.text": "01 0001  0 0\n",
}


ADI = {
    "ADI.ALL": ".I 1\n.T\nindexing of books\n.A\nSMITH\n.W\nhow books are indexed\n.I 2\n.T\nabstracts\n.W\nof papers\n",
    "ADI.QRY": ".I 1\n.W\nindexing books\n.I 2\n.W\nabstracts of papers\n",
    "ADI.REL": "       1\t1\t0\t0.000000\n       2\t2\t0\t0.000000\n",
}
NPL = {
    "doc-text": "1\ncompact memories have flexible\ncapacities and/or 64 bits\n   /\n2\nelectron beams\n   /\n  3  \n /\n",
    "query-text": "1\nFLEXIBLE MEMORIES\n/\n2\nELECTRON BEAMS\n/\n",
    "rlv-ass": "1\n1\n   /\n2\n  2\n 3\n   /\n",
}
TIME = {
    "TIME.ALL": "*TEXT 017 01/04/63 PAGE 020\nTHE ALLIES\nAFTER NASSAU\n\n*TEXT 020 01/04/63 PAGE 021\nCHINA AND RICE\n*STOP\n",
    "TIME.QUE": "*FIND     1\n THE ALLIES .\n\n*FIND     2\nRICE IN CHINA .\n*STOP\n",
    "TIME.REL": "1   1\n\n2   2 \n\n",
}


def test_collections_in_layouts_of_their_own(put, data, config, encoder):
    for files, folder in ((ADI, "adi"), (NPL, "npl"), (TIME, "time")):
        for name, content in files.items():
            put(f"ir/{folder}/{name}", content)
    npl, time = open_suite("npl", data, config), open_suite("time", data, config)
    assert {document.id: document.text for document in npl.corpus()} == {
        "1": "compact memories have flexible capacities and/or 64 bits", "2": "electron beams", "3": "",
    }  # fmt: skip
    assert npl.qrels("test") == {"1": {"1": 1}, "2": {"2": 1, "3": 1}} and npl.queries("test")["2"] == "ELECTRON BEAMS"
    assert {document.id: document.text for document in time.corpus()} == {"1": "THE ALLIES AFTER NASSAU", "2": "CHINA AND RICE"}
    assert time.queries("test") == {"1": "THE ALLIES .", "2": "RICE IN CHINA ."}
    for name in ("adi", "npl", "time"):
        suite = open_suite(name, data, config)
        values = {figure.metric: figure.interval.value for figure in suite.run(open_model("bm25"), "test").figures}
        assert values["mrr@10"] == 1.0, name
    assert npl.left_out == {} and set(GROUPS["smart"]) == {"cisi", "cranfield", "med", "cacm", "adi", "npl", "time"}


def test_time_is_judged_by_its_own_numbers_where_those_are_meant(put, data, config):
    for name, content in (TIME | {"TIME.REL": "1 17\n2 20\n"}).items():
        put(f"ir/time/{name}", content)
    suite = open_suite("time", data, config)
    assert [document.id for document in suite.corpus()] == ["17", "20"] and suite.qrels("test")["2"] == {"20": 1}


@pytest.mark.parametrize(
    ("suite", "name", "content"),
    [("npl", "doc-text", "<html>\n"), ("time", "TIME.ALL", "<html>\n"), ("time", "TIME.REL", "1 x\n")],
)
def test_other_files_are_no_collection(put, data, config, suite, name, content):
    for each, text in ((NPL if suite == "npl" else TIME) | {name: content}).items():
        put(f"ir/{each}", text)
    with pytest.raises(UserError, match=rf"{name}, line 1"):
        open_suite(suite, data, config).run(open_model("bm25"), "test")


def test_smart_collections(put, data, config, encoder):
    for name, content in SMART.items():
        put(f"ir/{name}", content)
    cranfield = open_suite("cranfield", data, config)
    documents = {document.id: document.text for document in cranfield.corpus()}
    assert documents == {"1": "wings in flow lift of wings", "2": "heat heat of .5 inch plates"}
    assert cranfield.queries("test") == {"1": "lift of wings", "2": "heat plates"}
    assert cranfield.qrels("test") == {"1": {"1": 1}, "2": {"2": 1}}
    assert [document.text for document in open_suite("cacm", data, config).corpus()] == ["sorting lists", "graphs"]
    for name in ("cranfield", "med", "cacm"):
        assert open_suite(name, data, config).run(encoder, "test").figures[0].interval.value == 1.0


@pytest.mark.parametrize(("name", "line"), [("cranqrel", "1 0 184 2"), ("MED.REL", "1 13 1")])
def test_judgements_that_somebody_rewrote_are_refused(put, data, config, name, line):
    put(f"ir/{name}", line + "\n")
    suite = open_suite({"cranqrel": "cranfield", "MED.REL": "med"}[name], data, config)
    with pytest.raises(UserError, match=rf"{name}, line 1: '{line}': . columns, expected .; get {name} as ir.dcs"):
        suite.qrels("test")


def test_text_before_a_record_is_refused(put, data, config):
    put("ir/CISI.ALL.gz", "<html>moved</html>\n")
    with pytest.raises(UserError, match=r"CISI.ALL.gz, line 1: .*before the first `.I`"):
        list(open_suite("cisi", data, config).corpus())


@pytest.mark.slow
def test_bm25_gets_what_others_published(eval_data, config):
    """Anserini's BM25 has nDCG@10 0.665 on SciFact over the same text, with its own words and k1 = 0.9."""
    result = open_suite("beir/scifact", eval_data, config).run(open_model("bm25"), "test")
    assert result.facts["documents"] == 5183 and result.figures[0].interval.value == pytest.approx(0.665, abs=0.02)


def test_shared_sets_have_their_published_sizes(eval_data, config):
    suite = open_suite("beir/scifact", eval_data, config)
    assert suite.splits == ("train", "test") and len(suite.qrels("test")) == 300 and len(suite.qrels("train")) == 809
    cisi = open_suite("cisi", eval_data, config)
    assert sum(1 for _ in cisi.corpus()) == 1460 and len(cisi.queries("test")) == 112
    assert len(cisi.qrels("test")) == 76 and sum(map(len, cisi.qrels("test").values())) == 3114
