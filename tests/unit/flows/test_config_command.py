"""`cpt config` at a terminal: what is printed is YAML alone, and what is wrong is one line and a code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline_lib.config.overrides import apply, parse_set, read_config
from pipeline_lib.config.presets import preset


def cpt(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "config", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CPT_HOME": str(home)}, check=False)


def test_show_prints_a_file_that_config_reads(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  steps: 7\n")
    shown = cpt(tmp_path, "show", "smoke", "--config", str(file), "--set", "train.mixture={docstring: 1}")
    assert (shown.returncode, shown.stderr) == (0, "")
    file.write_text(shown.stdout)
    expected = apply(preset("smoke"), {"train.steps": 7, "train.warmup_steps": 1}, parse_set(["train.mixture={docstring: 1}"]))
    assert apply(preset("demo"), read_config(file)) == expected
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text("base: smoke\ntrain: {steps: 7}\n")
    differ = cpt(tmp_path, "diff", "mine", str(file))
    assert "preset: mine -> smoke\n" in differ.stdout
    assert differ.stdout.endswith("train.mixture: {docstring: 0.7, neighbour: 0.3} -> {docstring: 1.0}\n")
    assert "train.steps" not in differ.stdout


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    refused = cpt(tmp_path, "show", "smoke", "--set", "train.lr=1")
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert refused.stderr == "cpt: --set train.lr: there is no such option; did you mean train.learning_rate?\n"
