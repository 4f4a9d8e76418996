"""`make bench` in a clone that brings no evaluation data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).parents[3]


def test_every_benchmark_of_make_bench_is_there() -> None:
    named = re.findall(r"-m (benchmarks\.\w+) --quick", (PROJECT / "Makefile").read_text())
    assert len(named) >= 6 and all(find_spec(name) for name in named)


def test_what_needs_data_says_that_it_is_skipped(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.web_text", "--quick"],
        env=os.environ | {"CPT_EVAL_DATA": str(tmp_path)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "set CPT_EVAL_DATA" in json.loads(answer.stdout.splitlines()[-1])["skipped"]
