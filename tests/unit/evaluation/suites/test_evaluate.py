"""A suite run as an artifact: found done, compared by pairs, refused where the split is another."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import suites
from pipeline_lib.evaluation.metrics import differences, read_evaluations, read_queries
from pipeline_lib.evaluation.suites import registry
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.registry import FAMILIES, GROUPS, OPENERS, SUITES, open_model, open_suite, suite_names
from pipeline_lib.store.store import Store


@pytest.fixture
def sts_b(put, data, config):
    rows = [
        f"main-{n % 2}\tf\ty\ti\t{n % 6}\tred cat number {n}\t{'red cat' if n % 3 else 'blue dog'} number {n}"
        for n in range(40)
    ]
    put("STS/STSBenchmark/sts-test.csv", "\n".join(rows))
    return open_suite("sts-b", data, config)


def test_an_artifact_holds_figures_and_what_is_behind_them(store: Store, sts_b, encoder):
    artifact = evaluate_suite(store, encoder, sts_b, "test")
    rows = read_evaluations([artifact])
    assert {(row["model"], row["split"], row["kind"]) for row in rows} == {("words", "test", "similarity")}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    facts = artifact.manifest.facts
    assert facts["tasks"]["sts-b"] == {"kind": "similarity", "primary": "spearman", "n": 40} and facts["headline"] == "sts-b"
    queries = read_queries(artifact)
    assert set(queries) == {("words", "sts-b"), ("words", "sts-b:main-0"), ("words", "sts-b:main-1")}
    assert len(queries["words", "sts-b"].ids) == 40 and queries["words", "sts-b"].metric == "spearman"
    assert read_queries(artifact, "pearson")["words", "sts-b"].metric == "pearson"


def test_a_second_run_is_found_done_and_a_changed_file_is_not(store, sts_b, encoder, put):
    first = evaluate_suite(store, encoder, sts_b, "test")
    asked = len(encoder.asked)
    assert evaluate_suite(store, encoder, sts_b, "test").manifest.key == first.manifest.key and len(encoder.asked) == asked
    content = sts_b.paths("test")[0].read_text()
    put("STS/STSBenchmark/sts-test.csv", content + "\nmain-0\tf\ty\ti\t3\tone more\tpair\n")
    second = evaluate_suite(store, encoder, sts_b, "test")
    assert second.manifest.key != first.manifest.key
    assert len(encoder.asked) == asked + 2  # the cache knew all others


def test_two_models_compare_on_the_same_pairs(store, sts_b, encoder):
    mine = evaluate_suite(store, encoder, sts_b, "test")
    theirs = evaluate_suite(store, open_model("tfidf"), sts_b, "test")
    rows = {row["task"]: row for row in differences([mine], [theirs], resamples=50)}
    assert rows["sts-b"]["metric"] == "spearman" and rows["sts-b"]["n"] == 40
    by_model = {
        row["model"]: row["value"]
        for row in read_evaluations([mine, theirs])
        if row["task"] == "sts-b" and row["metric"] == "spearman"
    }
    assert rows["sts-b"]["mean"] == pytest.approx(by_model["words"] - by_model["tfidf"])


def test_a_split_that_a_suite_has_not_is_refused(store, sts_b, encoder, data, config):
    with pytest.raises(UserError, match=r"sts12 has no split 'validation'; it has: test"):
        evaluate_suite(store, encoder, open_suite("sts12", data, config), "validation")


def test_names_and_groups(data, config):
    assert suite_names(["sts-b", "similarity"])[0] == "sts-b" and len(suite_names(["sts-b", "similarity"])) == len(
        GROUPS["similarity"]
    )
    with pytest.raises(UserError, match=r"no suite 'sts99'; the nearest are sts.*beir/FOLDER.*evaluation.md"):
        suite_names(["sts99"])
    families = [f"{family}/sst2" for family in FAMILIES]  # a folder may be called like a suite
    assert [open_suite(name, data, config).name for name in families] == families
    for name in ("beir", "probe/"):  # a family is no suite without a folder
        with pytest.raises(UserError, match=rf"no suite '{name}'; the nearest are .*{name.strip(chr(47))}.*beir/FOLDER.*"):
            open_suite(name, data, config)
    assert {name: open_suite(name, data, config).name for name in SUITES} == {name: name for name in SUITES}
    with pytest.raises(UserError, match="no model 'bert'"):
        open_model("bert")
    assert {name: open_model(name).id.name for name in OPENERS} == {name: name for name in OPENERS}


def test_an_embedding_that_is_not_finite_is_named_by_suite_model_and_text(store, sts_b, encoder):
    whole = encoder.embed

    def spoilt(texts, side="x"):
        vectors_ND = np.array(whole(texts, side))
        vectors_ND[[text == "blue dog number 6" for text in texts]] = np.nan
        return vectors_ND

    encoder.embed = spoilt
    with pytest.raises(UserError, match=r"^sts-b, test: words: the embedding of row \d+, 'blue dog number 6', and 0 more"):
        evaluate_suite(store, encoder, sts_b, "test")
    with pytest.raises(UserError, match=r"^words: the embedding on the x side of row 46, 'blue dog number 6'"):
        sts_b.run(encoder, "test")


def test_a_figure_that_is_not_finite_is_named_by_model_and_task(store, sts_b, encoder, monkeypatch):
    monkeypatch.setattr("pipeline_lib.evaluation.suites.similarity.pair_similarity", lambda *_: np.full(40, np.nan))
    with pytest.raises(UserError, match=r"^words on sts-b: spearman's value of row 0, 'test-1', and 39 more of 40 are not fin"):
        evaluate_suite(store, encoder, sts_b, "test")


A_SUITE = '''
from pathlib import Path

import numpy as np

from pipeline_lib.evaluation.metrics import mean_interval
from pipeline_lib.evaluation.suites.models import pair_similarity
from pipeline_lib.evaluation.suites.suite import Figure, Suite, SuiteResult


class Echo(Suite):
    """A text is most like itself."""

    name, kind, splits = "echo", "similarity", ("test",)

    def paths(self, split):
        return (self.data / "echo.txt",)

    def texts(self, split):
        return iter(())

    def run(self, model, split, progress=None):
        texts = self.paths(split)[0].read_text().split()
        values = pair_similarity(model, texts, texts)
        return SuiteResult((Figure(self.task, "cosine", mean_interval(values, 50, 1), texts, values),))


SUITES = {"echo": Echo}
GROUPS = {"echoes": ("echo",)}
'''


def test_a_suite_is_one_file_that_registers_itself(store, tmp_path, put, data, config, encoder, monkeypatch):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "echo.py").write_text(A_SUITE)
    put("echo.txt", "red blue green")
    monkeypatch.setattr(suites, "__path__", [*suites.__path__, str(tmp_path / "more")])
    for name, table in zip(("SUITES", "FAMILIES", "GROUPS"), registry.find_suites(), strict=True):
        monkeypatch.setattr(registry, name, table)
    assert suite_names(["echoes"]) == ["echo"] and "echo" in suite_names(["all"])
    (row,) = read_evaluations([evaluate_suite(store, encoder, open_suite("echo", data, config), "test")])
    assert (row["task"], row["metric"], row["n"]) == ("echo", "cosine", 3) and row["value"] == pytest.approx(1.0)
