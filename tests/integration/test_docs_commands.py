"""Commands of the documentation that a mark says can be run as they stand: each page's, in order, in one empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "architecture"))

from docs_checks import Page, read_page, runnable_blocks  # noqa: E402

PAGES = [page for path in sorted((ROOT / "docs").rglob("*.md")) if list(runnable_blocks(page := read_page(path)))]


def run(page: Page, folder: Path, slow: bool) -> list[str]:
    """Run the blocks of a page, the slow ones only if they are asked for; what each said."""
    (folder / "bin").mkdir()
    (folder / "bin" / "cpt").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flows.cli "$@"\n')
    (folder / "bin" / "cpt").chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "CPT_HOME": str(folder / "artifacts")}
    said = []
    for code, is_slow in runnable_blocks(page):
        if slow or not is_slow:
            words = ["bash", "-euc", code]
            ran = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{page.path}:\n{code}\n{ran.stdout}\n{ran.stderr}"
            said.append(ran.stdout)
    return said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_what_is_marked_runs(page: Page, tmp_path: Path) -> None:
    assert run(page, tmp_path, slow=False)


@pytest.mark.slow  # a flow with its server
@pytest.mark.parametrize("page", [page for page in PAGES if any(slow for _, slow in runnable_blocks(page))])
def test_what_takes_longer_runs_too(page: Page, tmp_path: Path) -> None:
    assert "ndcg@10" in run(page, tmp_path, slow=True)[-1]
