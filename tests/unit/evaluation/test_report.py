"""report.json's keys, and a page that is whole, self-contained and deaf to what the corpus says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from browser import too_wide

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.evaluation.report import report_json, results_table, write_report
from pipeline_lib.evaluation.report_data import HeldOut, QuarantineReason, ReportData, StageRow
from pipeline_lib.evaluation.report_page import _stats
from pipeline_lib.store.records import Outcome, Stage

PAIR_ID = "0123456789abcdef" * 2
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onload=\"y"
METRICS = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
TASKS = {"code_search": "code_search_1k", "classification": "package_of_prose"}


def figure(model, step, split, kind, value, metric=None):
    row = {"model": model, "step": step, "split": split, "kind": kind, "task": TASKS[kind]}
    return row | {"metric": metric or METRICS[kind], "value": value, "low": value - 0.02, "high": value + 0.02, "n": 100}


FOUND = {"pair": "p1", "path": EVIL, "text": EVIL, "shared": EVIL}
SELECTION = {
    "chosen": "step-000200",
    "step": 200,
    "score": 1.0,
    "sentence": EVIL,
    "rule": "highest",
    "weights": {"code_search": 0.7, "classification": 0.3},
    "checkpoints": [
        {"label": "step-000100", "step": 100, "score": 0.8, "kinds": {"code_search": 0.5, "classification": 0.5}},
        {"label": "step-000200", "step": 200, "score": 1.0, "kinds": {"code_search": 0.6, "classification": 0.6}},
    ],
}


@pytest.fixture
def data():
    evaluations = [
        figure(f"step-{step:06d}", step, "validation", kind, 0.4 + step / 1000) for step in (100, 200) for kind in TASKS
    ]
    evaluations += [
        figure("step-000200", 200, "test", "code_search", 0.61),
        figure("step-000200", 200, "test", "code_search", 0.5, "recall@1"),
        figure("bm25", -1, "test", "code_search", 0.55),
        figure("tfidf", -1, "test", "code_search", 0.60),
    ]
    difference = {"split": "test", "kind": "code_search", "task": "code_search_1k", "metric": "mrr", "n": 100}
    difference |= {"model": "step-000200", "low": 0.02, "high": 0.1}
    side = {"id": PAIR_ID, "text": EVIL, "source": EVIL, "path": EVIL, "line": 3, "name": EVIL, "kind": "code", "licence": EVIL}
    hit = {"id": PAIR_ID, "rank": 1, "score": 0.7, "kind": "code", "name": EVIL, "path": EVIL, "line": 1, "doc": EVIL}
    return ReportData(
        name="mine",
        preset="demo",
        commit="abc123",
        machine={"cpu": EVIL},
        config={"train": {"steps": 3}},
        seconds_total=900.5,
        cpu_seconds=1600.0,
        peak_memory_bytes=4_000_000_000,
        counts={"documents": 10, "code_pairs": 20, "text_pairs": 30},
        stages=(
            StageRow(stage="extract", key="k1", digest="d1", n_in=10, n_out=7, dropped={EVIL: 3}, seconds=12.0),
            StageRow(stage="train", key="k2", digest="d2", seconds=600.0),
        ),
        funnel=(("documents", 10), ("pairs", 7)),
        training=tuple({"step": s, "loss": 5.0 / s, "temperature": 0.07, "gradient_norm": 1.0} for s in range(1, 60)),
        pace=({"step": 1, "pairs_per_second": 200.0}, {"step": 2, "pairs_per_second": 210.0}),
        evaluations=tuple(evaluations),
        differences=(
            {**difference, "baseline": "bm25", "mean": 0.06},
            {**difference, "baseline": "tfidf", "mean": 0.01, "low": -0.01},
        ),
        tasks={
            "test": {
                "tasks": {"code_search_1k": {"kind": "code_search", "n": 100, "candidates": 1000, "left_out": 7}},
                "skipped": {"similarity": "3 pieces, 10 are needed"},
            }
        },
        selection=SELECTION,
        searches=({"query": EVIL, "hits": [hit]},),
        negatives=({"score": 0.9, "positive_score": 0.8, "x": side, "y_right": side, "y_negative": side},),
        quarantine=(
            QuarantineReason(
                stage="extract",
                reason=EVIL,
                count=2,
                samples=({"source": EVIL, "path": EVIL, "offset": 4, "detail": EVIL},),
            ),
        ),
        verdicts=({"suite": EVIL, "rows": 7, "failed": 0},),
        near_twins={"test_functions": 100, "with_near_twin": 4, "share": 0.04, "jaccard": 0.7},
        contamination={EVIL: {"texts": 30, "texts_found": 2, "pairs": 5, "samples": [FOUND]}},
        export="store/export/x",
        index="store/index/y",
        notes=(EVIL,),
    )


class Tags(HTMLParser):
    """All tags with their attributes; complains about what is left open."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(path):
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser.tags


def test_the_page_tells_the_ids_that_trace_takes(tmp_path, data):
    page = write_report(tmp_path, data).read_text()
    assert page.count(f'title="cpt trace {PAIR_ID}">{PAIR_ID[:12]}</span>') == 4, "a hit and three sides of a negative"


def test_each_run_keeps_its_report_and_the_newest_stands_above(tmp_path, data):
    """The newest run's files under the name itself; an earlier run's in a folder of its own, unchanged; links both ways."""
    write_report(tmp_path, data)
    files = ["report.html", "report.json", "selection.png", "selection.svg"]
    (first,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert first.name.startswith("k2-") and sorted(path.name for path in first.iterdir()) == files
    kept = (first / "report.json").read_bytes()
    assert kept == (tmp_path / "report.json").read_bytes()
    stages = (data.stages[0], data.stages[1].model_copy(update={"key": "k3", "digest": "d3"}))
    write_report(tmp_path, data.model_copy(update={"stages": stages}))
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name[:3] for path in folders] == ["k2-", "k3-"] and (first / "report.json").read_bytes() == kept
    assert json.loads((tmp_path / "report.json").read_text())["lineage"]["train"]["key"] == "k3"


def test_pages_of_one_name_link_to_each_other(tmp_path, data):
    """The newest report and the pages of suites both ways, whichever is written later; each run's own report to both."""
    suites = tmp_path / "suites-test.html"
    suites.write_text("<p><!--pages--><!--/pages--></p>")
    for _ in range(2):
        page = write_report(tmp_path, data)
        (own,) = tmp_path.glob("*/report.html")
        links = [re.findall(r'href="([^#"]+)"', path.read_text()) for path in (page, own, suites)]
        assert links == [["suites-test.html"], ["../report.html", "../suites-test.html"], ["report.html"]]


def test_corpus_text_cannot_become_markup(tmp_path, data):
    page = write_report(tmp_path, data)
    tags = parsed(page)
    assert not {name for name, _ in tags} & {"script", "img", "iframe", "link", "object"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert page.read_text().count("&lt;script&gt;alert(") >= 15


def test_the_page_asks_nobody_for_anything(tmp_path, data):
    page = write_report(tmp_path, data)
    for _, attributes in parsed(page):
        assert "src" not in attributes
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "xlink:href"))
    assert not re.search(r"@import|url\((?!#)|https?://", page.read_text())


def test_report_json_has_the_keys_that_programs_read(tmp_path, data):
    write_report(tmp_path, data)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["commit"] == "abc123"
    search = report["test"]["code_search_1k"]
    assert search["model"]["mrr"] == 0.61
    assert {name: search["model"][name] for name in ("low", "high", "n")} == {"low": 0.59, "high": 0.63, "n": 100}
    assert search["model"]["recall@1"] == 0.5
    assert search["model"]["intervals"]["recall@1"] == {"low": 0.48, "high": 0.52}
    assert (search["bm25"]["mrr"], search["tfidf"]["mrr"]) == (0.55, 0.60)
    assert search["step-000200"] == search["model"]
    expected = {"metric": "mrr", "mean": 0.06, "low": 0.02, "high": 0.1, "n": 100}
    assert search["model_minus_bm25"] == expected
    assert search["candidates"] == 1000
    assert report["validation"]["code_search_1k"]["step-000100"]["mrr"] == 0.5
    assert report["seconds"] == {"extract": 12.0, "train": 600.0, "total": 900.5}
    assert (report["cpu_seconds"], report["peak_memory_bytes"]) == (1600.0, 4_000_000_000)
    assert report["counts"] == {"documents": 10, "code_pairs": 20, "text_pairs": 30}
    assert report["lineage"]["train"]["key"] == "k2"
    assert (report["export"], report["index"]) == ("store/export/x", "store/index/y")
    assert report["selection"]["chosen"] == "step-000200"
    assert report["skipped"]["test"] == {"similarity": "3 pieces, 10 are needed"}
    assert report["near_twins"]["with_near_twin"] == 4
    assert report["contamination"][EVIL]["pairs"] == 5


def test_what_was_found_of_each_evaluation_suite_is_said(tmp_path, data):
    page = write_report(tmp_path, data).read_text()
    assert "Evaluation texts in the dump" in page
    assert (
        "Evaluation texts in the dump" not in write_report(tmp_path, data.model_copy(update={"contamination": {}})).read_text()
    )


def test_the_page_says_where_a_larger_batch_stops_paying(tmp_path, data):
    """The curve and its table where they were measured, the command where not, nothing without a run."""
    curve = [(16, 0.5, 3.28, None), (32, 0.7, 3.99, 0.71), (64, 1.1, 4.41, 0.42)]
    rows = [dict(zip(("pairs", "loss", "bits", "gain"), row, strict=True)) for row in curve]
    measured = {"run": "k2/step-000200", "noise_scale": 3561.0, "curve": rows, "sentence": "pays so far"}
    page = write_report(tmp_path, data.model_copy(update={"batch": measured}))
    parsed(page)
    text = page.read_text()
    assert "Pays so far." in text and '<td class="number">0.71</td>' in text and "cpt plan demo --run k2/step-000200" in text
    assert "log2(batch) 6: 1.10" in text, "the last point of the chart"
    assert json.loads((tmp_path / "report.json").read_text())["batch"]["curve"][2]["loss"] == 1.1
    text = write_report(
        tmp_path, data.model_copy(update={"batch": {"run": "k2/step-000200", "why": "the model is large", "elsewhere": True}})
    ).read_text()
    assert "Not measured here: the model is large." in text and "cpt plan demo --run k2/step-000200" in text
    assert "a larger batch" not in write_report(tmp_path, data).read_text()
    few = {"run": "k2/step-000200", "why": "the training split has fewer pairs than a batch of 2,048 takes"}
    text = write_report(tmp_path, data.model_copy(update={"batch": few})).read_text()
    assert "fewer pairs" in text and "cpt plan" not in text, "another measurement has no more pairs"


