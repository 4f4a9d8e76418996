"""The README's use from Python, run as it stands on some packages of the standard library."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # thirty steps of training, in a process of its own
def test_the_readme_trains_and_embeds(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(code.split("\n\n")[1].strip().splitlines()) <= 10
    for package in ("asyncio", "email", "http", "json", "logging", "unittest", "xml"):
        shutil.copytree(Path(json.__file__).parents[1] / package, tmp_path / "src" / package)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CPT_HOME": str(tmp_path / "home")}
    (tmp_path / "use.py").write_text(code)
    ran = subprocess.run([sys.executable, "use.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["(1, 64)"]), ran.stderr
