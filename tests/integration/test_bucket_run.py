"""Stages over a store in a bucket: machines that share nothing but its URL work on one run.

tests/unit/store/test_bucket.py is the quick sibling: the same store without stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from training_runs import MODEL, tiny_config, write_inputs

from data_contracts.validate import validate
from pipeline_lib.config.data import ContractConfig, ExtractConfig, SourceConfig
from pipeline_lib.pairs.extract import extract
from pipeline_lib.pairs.trace import trace_pair
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.store import Store
from pipeline_lib.train.job import ArtifactRef
from pipeline_lib.train.launch import TrainInputs, train


@pytest.fixture(scope="module")
def url(s3: Any) -> str:
    s3.mkdir("shared-runs")
    return "s3://shared-runs/root"


@pytest.mark.slow
def test_dask_workers_write_into_the_bucket_and_other_machines_go_on(
    corpus: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "first"))
    source = SourceConfig(folder=str(corpus), max_bundle_bytes=20_000)
    extracted = extract(Store.at(url), source, ExtractConfig(workers=2))
    assert len(extracted.manifest.parts) > 1
    assert extracted.digest == extract(Store(tmp_path / "disk"), source, ExtractConfig(workers=2)).digest
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "second"))
    elsewhere = Store.at(url)
    found = elsewhere.open("extract", extracted.manifest.key)
    validated = validate(elsewhere, found, ContractConfig())
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "third"))
    table = pq.read_table(Store.at(url).open("validate", validated.manifest.key).paths("pairs.parquet")[0])
    traced = trace_pair(Store.at(url), table["id"][0].as_py())
    assert traced.extracted == extracted.manifest.key and traced.place.startswith(str(corpus))


@pytest.mark.slow
def test_a_model_trained_on_one_machine_is_read_on_another(tmp_path: Path, url: str) -> None:
    _, made = write_inputs(tmp_path / "here", remote=url)
    there = Store(tmp_path / "trainer", url)
    inputs = TrainInputs(*(ArtifactRef.of(artifact).open(there) for artifact in (made.shards, made.tokenizer)))
    trained = train(there, inputs, tiny_config(), MODEL)
    reader = Store(tmp_path / "reader", url).open("train", trained.manifest.key)
    assert (reader.part_folder("step-000012") / "model.safetensors").is_file()
    assert len((reader.note("timing.jsonl") or b"").splitlines()) > 0
    assert not [name for name in Bucket(url).sizes("train") if "states" in name or "lock" in name]
