"""Texts longer than those of training, read by a checkpoint wherever it is measured, exported, indexed and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import write_corpus
from exported_models import TEXTS, tiny_checkpoint

from flows.runs import as_exported
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import ExportConfig, RunConfig
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.model.starts import check_fits
from pipeline_lib.search.registry import champion
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]


def test_a_checkpoint_and_its_export_read_the_lengths_that_are_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    checkpoint = tiny_checkpoint(store)
    shorter = checkpoint.reading(None, 24)
    assert (shorter.max_tokens("x"), shorter.max_tokens("y")) == (20, 24)
    assert checkpoint.reading(None, None) == checkpoint
    whole, cut = (CheckpointEncoder(each, precision="float32") for each in (checkpoint, shorter))
    assert cut.id.fingerprint != whole.id.fingerprint and cut.id.name == whole.id.name
    far = np.abs(whole.encode(TEXTS, "y") - cut.encode(TEXTS, "y")).max(axis=1)
    assert far[TEXTS.index("word " * 400)] > 1e-3 and far[TEXTS.index("")] < 1e-6, "only long texts are cut elsewhere"
    exported = export(store, shorter, ExportConfig(onnx=False))
    assert as_exported(store, checkpoint, exported) == shorter, "what a champion is compared and added to as"
    assert exported.manifest.key != export(store, checkpoint, ExportConfig(onnx=False)).manifest.key
    assert ExportedModel(exported.part_folder()).embed(TEXTS, "y") == pytest.approx(cut.encode(TEXTS, "y"), abs=1e-5)


def test_texts_longer_than_a_models_positions_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    def config(**read: int) -> RunConfig:
        given = {"shards": ShardConfig(max_x_tokens=24, max_y_tokens=48), "model": ModelConfig(positions=64), "read": read}
        return RunConfig.model_validate(given)

    check_fits("", config(max_x_tokens=64))
    with pytest.raises(UserError, match="up to 65"):  # also of a model that is pre-trained here
        check_fits("", config(max_y_tokens=65).model_copy(update={"pretrain": PretrainConfig(steps=1)}))
    with pytest.raises(UserError, match=r"the model has 64 positions, and texts are up to 65 .*raise model.positions"):
        check_fits("", config(max_y_tokens=65))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 50}))
    check_fits(str(tmp_path), config(max_x_tokens=50))
    with pytest.raises(UserError, match=r"has 50 positions, and texts are up to 51"):
        check_fits(str(tmp_path), config(max_x_tokens=51))


def cpt(home: Path, *words: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "flows.cli", *words]
    answer = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert answer.returncode == 0, answer.stderr[-4000:]
    return answer.stdout + answer.stderr


def manifests(home: Path, stage: str) -> list[dict[str, Any]]:
    paths = sorted((home / "store" / stage).glob("*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_a_run_is_published_again_with_longer_texts_by_the_gate(tmp_path: Path) -> None:
    home, corpus = tmp_path / "home", write_corpus(tmp_path / "corpus")
    run = (
        "run",
        "--preset",
        "smoke",
        "--source",
        str(corpus),
        "--steps",
        "20",
        "--name",
        "texts",
        "--set",
        "tests_plumbing=false",
    )
    cpt(home, *run)
    before = champion(home, "texts")
    assert before is not None
    longer = ("--set", "read.max_x_tokens=32", "--set", "read.max_y_tokens=64")
    said = cpt(home, *run, *longer, "--set", "promote.when=gate", "--set", "promote.confidence=0.5")
    assert len(manifests(home, "train")) == 1, "lengths of reading are no choice of training"
    exports = [(made["config"]["max_x_tokens"], made["config"]["max_y_tokens"]) for made in manifests(home, "export")]
    assert exports == [(24, 48), (32, 64)]
    assert "queries of up to 32 tokens" in (home / "reports" / "texts" / "report.html").read_text()
    after = champion(home, "texts")
    assert after is not None and (after.model_digest != before.model_digest) == ("not promoted" not in said), said
    found = json.loads(cpt(home, "search", "--name", "texts", "--json", "count the airships"))
    assert found["hits"]
    key = f"{before.trained}/{before.checkpoint}"
    told = cpt(home, "evaluate", "--model", key, "--set", "read.max_y_tokens=64", "--suite", "code_search_held_out")
    assert "step-" in told
