"""The page and the file of a suite run, and which suites are opened before anything is embedded."""

from __future__ import annotations

import json

import pytest
from browser import too_wide

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import open_model, open_suite
from pipeline_lib.evaluation.suites.report import Compared, write_comparison, write_suite_report
from pipeline_lib.store.store import Store
from tasks.suites import fits, open_suites_task


@pytest.fixture
def sts_b(put):
    for part in ("dev", "test"):
        rows = [f"main<b>\tf\ty\ti\t{n % 6}\tred cat {n}\t{'red cat' if n % 3 else 'dog'} {n}" for n in range(30)]
        put(f"STS/STSBenchmark/sts-{part}.csv", "\n".join(rows))


def test_models_side_by_side_with_paired_differences(sts_b, data, config, encoder, tmp_path):
    store, suite = Store(tmp_path / "store"), open_suite("sts-b", data, config)
    found = [evaluate_suite(store, model, suite, "test") for model in (encoder, open_model("tfidf"))]
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<!--pages--><!--/pages-->")
    page = write_suite_report(tmp_path / "report", found, "test", {"mr": "<missing>"}).read_text()
    assert '<a href="report.html">Report</a>' in page, "links both ways"
    assert '<a href="suites-test.html">Suites, test</a>' in (tmp_path / "report" / "report.html").read_text()
    content = json.loads((tmp_path / "report" / "suites-test.json").read_text())
    assert content["models"] == ["words", "tfidf"] and len(content["evaluations"]) == 4
    (difference,) = content["differences"]
    by_model = {row["model"]: row["value"] for row in content["evaluations"] if row["metric"] == "spearman"}
    assert difference["mean"] == pytest.approx(by_model["words"] - by_model["tfidf"]) and difference["n"] == 30
    assert f"{by_model['words']:.3f}" in page and f"{difference['mean']:+.3f}" in page
    assert "&lt;missing&gt;" in page and "<missing>" not in page and "://" not in page


def test_models_beside_the_champion(sts_b, data, config, encoder, tmp_path):
    store, suite = Store(tmp_path / "store"), open_suite("sts-b", data, config)
    mine, champion = (evaluate_suite(store, model, suite, "test") for model in (encoder, open_model("tfidf")))
    compared = Compared("test", [mine, champion], [champion], "KEY/step-000240", {"mr": "<missing>"})
    rows = {(row["model"], row["metric"]): row for row in compared.table()}
    delta = rows["words", "spearman"]
    assert delta["difference"] == pytest.approx(delta["value"] - delta["champion"])
    assert delta["difference low"] <= delta["difference"] <= delta["difference high"]
    assert delta["verdict"] in ("better", "worse", "even")
    assert rows["words", "pearson"]["champion"] == rows["tfidf", "pearson"]["value"]
    assert rows["words", "pearson"]["difference"] is None, "of the primary metric alone"
    assert rows["tfidf", "spearman"]["difference"] is None, "it is the champion"
    assert len(compared.sentences()) == 1 and f"{delta['difference']:+.3f}" in compared.sentences()[0]

    page = write_comparison(tmp_path / "report", compared)
    assert page.parent == tmp_path / "report" / "evaluations"
    text, content = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    assert content["models"] == ["words", "tfidf", "champion"] and content["champion"] == "KEY/step-000240"
    assert [row["baseline"] for row in content["differences"]] == ["champion"]
    assert f"{delta['difference']:+.3f}" in text and "Each model minus the champion" in text and "KEY/step-000240" in text
    assert "&lt;missing&gt;" in text and "<missing>" not in text
    assert write_comparison(tmp_path / "report", compared) == page, "the same evaluation has the same page"

    alone = Compared("test", [mine])
    assert "difference" not in alone.table()[0] and alone.differences() == []
    other = write_comparison(tmp_path / "report", alone)
    assert other != page and "minus" not in other.read_text()


def test_the_page_fits_every_width_and_follows_the_theme(sts_b, data, config, encoder, tmp_path, tab):
    found = [evaluate_suite(Store(tmp_path / "store"), encoder, open_suite("sts-b", data, config), "test")]
    page = write_suite_report(tmp_path / "report", found, "test", {"mr": "no_place_to_break/" * 20})
    assert too_wide(tab, page) == []
    assert too_wide(tab, write_comparison(tmp_path / "report", Compared("test", found, found, "K" * 24 + "/step-000240"))) == []
    grounds = []
    for scheme in ("light", "dark"):
        tab.open(page.as_uri(), 800, scheme=scheme)
        grounds.append(tab.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(247, 246, 243)", "rgb(18, 20, 24)"]


def test_the_page_says_how_a_corpus_was_searched(put, data, config, encoder, tmp_path):
    put("beir/t/corpus.jsonl", '{"_id": "d", "text": "red"}\n{"_id": "e", "text": "blue"}\n')
    put("beir/t/queries.jsonl", '{"_id": "q", "text": "red"}\n')
    put("beir/t/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
    suite = open_suite("beir/t", data, config.model_copy(update={"faiss_from_rows": 1, "faiss_factory": "HNSW8"}))
    found = [evaluate_suite(Store(tmp_path / "store"), model, suite, "test") for model in (encoder, open_model("bm25"))]
    page = write_suite_report(tmp_path / "report", found, "test", {}).read_text()
    assert '<td>words beir/t</td><td class="number">2</td><td>FAISS HNSW8, approximate</td>' in page
    assert '<td>bm25 beir/t</td><td class="number">2</td><td>words, exact</td>' in page


def test_suites_are_opened_before_anything_runs(sts_b, data):
    opened = open_suites_task.fn
    suites, skipped = opened(("similarity",), str(data), "validation", False, True)
    assert [suite.name for suite in suites] == ["sts-b"]
    assert skipped["sts12"] == "it has no split validation" and "SICK_trial.txt is not there" in skipped["sick-r"]
    with pytest.raises(MissingData, match="SICK_trial"):
        opened(("similarity",), str(data), "validation", False, False)
    with pytest.raises(UserError, match="sts12 has no split 'validation'"):
        opened(("sts12",), str(data), "validation", False, True)
    with pytest.raises(UserError, match="give the folder that holds them, as --suite-data DIR"):
        opened(("sts-b",), "", "validation", False, False)
    with pytest.raises(UserError, match="no suite is left to run"):
        opened(("sick-r",), str(data), "validation", False, True)
    (quick,), _ = opened(("sts-b",), str(data), "test", True, False)
    assert quick.task == "sts-b-quick" and quick.config.max_test_texts == 1000


def test_a_word_model_goes_where_it_can(data, config, encoder):
    names = ("sts-b", "beir/any", "sst2-zero-shot", "sst2")
    fitting = {
        model.id.name: [name for name in names if fits(model, open_suite(name, data, config))]
        for model in (encoder, open_model("bm25"), open_model("tfidf"))
    }
    assert fitting == {"words": list(names), "bm25": ["beir/any"], "tfidf": ["sts-b", "beir/any", "sst2"]}
