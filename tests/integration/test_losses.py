"""A dump of which some files end early, through extraction and validation: what is kept, what is told, and when it stops."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_contracts.data_loss import DataLosses, loss_line
from data_contracts.validate import validate
from data_contracts.verdicts import RowsRejected
from flows.cli.commands import app
from pipeline_lib.config.data import ContractConfig, ExtractConfig, SourceConfig
from pipeline_lib.pairs import extract as module
from pipeline_lib.pairs.extract import STAGE, ExtractWork, extract_bundle, extract_file
from pipeline_lib.pairs.tables import Rows, sum_facts
from pipeline_lib.sources.dump_files import list_bundles, write_listing
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Part, sum_counts
from pipeline_lib.store.store import Store
from tasks.dataset import left_out_lines

WORDS = ["".join(random.Random(n).choices("abcdefghijklmnop", k=6)) for n in range(500)]


def prose(number: int) -> str:
    draw = random.Random(number)
    sentences = (" ".join(draw.choices(WORDS, k=12)).capitalize() + "." for _ in range(16))
    return "\n\n".join(" ".join(piece) for piece in zip(*[iter(sentences)] * 4, strict=True))


def lines(first: int, count: int) -> bytes:
    return b"".join(json.dumps({"text": prose(n), "id": str(n)}).encode() + b"\n" for n in range(first, first + count))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A spec of five good files and one that is cut, of a fifth of the bytes."""
    for n in range(5):
        (tmp_path / f"good-{n}.jsonl.gz").write_bytes(gzip.compress(lines(100 * n, 40), mtime=0))
    whole = gzip.compress(lines(1000, 60), mtime=0)
    (tmp_path / "good-cut.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump([{"reader": "json_lines", "url": "*.jsonl.gz", "licence": "MIT", "name": "lines"}]))
    return path


def extracted(store: Store, spec: Path) -> Artifact:
    source = SourceConfig(dump=str(spec))
    work = ExtractWork(source=source, extract=ExtractConfig())
    bundles = list_bundles(source)

    def make(_: str) -> Outcome:
        parts = tuple(Part.model_validate_json(extract_bundle(str(store.root), bundle, work)) for bundle in bundles)
        return Outcome(parts=parts, counts=sum_counts(parts), facts=sum_facts(part.facts for part in parts))

    return store.build(STAGE, work, {"source": write_listing(store, source, bundles)}, make)


def test_a_cut_file_stops_the_run_past_the_bound_and_is_told_by_its_name(dump: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = extracted(store, dump)
    size = (tmp_path / "good-cut.jsonl.gz").stat().st_size
    losses = DataLosses.of(artifact)
    (row,) = losses.rows
    assert (row["path"], row["reason"], row["lost_bytes"], row["offset"]) == ("good-cut.jsonl.gz", "truncated", size, size)
    assert 30 < row["texts"] < 45 and artifact.manifest.facts["documents"] == 200 + row["texts"]
    assert artifact.manifest.facts["losses"] == {"truncated": 1} and artifact.manifest.facts["refused"] == {}
    assert artifact.manifest.counts.quarantined == 0, "a loss is no row among the texts"
    with pytest.raises(RowsRejected) as caught:
        validate(store, artifact, ContractConfig())
    for words in ("good-cut.jsonl.gz: truncated", f"{size:,} of ", "at most 5.0% may", "contract.max_lost_share"):
        assert words in str(caught.value), words
    assert "\n" not in str(caught.value)
    kept = validate(store, artifact, ContractConfig(max_lost_share=0.5))
    report = (kept.folder / "verdict.md").read_text()
    assert report.startswith("# Contracts: kept, but not all of the dump was read")
    assert "1 file of the dump was not read whole" in report and "| lines | good-cut.jsonl.gz | truncated |" in report
    told = json.loads((kept.folder / "verdict.json").read_text())
    assert told["losses"][0]["path"] == "good-cut.jsonl.gz" and told["lost_bytes"] == size
    assert kept.manifest.facts["files_not_whole"] == 1 and 0.1 < kept.manifest.facts["lost_share"] < 0.3


def test_the_first_losses_are_told_and_the_others_counted() -> None:
    row = {"source": "s", "path": "a", "reason": "damaged", "count": 3, "offset": 5, "texts": 7, "lost_bytes": 10}
    row |= {"file_bytes": 100, "detail": "no gz data"}
    losses = DataLosses([row] * 12 + [row | {"reason": "truncated"}], 1_000_000)
    assert losses.lines()[-1] == "and 3 more: damaged 2, truncated 1" and len(losses.lines()) == 11
    assert (
        loss_line(row)
        == "a: damaged, 3 times, first at offset 5, 7 texts before it kept; 10 of its 100 bytes (10.0%) lost: no gz data"
    )
    assert losses.faults(ContractConfig()) == [] and losses.faults(ContractConfig(max_lost_share=0)) != []


def test_a_dump_without_a_loss_has_no_file_of_losses(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "good-cut.jsonl.gz").unlink()
    artifact = extracted(Store(tmp_path / "store"), dump)
    assert {file.name for part in artifact.manifest.parts for file in part.files} == {
        "documents.parquet", "pairs.parquet", "quarantine.parquet",
    }  # fmt: skip
    assert DataLosses.of(artifact).sentence == "" and artifact.manifest.facts["lost_bytes"] == 0


def test_a_file_that_changed_after_it_was_listed_gives_nothing_and_its_neighbours_all(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list_bundles

    def listed(config: SourceConfig) -> Any:
        bundles = first(config)
        (tmp_path / "good-2.jsonl.gz").write_bytes(gzip.compress(lines(5000, 40), mtime=0))
        return bundles

    (tmp_path / "good-cut.jsonl.gz").unlink()
    monkeypatch.setitem(globals(), "list_bundles", listed)
    artifact = extracted(Store(tmp_path / "store"), dump)
    (row,) = DataLosses.of(artifact).rows
    assert (row["path"], row["reason"], row["texts"]) == ("good-2.jsonl.gz", "content_changed", 0)
    assert artifact.manifest.facts["documents"] == 160 and row["lost_bytes"] == row["file_bytes"]


def test_no_pair_at_all_is_told_with_the_commonest_reasons(tmp_path: Path) -> None:
    bad = b"".join([b"{broken\n"] * 7 + [b'{"title": "no text"}\n'] * 3 + [b'{"text": " "}\n'] * 2)
    (tmp_path / "bad.jsonl").write_bytes(bad)
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump([{"reader": "json_lines", "url": "bad.jsonl", "licence": "MIT"}]))
    store = Store(tmp_path / "store")
    artifact = extracted(store, tmp_path / "dump.yaml")
    with pytest.raises(RowsRejected, match=r"not one pair came of 12 texts in 1 files.*not_json 7"):
        validate(store, artifact, ContractConfig())
    assert left_out_lines(artifact)[0].startswith("7 texts of 12 refused: not_json 7")


def test_inspect_prints_json_alone_and_its_exit_code_says_whether_anything_was_readable(dump: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["inspect", str(tmp_path / "good-cut.jsonl.gz"), "--json"])
    found = json.loads(answer.stdout)
    assert answer.exit_code == 0 and answer.stderr == ""
    assert found["reader"] == "json_lines" and found["texts"] > 30 and found["pairs"] > 30
    assert found["refused"] == {"truncated": 1} and found["losses"][0]["file"] == "good-cut.jsonl.gz"
    assert len(found["samples"]) == 10 and all(set(sample) == {"x", "y", "place"} for sample in found["samples"])
    (tmp_path / "mixed.jsonl").write_bytes(b"{broken\n" + lines(0, 2) + b'{"text": ""}\n')
    found = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "mixed.jsonl"), "--json"]).stdout)
    assert found["refused"] == {"not_json": 1} and found["reasons"]["not_json"]["place"].startswith("mixed.jsonl!")
    assert all(found["reasons"][name]["place"] for name in {*found["dropped"], *found["refused"]})
    (tmp_path / "noise.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + b"\xff" * 50)
    answer = CliRunner().invoke(app, ["inspect", str(tmp_path / "noise.jsonl.gz"), "--json"])
    assert answer.exit_code == 1 and json.loads(answer.stdout)["texts"] == 0
    assert "nothing in it could be read: damaged 1" in answer.stderr
    spec = tmp_path / "two.yaml"
    sources = [{"reader": "json_lines", "url": name, "licence": "MIT"} for name in ("mixed.jsonl", "noise.jsonl.gz")]
    spec.write_text(yaml.safe_dump(sources))
    answer = CliRunner().invoke(app, ["inspect", str(spec), "--json"])
    assert answer.exit_code == 0 and [source["texts"] > 0 for source in json.loads(answer.stdout)] == [True, False]
    shown = CliRunner().invoke(app, ["inspect", str(spec)], env={"COLUMNS": "200"})
    assert "not read whole: noise.jsonl.gz: damaged" in shown.output and "{broken" not in shown.output.split("not_json")[0]


odd_texts = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["", " \n", "# Only a heading", "```\ncode alone\n```", "| a | b |\n|---|---|", "短い。", "\ufeff", "....", "- x"]
    ),
)


