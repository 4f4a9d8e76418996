"""Exported vectors are those of the index, whole or not there, and say how a query is embedded beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from exported_models import Exported
from typer.testing import CliRunner

from flows.cli.commands import app
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.index import build_index
from pipeline_lib.search import vectors
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate, in_use, promote
from pipeline_lib.search.vectors import FILE, METADATA, VectorExport, export_vectors, text_id
from pipeline_lib.store import files
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

Make = Callable[..., Artifact]


def publish(store: Store, exported: Artifact, curated: Artifact, factory: str = "Flat") -> Path:
    index = build_index(store, exported, curated, IndexConfig(factory=factory), Exported(exported))
    promote(store.root, "planted", Candidate(exported, index))
    return store.root


@pytest.fixture
def home(store: Store, curate: Make, export_model: Make) -> Path:
    return publish(store, export_model(), curate())


@pytest.mark.parametrize("slice_rows", [1, 4, 8192])
def test_every_row_of_the_index_in_its_order(
    home: Path, tmp_path: Path, slice_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "SLICE_ROWS", slice_rows)
    told: list[float] = []
    written = export_vectors(
        in_use(home), tmp_path / "out", VectorExport(), lambda done, total, note: told.append(done / total)
    )
    searcher = Searcher(in_use(home))
    table = pq.read_table(written.path)
    index = faiss.read_index(str(searcher.current.index / "index.faiss"))
    got_ND = np.array(table["vector"].to_pylist(), np.float32)
    assert np.array_equal(got_ND, index.reconstruct_n(0, 6)) and written.reconstructed == 0 and told[-1] == 1
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == list(range(6)) and {row["side"] for row in rows} == {"document"}
    assert [row["pair_id"] for row in rows] == searcher.rows["id"].to_pylist()
    assert [(row["kind"], row["language"], row["package"]) for row in rows] == [("code", "python", "planted")] * 3 + [
        ("text", "en", "planted")
    ] * 3
    assert len({row["id"] for row in rows}) == 6 > len({row["pair_id"] for row in rows}), "two passages of a pair share its id"
    for row in rows:
        assert row["text"] == searcher.texts.of([row["row"]])[0][1] and row["id"] == text_id(row["kind"], row["text"])
        assert np.allclose(searcher.encoder.embed([row["text"]], "document")[0], row["vector"], atol=1e-5)
    assert rows[0]["signature"].startswith("def parse_date(text)") and rows[5]["signature"] == ""


def test_the_metadata_says_whose_vectors_they_are(home: Path, tmp_path: Path) -> None:
    pair = in_use(home)
    path = export_vectors(pair, tmp_path, VectorExport()).path
    told = json.loads(pq.read_schema(path).metadata[METADATA])
    assert (told["model_digest"], told["index_digest"], told["name"]) == (pair.model_digest, pair.index_digest, "planted")
    search = json.loads((pair.model / "search.json").read_text())
    assert told["sides"] == {side: {"prompt": "", **search[side]} for side in ("query", "document")}
    assert told["dim"] == 16 == pq.read_schema(path).field("vector").type.list_size


def test_the_same_index_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    one, other = (export_vectors(in_use(home), tmp_path / name, VectorExport()).path.read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize(("kind", "n"), [("code", 3), ("text", 3)])
def test_one_kind_alone_in_half_precision(home: Path, tmp_path: Path, kind: str, n: int) -> None:
    whole = pq.read_table(export_vectors(in_use(home), tmp_path / "whole", VectorExport()).path)
    written = export_vectors(in_use(home), tmp_path, VectorExport(kind, "float16"))
    table = pq.read_table(written.path)
    assert table["kind"].to_pylist() == [kind] * n and written.rows == n
    first = 0 if kind == "code" else 3
    assert table["id"].to_pylist() == whole["id"].to_pylist()[first : first + n]
    assert str(table.schema.field("vector").type.value_type) == "halffloat"
    near_ND = np.array(table["vector"].to_pylist(), np.float32)
    assert np.allclose(near_ND, np.array(whole["vector"].to_pylist()[first : first + n]), atol=1e-3)


def test_an_earlier_file_stays_unless_it_is_to_be_replaced(home: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        export_vectors(in_use(home), tmp_path, VectorExport())
    assert (tmp_path / FILE).read_text() == "precious"
    export_vectors(in_use(home), tmp_path, VectorExport(overwrite=True))
    assert pq.read_table(tmp_path / FILE).num_rows == 6


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_export_that_is_cut_off_leaves_no_half_file(home: Path, tmp_path: Path, overwrite: bool) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    files.arm("vectors:before_rename", fail)
    try:
        with pytest.raises(OSError, match="No space"):
            export_vectors(in_use(home), tmp_path / "out", VectorExport(overwrite=overwrite))
    finally:
        files.disarm()
    assert list((tmp_path / "out").iterdir()) == []
    assert export_vectors(in_use(home), tmp_path / "out", VectorExport()).rows == 6


def test_a_file_that_came_to_be_meanwhile_is_not_replaced(home: Path, tmp_path: Path) -> None:
    files.arm("vectors:before_rename", lambda: (tmp_path / FILE).write_text("another's") and None)
    try:
        with pytest.raises(UserError, match="meanwhile"):
            export_vectors(in_use(home), tmp_path, VectorExport())
    finally:
        files.disarm()
    assert (tmp_path / FILE).read_text() == "another's" and len(list(tmp_path.glob(f".{FILE}*"))) == 0


def test_a_disk_without_second_names_takes_an_export_too(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as of FAT

    monkeypatch.setattr("os.link", refuse)
    written = export_vectors(in_use(home), tmp_path / "out", VectorExport())
    assert pq.read_table(written.path).num_rows == 6 and list((tmp_path / "out").iterdir()) == [written.path]
    test_a_file_that_came_to_be_meanwhile_is_not_replaced(home, tmp_path)


def test_signatures_are_those_of_the_index(store: Store, curate: Make, export_model: Make, tmp_path: Path) -> None:
    without = ("code", "name", "read lines", "def _(path):\n    return open(path).readlines()")  # as pairs of names have it
    root = publish(store, export_model(), curate([without]))
    [row] = pq.read_table(export_vectors(in_use(root), tmp_path, VectorExport()).path).to_pylist()
    assert row["signature"] == Searcher(in_use(root)).texts.of([0])[0][0] == "def code_0(path)"


def test_vectors_that_the_store_lost_come_from_an_exact_index(home: Path, tmp_path: Path) -> None:
    whole = pq.read_table(export_vectors(in_use(home), tmp_path / "whole", VectorExport()).path)
    shutil.rmtree(home / "vectors")
    written = export_vectors(in_use(home), tmp_path, VectorExport())
    assert written.reconstructed == 6 and pq.read_table(written.path).equals(whole)


def test_vectors_that_nothing_holds_are_told_of(store: Store, curate: Make, export_model: Make, tmp_path: Path) -> None:
    home = publish(store, export_model(), curate(), "PQ4x1")
    whole = pq.read_table(export_vectors(in_use(home), tmp_path / "whole", VectorExport()).path)
    assert np.allclose(np.linalg.norm(np.array(whole["vector"].to_pylist()), axis=1), 1, atol=1e-5), (
        "of the cache, not of codes"
    )
    shutil.rmtree(home / "vectors")
    with pytest.raises(CorruptArtifact, match="6 texts"):
        export_vectors(in_use(home), tmp_path, VectorExport())
    assert not [path for path in tmp_path.iterdir() if path.name not in ("home", "whole")]


def test_pairs_that_are_gone_and_files_that_changed_are_told_of(home: Path, tmp_path: Path) -> None:
    pair = in_use(home)
    rows = pair.index / "rows.arrow"
    content = rows.read_bytes()
    rows.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptArtifact, match="sha256"):
        export_vectors(pair, tmp_path, VectorExport())
    rows.write_bytes(content)
    shutil.rmtree(home / "curate")
    with pytest.raises(UserError, match="indexed from are gone"):
        export_vectors(pair, tmp_path, VectorExport())


def test_a_file_where_the_folder_should_be_is_told_of(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="give a folder"):
            export_vectors(in_use(home), out, VectorExport())


def test_the_command_says_what_it_wrote_and_refuses_what_it_does_not_know(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_HOME", str(home))
    result = CliRunner().invoke(app, ["export-vectors", "--out", str(tmp_path / "out"), "--kind", "text"])
    assert result.exit_code == 0 and "3 rows of 16 dimensions, float32" in result.output
    for option, value in (("--kind", "image"), ("--format", "csv"), ("--precision", "int4")):
        result = CliRunner().invoke(app, ["export-vectors", "--out", str(tmp_path / "no"), option, value])
        assert isinstance(result.exception, UserError) and "choose one of" in str(result.exception)
    assert not (tmp_path / "no").exists()
