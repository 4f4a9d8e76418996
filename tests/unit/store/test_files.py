"""Files are written whole, durably, and readable by whom the user's umask admits."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.store.files import replace_file

PROGRAM = """
import sys
from pathlib import Path
from pipeline_lib.store.files import replace_file
replace_file(Path(sys.argv[1]), b"x")
"""


def test_a_file_is_replaced_whole_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    replace_file(path, b"old and longer")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o644), ("077", 0o600), ("002", 0o664)])
def test_the_umask_says_who_may_read_it(tmp_path: Path, umask: str, mode: int) -> None:
    path = tmp_path / "report.html"
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, umask=int(umask, 8))
    assert stat.S_IMODE(path.stat().st_mode) == mode