@given(found=st.lists(st.tuples(odd_texts, st.sampled_from(["txt", "md", "rst", "py", "js", "html"])), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_text_is_a_document_or_is_under_a_reason(tmp_path_factory: pytest.TempPathFactory, found: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("odd")
    work = ExtractWork(source=SourceConfig(), extract=ExtractConfig())
    rows = Rows(0)
    for number, (text, suffix) in enumerate(found):
        path = folder / f"{number}.{suffix}"
        path.write_bytes(text.encode("utf-8", "replace"))
        documents = {row[3] for row in rows.documents}
        before = len(rows.documents), rows.refused.total(), rows.left_out.total()
        extract_file(describe(str(path), path.name, "s", "g"), work, rows)
        new = path.name in {row[3] for row in rows.documents} - documents
        after = len(rows.documents), rows.refused.total(), rows.left_out.total()
        assert new or after[1:] != before[1:], (text, suffix)
    assert rows.facts["texts"] == len(found)
    assert len({row[3] for row in rows.documents}) + rows.refused.total() + rows.left_out.total() >= len(found)
    rows.counts().check("odd")


def test_the_reader_is_asked_once_for_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over the texts, its digest with it, behind the one for licences, which may stand behind what they are of."""
    from pipeline_lib.sources import decompress

    read: list[int] = []
    take = decompress.Reading.take

    def counted(self: Any, position: int, data: bytes) -> None:
        read.append(len(data))
        take(self, position, data)

    monkeypatch.setattr(decompress.Reading, "take", counted)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.py")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"x = 1\n"))
    (tmp_path / "a.tar.gz").write_bytes(out.getvalue())
    file = describe(str(tmp_path / "a.tar.gz"), "a.tar.gz", "s", "g").model_copy(update={"form": "archive"})
    found: list[SourceRecord] = list(texts_of(file, SourceConfig()))
    assert len(found) == 1 and sum(read) == 2 * len(out.getvalue())
    assert module.is_container(file)
