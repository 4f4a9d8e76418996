"""`cpt search` at a terminal and in a pipe: filters, a place as the query, explanations, batches."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import write_artifact, write_pairs
from exported_models import Exported
from typer.testing import CliRunner

from data_contracts.schemas import INDEX_ROWS
from flows.cli.commands import app
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.index import build_index
from pipeline_lib.search.hits import Hit, render_json, render_text, visible
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate, in_use, promote
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

Make = Callable[..., Artifact]
BODY = "def close(sock):\n    sock.close()\n    return None"


@pytest.fixture
def home(store: Store, curate: Make, export_model: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    exported = export_model()
    indexed = build_index(store, exported, curate(), IndexConfig(), Exported(exported))
    promote(store.root, "planted", Candidate(exported, indexed, "a" * 24, "step-000002"))
    monkeypatch.setenv("CPT_HOME", str(store.root))
    return store.root


def asked(*words: str) -> str:
    answer = CliRunner().invoke(app, ["search", *words])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def names(*words: str) -> list[str]:
    return [hit["name"] for hit in json.loads(asked(*words, "--json"))["hits"]]


@pytest.mark.usefixtures("home")
def test_filters_leave_only_what_passes() -> None:
    every = names("close it")
    assert len(every) == 6
    assert names("close it", "--language", "en") == [name for name in every if "text" in name]
    assert names("close it", "--path", "*code_1*") == ["planted.code_1"]
    assert names("close it", "--package", "PLANTED", "--license", "none") == every
    assert names("close it", "--language", "python", "--kind", "text") == []
    assert (
        asked("close it", "--language", "python", "--kind", "text") == "nothing found: no row of the index passes all filters\n"
    )
    with pytest.raises(UserError, match=r"language .pythn.*the nearest are python"):
        asked("close it", "--language", "pythn")


@pytest.mark.usefixtures("home")
def test_a_hit_has_signature_snippet_and_where_it_is_from() -> None:
    [hit] = json.loads(asked("close the sock", "--path", "*code_1*", "--json"))["hits"]
    assert hit["signature"] == "def close(sock)" and (hit["language"], hit["package"], hit["licence"]) == (
        "python",
        "planted",
        "",
    )
    assert [hit["snippet"][start:end] for start, end in hit["marks"]][:2] == ["close", "sock"] and "explain" not in hit
    text = asked("sock", "--path", "*code_1*").splitlines()
    assert [line.strip() for line in text[2:]] == ["def close(sock)", "close the socket quietly", "sock.close()", "return None"]
    passages = json.loads(asked("pears", "--kind", "text", "--json"))["hits"]
    marked = [hit["snippet"][start:end] for hit in passages for start, end in hit["marks"]]
    assert {hit["signature"] for hit in passages} == {""} and marked == ["pears"]


def test_a_place_of_a_file_is_the_query(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "sockets.py"
    file.write_text(f"import os\n\n\n{BODY}\n")
    answer = json.loads(asked("--like", f"{file}:5", "--json", "-k", "1"))
    assert answer["hits"][0]["name"] == "planted.code_1" and answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    of_index = json.loads(asked("--like", "planted/code_1.py:400", "--json", "-k", "1"))
    assert of_index["hits"][0]["name"] == "planted.code_1"
    with pytest.raises(UserError, match="no such file on this machine, and the index has no such path"):
        asked("--like", "elsewhere.py:1")
    for wrong in ("file.py", "file.py:", ":3", "file.py:0", "file.py:x", "file.py:-1", "file.py:" + "9" * 5000):
        with pytest.raises(UserError, match="expected FILE:LINE"):
            asked("--like", wrong)
    for nowhere in ("x" * 5000, f"{file}/under.py", "planted", "./planted/", "\udcff"):  # of folders any text would be one
        with pytest.raises(UserError, match="no such file on this machine, and the index has no such path"):
            asked("--like", f"{nowhere}:1")
    (in_use(home).model / "document" / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"document.tokenizer\.json"):
        asked("--like", f"{file}:5")


def test_an_explanation_says_ranks_origin_and_neighbours(home: Path, store: Store) -> None:
    [curated] = store.artifacts("curate")
    extracted = write_pairs(
        Store(home / "store"), "extract", {"bundle": pq.read_table(curated.paths("pairs.parquet")[0]).to_pylist()}
    )
    hits = json.loads(asked("close it", "--explain", "--json", "--mode", "vectors"))["hits"]
    assert [hit["explain"]["vector"]["rank"] for hit in hits] == [hit["rank"] for hit in hits]
    of_words = {hit["name"]: hit["explain"]["bm25"] for hit in hits}
    assert of_words["planted.code_1"]["rank"] == 1 and of_words["planted.code_1"]["score"] > 0
    lineages = [hit["explain"]["lineage"] for hit in hits]
    assert {lineage["source"] for lineage in lineages} == {"planted 1.0"}
    assert [lineage["line"] for lineage in lineages] == [str(hit["line"]) for hit in hits]
    traced = [lineage["extracted"] for lineage in lineages if "extracted" in lineage]
    assert traced == [f"extract/{extracted.manifest.key}, part bundle"] * len(traced) and traced
    lineage = lineages[0]
    assert lineage["run"] == "a" * 24 + "/step-000002" and in_use(home).model_digest[:12] in lineage["model"]
    near = hits[0]["explain"]["neighbours"]
    assert len(near) == 3 and hits[0]["id"] not in [one["id"] for one in near]
    searcher = Searcher(in_use(home))
    body = searcher.texts.of([0])[0][1]
    expected = [hit.id for hit in searcher.nearest(searcher.encoder.embed([body], "document"), None, 4)][1:]
    first = next(hit for hit in hits if hit["id"] == searcher.ids([0])[0])
    assert [one["id"] for one in first["explain"]["neighbours"]] == expected
    assert "near:" in asked("close it", "--explain", "-k", "1") and "vector: rank 1" in asked(
        "close it", "--explain", "-k", "1"
    )


def test_a_batch_is_a_run_file(home: Path, tmp_path: Path) -> None:
    queries, out = tmp_path / "queries.tsv", tmp_path / "run.txt"
    queries.write_text('q1\tclose it\n{"id": "q2", "text": "apples"}\nbroken\n')
    answer = CliRunner().invoke(app, ["search", "--batch", str(queries), "--out", str(out), "-k", "3", "--tag", "mine"])
    assert answer.exit_code == 0 and answer.stdout == ""
    found = [json.loads(asked(query, "-k", "3", "--json"))["hits"] for query in ("close it", "apples")]
    alone, _ = of_each = [{hit["id"]: hit["score"] for hit in reversed(hits)} for hits in found]  # of a pair the better passage
    written = sum(map(len, of_each))
    cut = f", {6 - written} hits left out: the other passage of their pair stands above" if written < 6 else ""
    assert answer.stderr == f"2 queries, {written} hits{cut}; 1 left out: no_tab, the first in line 3\n"
    lines = [line.split() for line in out.read_text().splitlines() if line.startswith("q1")]
    ranked = sorted(alone, key=alone.__getitem__, reverse=True)
    assert [line[:4] for line in lines] == [["q1", "Q0", docid, str(rank)] for rank, docid in enumerate(ranked, 1)]
    assert [float(line[4]) for line in lines] == pytest.approx([alone[docid] for docid in ranked], abs=2e-6)
    assert {line[5] for line in lines} == {"mine"}
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    piped = CliRunner().invoke(app, ["search", "--batch", "-", "-k", "1"], input="q1\tclose it\n")
    assert piped.stdout.split()[:4] == ["q1", "Q0", ranked[0], "1"]
    with pytest.raises(UserError, match="no query in it"):
        asked("--batch", os.devnull, "--out", str(out))
    for wrong, told in ((tmp_path / "none/run.txt", "no such folder"), (queries / "run.txt", "no such folder"),
                        (tmp_path, "a folder; name a file in it"), (tmp_path / ("x" * 300), "too long")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            asked("--batch", str(queries), "--out", str(wrong))
    for nowhere in ("x" * 5000, str(queries / "under"), str(tmp_path)):
        with pytest.raises(UserError, match="no such file"):
            asked("--batch", nowhere)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "q.tsv", "--json"], "--json with --batch"),
        (["--batch", "q.tsv", "--explain", "--json"], "--json and --explain with --batch"),
        (["a date", "--out", "run.txt"], "--out without --batch"),
        (["a date", "--tag", "mine"], "--tag without --batch"),
    ],
)
def test_what_would_be_passed_over_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        asked(*words)


def test_one_query_is_given_in_one_way() -> None:
    for words, told in (
        ([], "give a query"),
        (["x", "--like", "a:1"], "QUERY and --like"),
        (["x", "--batch", "f"], "one of them"),
    ):
        with pytest.raises(UserError, match=told):
            asked(*words)


HOSTILE = Hit(
    *(1, 0.5, "code", "evil\x1b]0;title\x07name", "a/\u202egp.py", 3, "doc\x9b31m\r\nsecond", "0" * 32),
    signature="def f(\u2066x)",
    snippet="\tplain \x1b[2J and \udcff text\nwith word",
    marks=((1, 6), (29, 33)),
)


def test_texts_cannot_steer_a_terminal() -> None:
    for colours in (False, True):
        text = render_text([HOSTILE], colours=colours)
        left = text.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[1;33m", "").replace("\x1b[0m", "")
        assert all(c.isprintable() or c in "\n\N{REPLACEMENT CHARACTER}" for c in left), ascii(left)
        assert ("\x1b" in text) is colours and text.encode()
    assert "\x1b[1;33mplain\x1b[0m" in render_text([HOSTILE], colours=True)
    as_json = render_json("q\u202e", [HOSTILE])
    assert as_json.isprintable() and json.loads(as_json)["query"] == "q\u202e"
    assert json.loads(as_json)["hits"][0]["name"] == HOSTILE.name
    hidden = "a\tb\r\n" + "".join(chr(0xE0000 + ord(sign)) for sign in "obey") + "\u200b\u202e\udfff" + "größe 🤷🏽\u200d♀️"
    assert visible(hidden) == "a\tb\r\n" + "\N{REPLACEMENT CHARACTER}" * 7 + "größe 🤷🏽\u200d♀️", "nothing that nobody sees"


def at_a_terminal(home: Path, **more: str) -> bytes:
    """What the command shows where its output is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "search", "close it", "--path", "*code_1*"]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    environment = {**kept, "CPT_HOME": str(home), "TERM": "xterm", "OMP_NUM_THREADS": "1", **more}
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0, shown
    return shown


