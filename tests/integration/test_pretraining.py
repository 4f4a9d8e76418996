"""A run that makes its own language model first, by the commands that users type: what each tells of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import write_corpus

from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]
WORDS = ("--preset", "smoke", "--pretrain-steps", "3", "--set", "train.steps=4", "--set", "extract.workers=1", "--name", "own")

pytestmark = pytest.mark.slow


def cpt(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=500, check=False)


def test_pre_training_tells_its_perplexity_and_the_report_of_the_run_from_it_does(tmp_path: Path) -> None:
    home, source = tmp_path / "home", tmp_path / "tree"
    write_corpus(source, packages=30, functions=8, seed=3)
    made = cpt(home, "pretrain", *WORDS, "--source", str(source))
    assert made.returncode == 0, made.stderr[-4000:]
    folder = Path(made.stdout.strip())
    assert (folder / "model.safetensors").is_file() and (folder / "evaluation.jsonl").is_file()
    (artifact,) = Store(home / "store").artifacts("pretrain")
    figures = artifact.manifest.facts["held_out"]
    assert figures["loss"] > figures["unigram_entropy"], "three steps"
    assert f"held-out perplexity {figures['perplexity']:,.1f}" in made.stderr
    assert "this is no language model" in made.stderr and "whole documents" in made.stderr

    ran = cpt(home, "run", *WORDS, "--source", str(source))
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert len(list(Store(home / "store").artifacts("pretrain"))) == 1, "found done"
    report = json.loads((home / "reports" / "own" / "report.json").read_text())
    assert {name: report["language_model"][name] for name in figures} == figures
    assert report["language_model"]["warning"] in report["notes"]
    assert "language-model" in (home / "reports" / "own" / "report.html").read_text()
    assert report["config"]["tokenizer"]["punctuation"] == "keep" and not report["config"]["tokenizer"]["lower_case"]
