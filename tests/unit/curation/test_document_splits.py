"""Whole documents go where their pairs went, and each that is left out is counted under its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from language_texts import Document, write_documents

from pipeline_lib.config.data import ContaminationConfig
from pipeline_lib.curation.decontaminate import hash_evaluations
from pipeline_lib.curation.document_splits import split_whole_documents
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

EVALUATION = "the heron stood in the shallow water for an hour before it caught a single fish"


def one(number: int, split: str = "train", **changes: object) -> Document:
    fields = {"text": f"Document {number}.\n{number} more", "split": split, "pairs": ((f"x {number}", f"y {number}"),)}
    return Document(**{**fields, **changes})  # type: ignore[arg-type]


def splits_of(artifact: Artifact) -> dict[str, tuple[str, str]]:
    (path,) = artifact.paths("splits.parquet")
    rows = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    return {row["id"]: (row["split"], row["dropped"]) for row in rows}


def test_a_document_is_in_the_split_of_its_pairs_or_counted_as_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    expected = {
        one(1): ("train", ""),
        one(2, "validation"): ("validation", ""),
        one(3, "test"): ("", "test_split"),
        one(4, ""): ("", "no_pair_left"),
        one(5, "", pairs=()): ("", "no_pair_left"),
        one(6, left=1, pairs=(("x 6", "y 6"), ("a docstring of training", "y 1"))): ("train", ""),
        one(7, left=1, pairs=(("x 7", "y 7"), ("x 7b", "y 2"))): ("", "shared_text"),  # as y in validation
        one(8, left=1, pairs=(("x 8", "y 8"), ("x 3", "y 8b"))): ("", "shared_text"),  # as x in test
        one(9, "validation", left=1, pairs=(("x 9", "y 9"), ("y 1", "y 9b"))): ("", "shared_text"),  # of training
    }
    extracted, curated = write_documents(store, list(expected))
    artifact = split_whole_documents(store, extracted, curated)
    assert splits_of(artifact) == {document.id: where for document, where in expected.items()}
    counts = artifact.manifest.counts
    assert (counts.n_in, counts.n_out) == (9, 3)
    assert counts.dropped == {"no_pair_left": 2, "shared_text": 3, "test_split": 1}
    assert artifact.manifest.facts["documents"] == {"train": 2, "validation": 1}
    assert split_whole_documents(store, extracted, curated).digest == artifact.digest


def test_a_document_that_holds_an_evaluation_text_outside_its_pairs_is_left_out(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "suites"
    folder.mkdir()
    (folder / "suite.jsonl").write_text(json.dumps({"suite": "birds", "text": EVALUATION}) + "\n")
    contamination = hash_evaluations(store, ContaminationConfig(folder=str(folder)))
    held = one(1, text=f"A file.\n\ndef helper():\n    # {EVALUATION.upper()}\n    pass\n")
    extracted, curated = write_documents(store, [held, one(2)])
    artifact = split_whole_documents(store, extracted, curated, contamination)
    assert splits_of(artifact) == {held.id: ("", "contaminated"), one(2).id: ("train", "")}
    assert split_whole_documents(store, extracted, curated).manifest.counts.dropped == {}
