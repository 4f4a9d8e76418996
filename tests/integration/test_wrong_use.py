"""Wrong use is answered in one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--preset", "huge"], "demo, smoke"),
        (["run"], "preset"),
        (["run", "--preset", "smoke", "--steps", "-3"], "--steps"),
        (["search", "anything"], "cpt run --preset demo"),
        (["search", "anything", "--kind", "video"], "code, text"),
        (["run", "--preset", "smoke", "--source", "/nonexistent/folder"], "/nonexistent/folder"),
        (["run", "--preset", "smoke", "--dump", "/nonexistent/dump.yaml"], "/nonexistent/dump.yaml"),
        (["run", "--preset", "smoke", "--dump", "a.yaml", "--source", "."], "a.yaml"),
        (["inspect", "/nonexistent/folder"], "/nonexistent/folder"),
        (["trace", "0123456789abcdef"], "no pair"),
        (["fly"], "fly"),
    ],
)
def test_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {"CPT_HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-m", "flows", *words],
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    last = answer.stderr.strip().splitlines()[-1]
    assert says in last
