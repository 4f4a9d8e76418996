"""Code versions that an existing cluster's workers are compared by."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.runtime.shared_cluster import code_versions

ROOT = Path(__file__).parents[3]
ASK = "from pipeline_lib.runtime.shared_cluster import code_versions; print(code_versions()['pipeline_lib'])"


def digest_in(folder: Path) -> str:
    """The digest of the sources in a folder, as a process that runs them says it."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "changed", ["pipeline_lib/pairs/extract.py", "data_contracts/schemas.py", "pipeline_lib/languages/go.py"]
)
def test_workers_with_other_sources_are_told_apart(tmp_path: Path, changed: str) -> None:
    for package in ("pipeline_lib", "data_contracts"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert digest_in(tmp_path) == code_versions()["pipeline_lib"]
    with (tmp_path / changed).open("a") as source:
        source.write("# changed\n")
    assert digest_in(tmp_path) != code_versions()["pipeline_lib"]


def test_what_readers_and_languages_need_is_compared_by_version() -> None:
    assert {"tree-sitter-go", "resiliparse", "dulwich", "pyarrow"} <= code_versions().keys()
