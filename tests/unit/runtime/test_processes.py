"""Processes of a run of a clone import the clone, although another copy is what Python would find."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]

# as Prefect loads a flow: the clone is on the path while it is imported, and no longer
PROGRAM = """
import subprocess, sys
clone, elsewhere = sys.argv[1:]
if __name__ == "__main__":
    sys.path.insert(0, clone)
    from pipeline_lib.runtime.cluster import local_cluster
    from pipeline_lib.runtime.processes import start_child
    sys.path.remove(clone)
    where = "import pipeline_lib; print(pipeline_lib.__file__)"
    child = start_child([sys.executable, "-c", where], {}, subprocess.PIPE, cwd=elsewhere)
    print(child.communicate()[0].decode().strip())
    with local_cluster(1, 2**30) as client:
        print(client.submit(eval, "__import__('pipeline_lib').__file__").result())
"""


def test_workers_and_programs_import_the_very_code_of_their_parent(tmp_path: Path) -> None:
    clone, installed, program = tmp_path / "clone", tmp_path / "installed", tmp_path / "program.py"
    for name in ("pipeline_lib", "data_contracts"):
        for copy in (clone, installed):
            shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    program.write_text(PROGRAM)
    words = [sys.executable, str(program), str(clone), str(tmp_path)]
    env = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.splitlines() == [str(clone / "pipeline_lib" / "__init__.py")] * 2