def test_colours_are_for_a_terminal_alone(home: Path) -> None:
    shown = at_a_terminal(home)
    assert b"\x1b[1m" in shown and b"\x1b[1;33mclose\x1b[0m" in shown
    assert b"\x1b" not in at_a_terminal(home, NO_COLOR="1") and b"\x1b" not in at_a_terminal(home, TERM="dumb")
    assert "\x1b" not in asked("close it")


def first_version(store: Store, now: Path) -> Artifact:
    """The index as the version before filters wrote it."""

    def write(folder: Path, _: str) -> None:
        rows = pa.ipc.open_file(now / "rows.arrow").read_all()
        columns = {name: rows.column(name).to_pylist() for name in ("id", "kind", "name", "path", "line", "doc", "source")}
        table = pa.table(columns | {"line": pa.array(columns["line"], pa.int32())})
        with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        shutil.copy(now / "index.faiss", folder)
        facts = json.loads((now / "index.json").read_text())
        kept = {name: facts[name] for name in ("code", "count", "dim", "factory", "model_digest", "text")}
        (folder / "index.json").write_text(json.dumps(kept | {"version": 1}))

    return write_artifact(store, "index-of-version-1", ["index"], write)


def test_an_index_of_version_1_opens_and_answers(
    store: Store, curate: Make, export_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_model()
    indexed = build_index(store, exported, curate(), IndexConfig(), Exported(exported))
    promote(store.root, "earlier", Candidate(exported, first_version(store, indexed.part_folder())))
    monkeypatch.setenv("CPT_HOME", str(store.root))
    hits = json.loads(asked("close it", "--json"))["hits"]
    assert len(hits) == 6 and hits[0]["snippet"] == hits[0]["language"] == "" and hits[0]["doc"]
    assert len(asked("close it", "-k", "1").splitlines()) == 3
    with pytest.raises(UserError, match="earlier version"):
        asked("close it", "--language", "python")
    assert len(names("close it", "--path", "*code*")) == 3


def test_a_changed_byte_of_a_text_is_refused(home: Path) -> None:
    for file in ("texts.arrow", "texts.sha256"):
        path = in_use(home).index / file
        good = path.read_bytes()
        at = len(good) // 2
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(CorruptArtifact, match="sha256"):
            asked("close it")
        path.write_bytes(good)
    assert len(INDEX_ROWS.names) == len(Searcher(in_use(home)).rows.column_names)
    assert names("close it")