@pytest.mark.parametrize(
    "source, unit, said",
    [
        (SourceConfig(), "group", "Measured on packages of which nothing was seen in training."),
        (SourceConfig(folder="mine"), "group", "Measured on top-level folders of which nothing was seen in training."),
        (SourceConfig(dump="mine.yaml"), "group", "Measured on groups of which nothing was seen in training."),
        (SourceConfig(folder="mine"), "document", "Measured on documents that training did not see."),
    ],
)
def test_the_page_names_what_was_held_out(tmp_path, data, source, unit, said):
    held_out = HeldOut.of({"split_unit": unit, "split_reason": "1 groups"}, source)
    evaluations = (*data.evaluations, figure("step-000200", 200, "test", "classification", 0.4))
    page = write_report(tmp_path, data.model_copy(update={"held_out": held_out, "evaluations": evaluations})).read_text()
    assert said in page
    assert ("package" in page.replace("package_of_prose", "").replace("package of prose", "")) == (
        not (source.folder or source.dump)
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["held_out"]["unit"] == unit and report["held_out"]["units"] in said


def test_a_stage_that_was_there_costs_this_run_nothing(tmp_path, data, store):
    made = store.build(Stage(name="extract", version=1), SourceConfig(), {}, lambda key: Outcome(parts=()))
    began_at = json.loads(made.note("run.json"))["started_at"]
    rows = [StageRow.of(made, began_at=at).model_copy(update={"seconds": 12.0}) for at in (0.0, began_at, began_at + 1)]
    assert [row.reused for row in rows] == [False, False, True]
    page = write_report(tmp_path, data.model_copy(update={"stages": (rows[2], data.stages[1])})).read_text()
    assert page.count("found done</span>") == 1 and "no part of its costs" in page
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seconds"] == {"extract": 0.0, "train": 600.0, "total": 900.5}
    assert report["lineage"]["extract"]["seconds"] == 12.0


def test_losses_stand_at_the_head_where_there_are_any(data):
    counts = {"documents": 9, "texts": 7, "files": 7, "lost_bytes": 0, "refused_texts": 0}
    head = [name for name, _ in _stats(data.model_copy(update={"counts": counts}))]
    assert head[:2] == ["documents", "files"] and not {"texts", "lost bytes", "refused texts"} & set(head)
    lost = dict(_stats(data.model_copy(update={"counts": counts | {"files": 2, "lost_bytes": 183_933}})))
    assert lost["texts"] == "7" and lost["lost bytes"] == "184 kB"


def test_what_was_left_out_is_said(tmp_path, data):
    page = write_report(tmp_path, data).read_text()
    assert "7 rows of the incomplete last batch of 1,000 candidates" in page
    assert "Similarity: 3 pieces, 10 are needed" in page


def test_the_curves_of_the_selection_are_pictures_too(tmp_path, data):
    """The same bytes each time; a kind that was not measured is left out."""
    for name in ("a", "b"):
        write_report(tmp_path / name, data)
    first, second = ([(tmp_path / name / f"selection.{kind}").read_bytes() for kind in ("png", "svg")] for name in ("a", "b"))
    assert first == second and first[0].startswith(b"\x89PNG")
    drawn = first[1].decode()
    assert "code search: best 0.600, weight 0.70" in drawn and "chosen: step-000200" in drawn
    assert "similarity" not in drawn and "http" not in drawn.split("<defs>", 1)[1]


def test_an_empty_run_still_has_a_report(tmp_path):
    page = write_report(tmp_path, ReportData(name="nothing"))
    parsed(page)
    assert json.loads((tmp_path / "report.json").read_text())["test"] == {}


def test_the_language_model_that_a_run_began_from_stands_beside_unigrams_and_is_called_what_it_is(tmp_path, data):
    figures = {"loss": 7.56, "perplexity": 1919.8, "unigram_entropy": 7.22, "bits_per_byte": 3.1, "unigram_bits_per_byte": 2.9}
    told = {"tokens": 1000, "sentence": f"held-out {EVIL}", "warning": "this is no language model: its loss"}
    page = write_report(tmp_path, data.model_copy(update={"language_model": figures | told}))
    text = page.read_text()
    parsed(page)
    assert json.loads((tmp_path / "report.json").read_text())["language_model"] == figures | told
    section = text[text.index('id="language-model"') :].split("</section>")[0]
    assert "This is no language model: its loss." in section and "Held-out" in section
    assert [*re.findall(r'<td class="number">([\d.]+)</td>', section)] == ["7.560", "7.220", "3.100", "2.900"]
    assert "language-model" not in write_report(tmp_path / "without", data).read_text()


def test_figures_that_are_not_finite_are_null_in_json_and_break_no_chart(tmp_path, data):
    rows = ({"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": float("inf")})
    page = write_report(tmp_path, data.model_copy(update={"training": rows}))
    parsed(page)
    assert json.loads((tmp_path / "report.json").read_text())["training"]["last"]["loss"] is None
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", page.read_text(), re.S)).lower()


def test_equal_data_gives_equal_bytes(tmp_path, data):
    pages = [write_report(tmp_path / name, data).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_without_a_selection_the_last_checkpoint_is_reported(data):
    bare = data.model_copy(update={"selection": {}})
    assert bare.chosen == "step-000200"
    assert ReportData(name="none").chosen == ""


def test_the_table_for_terminals(data):
    (row,) = results_table(data.evaluations, data.differences, "step-000200")
    assert row == {
        "task": "code_search_1k",
        "metric": "mrr",
        "n": "100",
        "model": "0.610 [0.590, 0.630]",
        "BM25": "0.550",
        "TF-IDF": "0.600",
        "difference": "+0.010 [-0.010, +0.100] vs tfidf",
    }


def with_hybrid(data):
    """The same with vectors and BM25 fused on the test's searches."""
    [of_model] = [row for row in data.differences if row["baseline"] == "bm25"]
    gained = [of_model | {"model": "hybrid", "baseline": name, "mean": 0.03} for name in ("step-000200", "bm25", "tfidf")]
    evaluations = (*data.evaluations, figure("hybrid", -1, "test", "code_search", 0.64))
    return data.model_copy(update={"evaluations": evaluations, "differences": (*data.differences, *gained)})


def test_what_is_fused_stands_beside_both(tmp_path, data, tab):
    page = write_report(tmp_path, with_hybrid(data))
    search = json.loads((tmp_path / "report.json").read_text())["test"]["code_search_1k"]
    assert search["hybrid"]["mrr"] == 0.64 and search["model"]["mrr"] == 0.61
    assert {name for name in search if name.startswith("hybrid_minus")} == {
        "hybrid_minus_model", "hybrid_minus_bm25", "hybrid_minus_tfidf",
    }  # fmt: skip
    text = page.read_text()
    assert text.count("vectors + BM25") >= 3 and "vs vectors" in text and 'class="fill hybrid"' in text
    [row] = results_table(with_hybrid(data).evaluations, (), "step-000200")
    assert row["vectors + BM25"] == "0.640"
    assert too_wide(tab, page) == []


def test_the_page_fits_every_width(tmp_path, data, tab):
    long = "https://example.org/" + "a_name_that_has_no_place_to_break/" * 6
    hit = data.searches[0]["hits"][0] | {"doc": long, "name": long, "path": long}
    page = write_report(tmp_path, data.model_copy(update={"searches": ({"query": long, "hits": [hit]},)}))
    assert too_wide(tab, page) == []


def test_quality_by_dimensions_is_a_table_and_a_plot(tmp_path, data):
    assert 'id="dimensions"' not in written_page(tmp_path / "without", data)
    figure = {"metric": "mrr", "low": 0.1, "high": 0.9}
    rows = tuple(
        {"dim": dim, "index_bytes": 4000 * dim, "kinds": {"code_search": {**figure, "value": value}}}
        for dim, value in ((8, 0.21), (64, 0.43), (256, 0.52))
    )
    config = {**data.config, "export": {"truncate_dim": 64}}
    with_rows = data.model_copy(update={"dimensions": rows, "config": config})
    page = written_page(tmp_path / "with", with_rows)
    assert page.count("<svg") > 0 and "Code search by dimensions" in page
    assert "256 kB" in page and "0.430" in page and "Published are the first 64 dimensions" in page
    assert report_json(with_rows)["dimensions"] == list(rows)


def written_page(folder, data):
    write_report(folder, data)
    return (folder / "report.html").read_text(encoding="utf-8")
