"""The validate stage: good rows through, bad rows to quarantine, the same bytes whatever the grouping of parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from unit.data_contracts.rows import bundle, document, extracted, pair

from data_contracts import validate as module
from data_contracts import validate_parts
from data_contracts.schemas import PAIRS, QUARANTINE
from data_contracts.validate import validate
from data_contracts.verdicts import verdict_rows
from pipeline_lib.config.data import ContractConfig, WorkersConfig
from pipeline_lib.errors import ContractViolation, CorruptArtifact
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

LENIENT = ContractConfig(max_quarantined_share=1.0, max_unreadable_share=1.0)


def test_good_rows_come_through_and_bad_ones_are_quarantined(tmp_path: Path) -> None:
    store = Store(tmp_path)
    documents, pairs = bundle("pkg", 5)
    documents[3]["text"] = ""  # its 2 pairs follow it
    pairs[0]["line"] = 0
    artifact = validate(store, extracted(store, {"pkg": (documents, pairs)}), LENIENT)
    part = artifact.part("pkg")
    assert (part.counts.n_in, part.counts.n_out, part.counts.quarantined) == (10, 7, 3)
    kept = pq.read_table(artifact.part_folder() / "pairs.parquet")
    assert kept.schema.equals(PAIRS)
    assert kept.to_pylist() == [row for at, row in enumerate(as_read(pairs)) if at not in (0, 6, 7)]
    bad = pq.read_table(artifact.part_folder() / "quarantine.parquet")
    assert bad.schema.equals(QUARANTINE)
    assert [(row["stage"], row["offset"], row["reason"]) for row in bad.to_pylist()] == [
        ("validate:documents", 3, "text_blank"),
        ("validate:pairs", 0, "line_below_one"),
        ("validate:pairs", 6, "document_quarantined"),
        ("validate:pairs", 7, "document_quarantined"),
    ]
    assert bad["record_id"].to_pylist() == [documents[3]["id"], *(pairs[at]["id"] for at in (0, 6, 7))]
    verdict = json.loads((artifact.part_folder() / "verdict.json").read_text())
    assert verdict["reasons"] == {"document_quarantined": 2, "line_below_one": 1, "text_blank": 1}
    assert json.loads((artifact.folder / "verdict.json").read_text())["parts"] == verdict_rows(artifact)
    assert verdict_rows(artifact) == [
        {
            "part": "pkg",
            "rows": 15,
            "quarantined": 4,
            "share": 4 / 15,
            "unreadable": 0,
            "reasons": "document_quarantined 2, line_below_one 1, text_blank 1",
        }
    ]


def as_read(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in PAIRS.names} for row in pairs]


def test_invalid_unicode_reaches_the_quarantine_and_not_the_pairs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    documents, pairs = bundle("pkg", 2)
    pairs[1]["path"] = b"bad \xff name"
    artifact = validate(store, extracted(store, {"pkg": (documents, pairs)}), LENIENT)
    bad = pq.read_table(artifact.part_folder() / "quarantine.parquet").to_pylist()
    assert [(row["reason"], row["path"]) for row in bad] == [("invalid_unicode", "bad \ufffd name")]
    assert artifact.manifest.counts.n_out == 3


def test_grouping_of_parts_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = {f"pkg-{number}": bundle(f"pkg-{number}", number) for number in range(4)}
    bundles["pkg-2"][1][0]["position"] = -1
    digests = []
    for size in (1, 3):
        monkeypatch.setattr(module, "GROUP_PARTS", size)
        store = Store(tmp_path / str(size))
        artifact = validate(store, extracted(store, bundles), LENIENT)
        digests.append((artifact.digest, (artifact.folder / "manifest.json").read_bytes()))
    assert len(set(digests)) == 1


def test_worker_processes_leave_the_bytes_that_one_process_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = {f"pkg-{number}": bundle(f"pkg-{number}", 3) for number in range(3)}
    bundles["pkg-2"][1][0]["position"] = -1
    alone = validate(store := Store(tmp_path / "one"), extracted(store, bundles), LENIENT)
    monkeypatch.setattr(module, "GROUP_PARTS", 1)
    monkeypatch.setattr(module, "MUCH_BYTES", 1)
    spread = validate(store := Store(tmp_path / "two"), extracted(store, bundles), LENIENT, processes=WorkersConfig(workers=2))
    assert spread.manifest == alone.manifest
    assert not list((tmp_path / "two" / "validate" / "scratch").iterdir())


def test_a_part_of_many_row_groups_has_the_rows_and_reasons_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, pairs = bundle("pkg", 12)
    documents[1]["text"] = " "  # its pairs follow it into quarantine
    pairs[3]["line"] = 0
    pairs.append(pairs[0])  # an id that came three row groups earlier
    before = extracted(store := Store(tmp_path), {"pkg": (documents, pairs)})
    whole = validate(store, before, LENIENT)
    monkeypatch.setattr(validate_parts, "RUN_BYTES", 1)
    cut = rewrite(before, "pkg", "pairs.parquet", lambda table: table, row_group_size=4)
    pieces = validate(store, cut, LENIENT)
    assert pieces.manifest.facts == whole.manifest.facts
    assert {"text_blank", "document_quarantined", "line_below_one", "id_repeated"} <= whole.manifest.facts["reasons"].keys()
    one, many = (artifact.part_folder() for artifact in (whole, pieces))
    assert pq.ParquetFile(many / "pairs.parquet").num_row_groups > 3
    for name in ("pairs.parquet", "quarantine.parquet"):
        assert pq.read_table(one / name).equals(pq.read_table(many / name))


def test_a_second_run_redoes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    bundles = {f"pkg-{number}": bundle(f"pkg-{number}", 2) for number in range(3)}
    before = extracted(store, bundles)
    first = validate(store, before, LENIENT)
    lost = first.part("pkg-1")
    shutil.rmtree(tmp_path / lost.folder)
    written: list[str] = []
    original = module.validate_parts

    def noted(*task: Any) -> str:
        written.extend(part.label for part in task[2])
        return original(*task)

    monkeypatch.setattr(module, "validate_parts", noted)
    assert validate(store, before, LENIENT).digest == first.digest
    assert written == ["pkg-1"]


def test_parts_without_rows_keep_their_labels(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = validate(store, extracted(store, {"empty-a": ([], []), "empty-b": ([], [])}), ContractConfig())
    assert [part.label for part in artifact.manifest.parts] == ["empty-a", "empty-b"]
    assert artifact.manifest.counts.n_in == 0


def test_other_columns_than_the_schema_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = extracted(store, {"pkg": bundle("pkg", 1)})
    rewritten = rewrite(before, "pkg", "pairs.parquet", lambda table: table.drop_columns(["line"]))
    with pytest.raises(ContractViolation, match=r"pairs\.parquet: columns missing: \['line'\]"):
        validate(store, rewritten, ContractConfig())


def rewrite(artifact: Artifact, label: str, name: str, change: Any, **options: Any) -> Artifact:
    """The artifact with one file changed, as a stage at odds with the schemas would have committed it."""
    store = Store(artifact.root)
    part = artifact.part(label)
    scratch = store.scratch(part.stage)
    for file in part.files:
        read = pq.read_table(artifact.root / part.folder / file.name)
        pq.write_table(change(read) if file.name == name else read, scratch / file.name, **options)
    draft = part.model_copy(update={"key": part.key[:-1] + "x", "files": ()})
    changed = store.commit_part(draft, scratch)
    parts = tuple(changed if old.label == label else old for old in artifact.manifest.parts)
    return store.commit(artifact.manifest.model_copy(update={"key": "rewritten", "parts": parts}))


def test_a_changed_byte_upstream_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = extracted(store, {"pkg": bundle("pkg", 3)})
    path = before.paths("pairs.parquet")[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifact, match=r"sha256 is \w{64}, its record says \w{64}"):
        validate(store, before, ContractConfig())
    assert not list(tmp_path.glob("validate/**/*.parquet"))


def test_progress_counts_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen: list[tuple[float, float, str]] = []
    validate(
        store,
        extracted(store, {f"pkg-{n}": bundle(f"pkg-{n}", 2) for n in range(3)}),
        LENIENT,
        lambda done, total, note="": seen.append((done, total, note)),
    )
    assert seen[-1] == (3, 3, "12 pairs")


def test_a_pair_of_two_documents_of_one_id_stays_with_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = document(0, group="pkg")
    again = {**document(1, group="pkg"), "id": first["id"]}
    artifact = validate(store, extracted(store, {"pkg": ([first, again], [pair(0, first)])}), LENIENT)
    assert artifact.manifest.counts.n_out == 1
    assert artifact.part("pkg").facts["reasons"] == {"id_repeated": 1}
