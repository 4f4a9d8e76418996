"""The view `queries`: rows of a file to pairs, what is no row, and the way through contract, curation and split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import pair_row, write_artifact

from data_contracts.schemas import DOCUMENTS, PAIRS, QUARANTINE, row_id, text_hash
from data_contracts.validate import validate
from pipeline_lib.config.data import ContractConfig, CurateConfig
from pipeline_lib.config.queries import QueriesConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.errors import UserError
from pipeline_lib.pairs.queries import BAD_FILE, add_queries
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

N = 24


def document(n: int) -> str:
    return row_id("document", str(n))


def function(n: int) -> dict[str, Any]:
    place = {"document_id": document(n), "group": f"package{n}", "path": f"package{n}/module.py"}
    place["name"] = f"package{n}.module.Adder.f{n}"
    return pair_row(f"adds {n} to what it is given", f"def f{n}(a):\n    return a + {n}", position=0, **place)


@pytest.fixture
def extracted(tmp_path: Path) -> Artifact:
    def write(folder: Path, _: str) -> None:
        documents = [
            {"id": document(n), "source": "package 1.0", "group": f"package{n}", "path": f"package{n}/module.py",
             "language": "python", "licence": None, "kind": "code", "text": f"# module {n}\n{function(n)['y']}"}
            for n in range(N)
        ]  # fmt: skip
        for name, rows, schema in (("documents", documents, DOCUMENTS), ("pairs", [*map(function, range(N))], PAIRS)):
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
        pq.write_table(QUARANTINE.empty_table(), folder / "quarantine.parquet")

    return write_artifact(Store(tmp_path / "store"), "extract", ["all"], write)


def written(path: Path, rows: list[Any]) -> QueriesConfig:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return QueriesConfig(file=str(path))


def tables(artifact: Artifact) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = artifact.part_folder("queries")
    return pq.read_table(folder / "pairs.parquet").to_pylist(), pq.read_table(folder / BAD_FILE).to_pylist()


def test_every_name_of_a_text_finds_it(tmp_path: Path, extracted: Artifact) -> None:
    names = [function(1)["id"], function(1)["y_hash"], str(function(1)["y_hash"])]
    names += [f"package1/module.py::{name}" for name in (function(1)["name"], "Adder.f1", "f1")]
    whole = [document(1), "package1/module.py", "package 1.0/package1/module.py"]
    rows = [{"query": f"query {n}", "document": name} for n, name in enumerate([*names, *whole])]
    found = add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "q.jsonl", rows))
    pairs, bad = tables(found)
    assert bad == []
    assert [pair["x"] for pair in pairs] == [f"query {n}" for n in range(9)]
    assert {pair["y"] for pair in pairs[:6]} == {function(1)["y"]}
    assert {pair["y"] for pair in pairs[6:]} == {f"# module 1\n{function(1)['y']}"}
    assert {(pair["view"], pair["kind"], pair["group"], pair["document_id"]) for pair in pairs} == {
        ("queries", "code", "package1", document(1))
    }
    assert [part.label for part in found.manifest.parts] == ["all", "queries"]
    assert add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "other.jsonl", rows)).digest == found.digest


def test_the_end_of_a_name_is_enough_where_it_is_one_texts_alone(tmp_path: Path) -> None:
    def write(folder: Path, _: str) -> None:
        names = ["m.A.run", "m.B.run", "m.A::run_all", "go", "m.A.go", "m.rerun"]
        rows = [pair_row(f"says {n}", f"def f{n}():\n    pass", path="m::x.rb", name=name) for n, name in enumerate(names)]
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS), folder / "pairs.parquet")
        for name, schema in (("documents", DOCUMENTS), ("quarantine", QUARANTINE)):
            pq.write_table(schema.empty_table(), folder / f"{name}.parquet")

    extracted = write_artifact(Store(tmp_path / "store"), "extract", ["all"], write)
    meant = {"A.run": "m.A.run", "run_all": "m.A::run_all", "A::run_all": "m.A::run_all", "go": "go", "A.go": "m.A.go"}
    reasons = {"run": "ambiguous_document", **dict.fromkeys(("un", "", "B.run.", "C.run"), "unknown_document")}
    rows = [{"query": f"query {n}", "document": f"m::x.rb::{ref}"} for n, ref in enumerate([*meant, *reasons])]
    pairs, bad = tables(add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "q.jsonl", rows)))
    assert [pair["name"] for pair in pairs] == list(meant.values())
    assert [row["reason"] for row in bad] == list(reasons.values())


def test_each_bad_row_is_set_aside_with_what_where_and_what_to_do(tmp_path: Path, extracted: Artifact) -> None:
    y = str(function(3)["y_hash"])
    rows = [
        {"query": "good", "document": y},
        '{"query": "torn',
        '["no", "object"]',
        {"query": "  ", "document": y},
        {"query": "word " * 65, "document": y},
        {"query": "whose?"},
        {"query": "whose?", "document": "nobody/knows.py"},
        {"query": " good ", "document": "package3/module.py::f3"},
        {"query": function(3)["y"], "document": y},
        {"query": "half \ud800", "document": y},
        {"query": ["a", {"b": 1}], "document": y},
        {"query": "good too", "document": y},
    ]
    found = add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "q.jsonl", rows))
    pairs, bad = tables(found)
    assert [pair["x"] for pair in pairs] == ["good", "good too"]
    assert {row["offset"]: row["reason"] for row in bad} == {
        2: "not_json", 3: "not_a_record", 4: "blank_query", 5: "query_too_long", 6: "no_document", 7: "unknown_document",
        8: "repeated_row", 9: "query_is_document", 10: "not_utf8", 11: "not_a_record",
    }  # fmt: skip
    assert all("; " in row["detail"] and row["path"] == "q.jsonl" for row in bad)
    counts = found.manifest.parts[-1].counts
    assert (counts.n_in, counts.n_out, counts.quarantined) == (12, 2, 10)


def test_a_query_is_what_its_own_column_says(tmp_path: Path, extracted: Artifact) -> None:
    """A column `title` heads the text of other tables; here it is about something else."""
    y = str(function(3)["y_hash"])
    rows = [{"title": "Of the page", "query": "how do I add three", "document": y, "text": "t", "url": "u"}]
    (tmp_path / "q.csv").write_text(f"title,query,document\nOf the page,how do I add three,{y}\n")
    for config in (written(tmp_path / "q.jsonl", rows), QueriesConfig(file=str(tmp_path / "q.csv"))):
        pairs, bad = tables(add_queries(Store(tmp_path / "store"), extracted, config))
        assert [pair["x"] for pair in pairs] == ["how do I add three"] and bad == []


def test_a_query_that_holds_its_answer_or_no_text_teaches_nothing(tmp_path: Path, extracted: Artifact) -> None:
    function_3 = function(3)
    rows = [
        {"query": f"what is done by {function_3['y'].upper()} here", "document": str(function_3["y_hash"])},
        {"query": "add \x1b[31m three", "document": str(function_3["y_hash"])},
        {"query": "what does a + 3 do", "document": str(function_3["y_hash"])},
    ]
    pairs, bad = tables(add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "q.jsonl", rows)))
    assert [pair["x"] for pair in pairs] == ["what does a + 3 do"]
    assert {row["offset"]: row["reason"] for row in bad} == {1: "query_holds_document", 2: "query_not_text"}
    assert all("; " in row["detail"] and "\x1b" not in row["detail"] for row in bad)


def test_columns_of_other_names_are_asked_for_by_the_options_of_queries(tmp_path: Path, extracted: Artifact) -> None:
    rows = [{"question": "how do I add", "about": str(function(n)["y_hash"])} for n in range(2)]
    with pytest.raises(UserError, match=r"columns are \['question', 'about'\]; say which one holds the query by queries.query"):
        add_queries(Store(tmp_path / "store"), extracted, written(tmp_path / "q.jsonl", rows))


def test_csv_and_parquet_give_the_same_pairs(tmp_path: Path, extracted: Artifact) -> None:
    rows = [{"q": f"how, {n}", "about": str(function(n)["y_hash"])} for n in range(5)]
    (tmp_path / "q.csv").write_text("q,about\n" + "".join(f'"{row["q"]}",{row["about"]}\n' for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    written(tmp_path / "q.jsonl", rows)
    made = []
    for ending in ("csv", "parquet", "jsonl"):
        config = QueriesConfig(file=str(tmp_path / f"q.{ending}"), query="q", document="about")
        pairs, bad = tables(add_queries(Store(tmp_path / "store"), extracted, config))
        assert bad == []
        made.append([(pair["x"], pair["y"]) for pair in pairs])
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 5


def test_a_file_without_one_pair_is_refused(tmp_path: Path, extracted: Artifact) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"not one of 1 rows gives a pair: unknown_document 1"):
        add_queries(store, extracted, written(tmp_path / "q.jsonl", [{"query": "a", "document": "b"}]))
    with pytest.raises(UserError, match="no such file"):
        add_queries(store, extracted, QueriesConfig(file=str(tmp_path / "gone.jsonl")))


def test_queries_go_where_their_documents_go(tmp_path: Path, extracted: Artifact) -> None:
    """Three queries a function: all stay, beside its own pair, in its split; texts of other splits do not leak."""
    store = Store(tmp_path / "store")
    rows = [{"query": f"query {k} for {n}", "document": function(n)["y_hash"]} for n in range(N) for k in range(3)]
    rows.append({"query": function(0)["x"], "document": function(0)["y_hash"]})
    found = add_queries(store, extracted, written(tmp_path / "q.jsonl", rows))
    validated = validate(store, found, ContractConfig())
    assert validated.manifest.counts.n_out == N + 3 * N + 1
    curated = curate(store, validated, CurateConfig())
    split_of: dict[str, set[str]] = {}
    n_queries = 0
    for split in ("train", "validation", "test"):
        for pair in pq.read_table(curated.part_folder(split) / "pairs.parquet").to_pylist():
            split_of.setdefault(pair["group"], set()).add(split)
            n_queries += pair["view"] == "queries"
            assert pair["x_hash"] == text_hash(pair["x"])
    assert n_queries == 3 * N + 1
    assert all(len(splits) == 1 for splits in split_of.values())
    assert len({*map(frozenset, split_of.values())}) == 3
