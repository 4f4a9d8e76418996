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
        (["train", "--preset", "cpt_code_s"], "hf download Qwen/Qwen3-0.6B-Base"),
        (["plan", "cpt_text_s", "--init", "nobody/nothing"], "hf download nobody/nothing"),
        (["fly"], "fly"),
    ],
)
def test_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    last = fails(tmp_path, words).strip().splitlines()[-1]
    assert says in last


def test_nothing_follows_the_error_of_a_stage_that_holds_an_engine(tmp_path: Path) -> None:
    """Prefect keeps the error, the error its frames, and DuckDB reports what is alive at the end of the process as leaked."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.md").write_text("Two words.\n")
    printed = fails(tmp_path, ["build-dataset", "--preset", "smoke", "--source", str(tmp_path / "empty")])
    assert printed.strip().splitlines()[-1].startswith("cpt: ")
    assert "leak" not in printed


def fails(tmp_path: Path, words: list[str]) -> str:
    """What a command that is refused prints to its standard error."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {
        "CPT_HOME": str(tmp_path),
        "HF_HOME": str(tmp_path),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr
