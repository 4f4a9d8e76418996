"""The SLURM script: its shell, its directives, and the commands that it gives, with stand-ins for SLURM's own programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.params import TrainParams

SCRIPT = Path(__file__).parents[3] / "deploy" / "train.sbatch"
# SLURM's: srun starts a command once a node, each with its number; scontrol names the nodes
SRUN = """#!/bin/bash
n=$SLURM_JOB_NUM_NODES
while [[ "$1" == --* ]]; do [[ "$1" == --nodes=1 ]] && n=1; shift; done
for ((node = 0; node < n; node++)); do SLURM_NODEID=$node "$@" || exit $?; done
"""
SCONTROL = "#!/bin/bash\nprintf 'node7\\nnode8\\n'\n"
CPT = '#!/bin/bash\nprintf \'%s\\x1f\' "$CPT_HOME" "$@" >> "$CALLS"; echo >> "$CALLS"; [ "$1" != "${FAILS:-}" ]\n'


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes."""
    bin_ = tmp_path / "venv" / "bin"
    bin_.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("cpt", CPT)):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    own = {"CPT_VENV": str(tmp_path / "venv"), "CPT_HOME": "/shared/a root", "CALLS": str(tmp_path / "calls")}
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_TMPDIR": "/local"}
    return {"PATH": f"{bin_}:{os.environ['PATH']}", **own, **slurm}


def run(job: dict[str, str], *words: str) -> tuple[int, list[list[str]]]:
    """The exit code, and each call of cpt: its root and its words."""
    answer = subprocess.run(["bash", SCRIPT, *words], env=job, capture_output=True, text=True, check=False)
    calls = Path(job["CALLS"])
    said = calls.read_text().splitlines() if calls.exists() else []
    return answer.returncode, [line.rstrip("\x1f").split("\x1f") for line in said]


def test_the_shell_takes_it() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    text = SCRIPT.read_text()
    assert "set -euo pipefail" in text
    directives = re.findall(r"^#SBATCH (--[a-z-]+)=?(\S*)$", text, re.MULTILINE)
    assert len(directives) == text.count("#SBATCH")
    assert dict(directives).keys() >= {"--nodes", "--time", "--requeue", "--signal", "--ntasks-per-node"}
    assert text.index("set -euo pipefail") > text.rindex("#SBATCH"), "SLURM reads no directive after the first command"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    assert subprocess.run(["shellcheck", SCRIPT], check=False).returncode == 0


def test_one_node_builds_all_train_and_one_publishes(job: dict[str, str]) -> None:
    code, calls = run(job, "--preset", "demo", "--source", "/shared/a dump.yaml")
    assert code == 0
    assert [words[1] for words in calls] == ["build-dataset", "train", "train", "run"]
    assert [words[0] for words in calls] == ["/shared/a root", "/shared/a root", "/local/cpt-4711-1", "/shared/a root"]
    assert all(words[2:6] == ["--preset", "demo", "--source", "/shared/a dump.yaml"] for words in calls)
    assert all(words[words.index("--artifacts") + 1] == "/shared/a root/store" for words in calls), "one store for all"
    settings = [tuple(word for word in words if word.startswith("train.")) for words in calls if words[1] == "train"]
    for rank, words in enumerate(settings):
        train = TrainParams(preset="smoke", set=words).resolve().train
        assert (train.nodes, train.node_rank, train.rendezvous) == (2, rank, "node7:24711")
        assert train.rendezvous_id == "job-4711"


def test_what_fails_ends_the_job(job: dict[str, str]) -> None:
    code, calls = run(job | {"FAILS": "train"}, "--preset", "demo")
    assert code != 0
    assert [words[1] for words in calls] == ["build-dataset", "train"]


def test_a_root_that_is_not_given_is_asked_for(job: dict[str, str]) -> None:
    code, calls = run({name: value for name, value in job.items() if name != "CPT_HOME"}, "--preset", "demo")
    assert (code, calls) == (1, [])
