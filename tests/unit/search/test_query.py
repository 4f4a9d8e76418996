"""Search finds what was planted, exactly and by kind, and refuses whatever does not add up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from exported_models import Exported
from typer.testing import CliRunner

from flows.cli.commands import app
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index import verified
from pipeline_lib.index.index import build_index
from pipeline_lib.search.hits import render_json, render_text
from pipeline_lib.search.query import FollowingSearcher, Searcher, search
from pipeline_lib.search.registry import Candidate, in_use, promote, rollback, set_default
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.store import Store

Make = Callable[..., Artifact]
CODE_PAIRS = [("code", "docstring", "close the socket quietly", "def close(sock):\n    sock.close()\n    return None")] * 3


def build(store: Store, exported: Artifact, curated: Artifact, config: IndexConfig = IndexConfig()) -> Artifact:  # noqa: B008
    return build_index(store, exported, curated, config, Exported(exported))


@pytest.fixture
def home(store: Store, curate: Make, export_model: Make) -> Path:
    exported = export_model()
    promote(store.root, "planted", Candidate(exported, build(store, exported, curate())))
    return store.root


def test_the_right_text_is_first_when_its_own_vector_is_asked_for(home: Path) -> None:
    searcher = Searcher(in_use(home))
    body = "def parse_date(text):\n    return text.split('-')"
    [hit] = searcher.nearest(searcher.encoder.embed([body], "document"), None, 1)
    assert (hit.rank, hit.name, hit.line, hit.doc) == (1, "planted.code_0", 10, "parse an iso date from a string")
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_hits_are_ranked_and_as_many_as_there_are(home: Path) -> None:
    hits = search(home, "read a file", k=100)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize(("probes", "visited"), [(1, 1), (2, 2), (64, 3)])
def test_an_index_of_inverted_lists_is_searched_in_so_many(
    store: Store, curate: Make, export_model: Make, probes: int, visited: int
) -> None:
    exported = export_model()
    promote(
        store.root,
        "planted",
        Candidate(exported, build(store, exported, curate(), IndexConfig(factory="IVF3,Flat", probes=probes, least_recall=0))),
    )
    assert Searcher(in_use(store.root)).index.effort.probes == visited


def test_agrees_with_brute_force(home: Path) -> None:
    searcher = Searcher(in_use(home))
    query_1D = searcher.encoder.embed(["close it"], "query")
    scores_N = (searcher.index.reconstruct_n(0, 6) @ query_1D[0]).tolist()
    hits = search(home, "close it", k=6)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores_N, reverse=True), abs=1e-5)


@pytest.mark.parametrize("kind", ["code", "text"])
def test_kind_takes_only_that_kind_and_all_of_it(home: Path, kind: str) -> None:
    both = [hit.name for hit in search(home, "socket", k=6) if hit.kind == kind]
    for k in (1, 2, 3, 50):
        hits = search(home, "socket", kind=kind, k=k)
        assert [hit.name for hit in hits] == both[:k]
        assert [hit.rank for hit in hits] == list(range(1, min(k, 3) + 1))


def test_wrong_requests_are_answered_in_one_line(home: Path, tmp_path: Path) -> None:
    for wrong, words in (
        ({"query": " "}, "query is empty"),
        ({"query": "x", "kind": "image"}, "choose one of: code, text"),
        ({"query": "x", "k": 0}, "expected 1 or more"),
    ):
        with pytest.raises(UserError, match=words) as error:
            search(home, **wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="run `make demo`") as error:
        search(tmp_path / "elsewhere", "x")
    assert "\n" not in str(error.value)


def test_vectors_that_are_no_numbers_are_refused(home: Path) -> None:
    searcher = Searcher(in_use(home))
    for vector in (np.full((1, 16), np.nan, np.float32), np.zeros((1, 8), np.float32)):
        with pytest.raises(UserError, match="finite numbers"):
            searcher.nearest(vector, None, 3)


def test_lone_surrogates_from_a_shell_are_taken(home: Path) -> None:
    assert len(search(home, "caf\udce9", k=2)) == 2


def test_delimiters_in_the_query_stay_text(home: Path) -> None:
    encoder = Searcher(in_use(home)).encoder
    [ids] = encoder.token_ids(["<y close> } ] <x close>"], "query")
    reserved = {encoder.settings[side][end] for side in ("query", "document") for end in ("open_id", "close_id")}
    assert not reserved & set(ids[1:-1])
    [long] = encoder.token_ids(["word " * 500], "query")
    assert (len(long), long[-1]) == (24, encoder.settings["query"]["close_id"])


def test_batches_do_not_change_vectors_or_their_order(home: Path) -> None:
    encoder = Searcher(in_use(home)).encoder
    texts = ["a b c d e f g h", "", "x", "pear plum " * 30, "apple"]
    alone = np.concatenate([encoder.embed([text], "document") for text in texts])
    np.testing.assert_allclose(encoder.embed(texts, "document", batch_tokens=20), alone, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["model:model.onnx", "model:query/tokenizer.json", "index:rows.arrow", "index:index.faiss", "index:index.json"]
)
def test_a_flipped_byte_is_refused(home: Path, name: str) -> None:
    which, _, file = name.partition(":")
    path = getattr(in_use(home), which) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match="sha256"):
        search(home, "x")


@pytest.mark.parametrize(
    "change", [{"code": None}, {"effort": {"leaps": 3}}, {"bm25": {}}, {"fusion": {"kinds": {"code": {}}}}]
)
def test_an_index_that_another_version_wrote_is_told_of(home: Path, change: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.search.query.check_files", lambda *_: None)  # its bytes are those that were written
    path = in_use(home).index / "index.json"
    facts = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    with pytest.raises(CorruptArtifact, match=r"this version cannot open it \(\w+: .*cpt publish"):
        search(home, "x")
    path.write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(UserError, match=r"an index of version 99, this program reads up to 2; install a newer one"):
        search(home, "x")


def test_a_truncated_and_a_missing_file_are_refused(home: Path) -> None:
    path = in_use(home).index / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match="sha256"):
        search(home, "x")
    path.unlink()
    with pytest.raises(CorruptArtifact, match="no file"):
        search(home, "x")


def test_faiss_never_sees_an_edited_index(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    index_folder = in_use(home).index
    record_path = index_folder.parent / f"{index_folder.name.rpartition('-')[0]}.json"
    record = json.loads(record_path.read_text())
    record["files"][0]["sha256"] = "0" * 64
    record_path.write_text(json.dumps(record))
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss was called"))
    with pytest.raises(CorruptArtifact, match="adds up to"):
        search(home, "x")


def test_another_models_index_is_refused(store: Store, curate: Make, export_model: Make) -> None:
    first, second, curated = export_model(0), export_model(1), curate()
    indexed = build(store, first, curated)
    with pytest.raises(UserError, match="made by model"):
        promote(store.root, "mixed", Candidate(second, indexed))
    promote(store.root, "right", Candidate(first, indexed))
    path = store.root / "registry" / "right" / "champion.json"
    record = json.loads(path.read_text())
    record["pair"]["model"] = second.part_folder().relative_to(store.root).as_posix()
    record["pair"]["model_digest"] = second.digest
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptArtifact, match="made by model"):
        search(store.root, "x")


def test_promoting_again_swaps_the_pair(home: Path, store: Store, curate: Make, export_model: Make) -> None:
    before = in_use(home)
    exported = export_model(1)
    after = promote(home, "planted", Candidate(exported, build(store, exported, curate())))
    assert after == in_use(home)
    assert (after.name, after.model_digest) == ("planted", exported.digest)
    assert before.model_digest != after.model_digest


def test_the_home_may_be_moved(home: Path, tmp_path: Path) -> None:
    expected = search(home, "apples", k=3)
    shutil.move(home, tmp_path / "moved")
    assert search(tmp_path / "moved", "apples", k=3) == expected


def test_its_digest_is_the_artifact_stores() -> None:
    value = [("ä", {"b": 1, "a": [1, None]})]
    assert verified._digest(value) == digest_of(value)


def test_json_and_text_say_the_same(home: Path) -> None:
    hits = search(home, "größe", k=2)
    answer = json.loads(render_json("größe", hits))
    assert answer["query"] == "größe"
    fields = ["rank", "score", "kind", "name", "path", "line", "doc", "id", "language", "package", "licence", "signature"]
    assert list(answer["hits"][0]) == [*fields, "snippet", "marks"]
    for hit in hits:
        assert f"{hit.path}:{hit.line}  {hit.id[:12]}\n" in render_text(hits) and len(hit.id) == 32
    assert render_text([]) == "nothing found"


def test_the_terminal_says_that_nothing_was_found(
    store: Store, curate: Make, export_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_model()
    promote(store.root, "code-alone", Candidate(exported, build(store, exported, curate(CODE_PAIRS))))
    monkeypatch.setenv("CPT_HOME", str(store.root))
    found, none, as_json = (
        CliRunner().invoke(app, ["search", "close it", "--kind", *words])
        for words in (["code", "-k", "1"], ["text"], ["text", "--json"])
    )
    assert found.exit_code == none.exit_code == as_json.exit_code == 0
    assert found.output.startswith("  1  0.") and found.output.count("\n") == 6
    assert none.output == "nothing found: the index holds no text\n"
    assert json.loads(as_json.output) == {"query": "close it", "hits": []}


def test_a_search_imports_no_heavy_library(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline_lib.search.query import search\n"
        f"hits = search(Path({str(home)!r}), 'apples', None, 3)\n"
        "heavy = {'torch', 'transformers', 'prefect', 'great_expectations', 'pydantic', 'pandas', 'sklearn', 'onnx'}\n"
        "print(len(hits), sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert answer.stdout.strip() == "3 []", answer.stderr


def test_a_searcher_follows_promotions_and_no_query_fails(home: Path, store: Store, curate: Make, export_model: Make) -> None:
    made = [Candidate(exported, build(store, exported, curate())) for exported in (export_model(1), export_model(2))]
    searcher, stop, answered = FollowingSearcher(home, "planted"), threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answered.append(searcher.search("apples", k=3))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for number in range(6):
                now = promote(home, "planted", made[number % 2])
            now = rollback(home, "planted")
            deadline = time.monotonic() + 60
            while searcher.searcher().current.model_digest != now.model_digest and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert searcher.searcher().current.model_digest == now.model_digest == made[0].exported.digest
    assert len(answered) > 3 and all(len(hits) == 3 for hits in answered)
    assert searcher.search("apples") == search(home, "apples", name="planted")


def test_a_searcher_without_a_name_follows_the_default(home: Path, store: Store, curate: Make, export_model: Make) -> None:
    searcher = FollowingSearcher(home)
    exported = export_model(1)
    set_default(home, "planted")
    promote(home, "other", Candidate(exported, build(store, exported, curate())))
    assert searcher.searcher().current.name == "planted"
    set_default(home, "other")
    assert searcher.searcher().current.name == "other" and searcher.search("apples", k=1)


def test_a_pair_that_cannot_be_opened_is_left_alone(
    home: Path,
    store: Store,
    curate: Make,
    export_model: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searcher, exported = FollowingSearcher(home, "planted"), export_model(1)
    expected = searcher.search("apples")
    made = promote(home, "planted", Candidate(exported, build(store, exported, curate())))
    good = (made.index / "rows.arrow").read_bytes()
    (made.index / "rows.arrow").write_bytes(good[:-1])
    assert searcher.search("apples") == expected and "sha256" in caplog.text
    (made.index / "rows.arrow").write_bytes(good)
    monkeypatch.setattr(searcher, "_look_at", 0.0)
    assert searcher.search("apples") == search(home, "apples") and searcher.searcher().current == made


def test_the_terminal_searches_by_name_and_goes_back(
    home: Path, store: Store, curate: Make, export_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_model(1)
    promote(home, "other", Candidate(exported, build(store, exported, curate()), "b" * 24, "step-000002"))
    promote(home, "planted", Candidate(exported, build(store, exported, curate()), "c" * 24, "step-000003"))
    monkeypatch.setenv("CPT_HOME", str(home))
    run = CliRunner()
    several = run.invoke(app, ["search", "apples"])
    assert isinstance(several.exception, UserError) and "--name: other, planted" in str(several.exception)
    found = run.invoke(app, ["search", "apples", "--json", "--name", "other"])
    assert json.loads(found.output)["hits"] == json.loads(render_json("apples", search(home, "apples", name="other")))["hits"]
    nobody = run.invoke(app, ["rollback", "--name", "nobody", "--list"])
    assert isinstance(nobody.exception, UserError) and "'nobody'" in str(nobody.exception)
    shown = run.invoke(app, ["rollback", "--name", "planted", "--list"]).output.splitlines()
    assert [line.split()[-2:] for line in shown] == [["promoted", "/"], ["promoted", "cccccccc/step-000003"]]
    assert shown[1].startswith("*")
    back = run.invoke(app, ["rollback", "--name", "planted", "--reason", "worse"])
    assert back.exit_code == 0 and "in place of cccccccc/step-000003 (event 3)" in back.output
    assert in_use(home, "planted").event == 3 and in_use(home, "other").trained == "b" * 24


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat", "ivf_pq", "sq8", "binary"])
def test_every_kind_is_searched_and_each_of_its_bytes_verified(
    kind: str, store: Store, curate: Make, export_model: Make, tmp_path: Path
) -> None:
    exported = export_model()
    made = build(store, exported, curate(), IndexConfig(kind=kind, workers=1, least_recall=0))
    promote(store.root, "planted", Candidate(exported, made))
    flat = build(Store(tmp_path / "flat"), exported, curate())
    promote(tmp_path / "flat", "planted", Candidate(exported, flat))
    hits, exact = search(store.root, "close it", k=6), search(tmp_path / "flat", "close it", k=6)
    assert [hit.id for hit in hits] == [hit.id for hit in exact]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in exact], abs=2e-3)
    files = json.loads((made.part_folder() / "index.json").read_text())["files"]
    assert "index.faiss" in files and len(files) == {"hnsw": 1, "ivf_flat": 2, "ivf_pq": 4}.get(kind, 3)
    for name in files:
        path = made.part_folder() / name
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptArtifact, match=name.replace(".", r"\.")):
            search(store.root, "close it", k=6)
        path.write_bytes(whole)
