"""R15: killed at every stage's boundary and inside stages, the same command goes on and ends at the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import write_corpus

from flows.orchestrator.server import prefect_environment, prefect_server
from pipeline_lib.search.registry import in_use

PROJECT = Path(__file__).parents[2]
BOUNDARY, BEFORE_MANIFEST, BEFORE_RECORD = "artifact:after_manifest", "artifact:before_manifest", "part:before_record"
KILLED = -9

PROGRAM = """
import os, signal, sys
place, crossings, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
from pipeline_lib.store import files as faults

def cross():
    global crossings
    crossings -= 1
    if crossings == 0:
        os.kill(os.getpid(), signal.SIGKILL)

if place:
    faults.arm(place, cross)
from flows.cli import main
sys.argv = ["cpt", *words]
main()
"""


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        for name, value in prefect_environment(home).items():
            patch.setenv(name, value)
        with prefect_server(home) as url:
            yield url


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tree", packages=14, functions=8)


def run(home: Path, tree: Path, url: str, place: str = "", crossings: int = 1) -> int:
    """`cpt run`, killed when it comes to this place for the n-th time; its exit code."""
    env = {**os.environ, "CPT_HOME": str(home), "PREFECT_API_URL": url}
    words = ["run", "--preset", "smoke", "--source", str(tree), "--steps", "5", "--name", "tree"]
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, place, str(crossings), *words],
        env=env, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode in (0, KILLED), answer.stderr[-3000:]
    return answer.returncode


def manifests(home: Path) -> dict[str, bytes]:
    store = home / "store"
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.glob("*/*/manifest.json"))}


def times(home: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (home / "store").glob("*/*/manifest.json")}


@pytest.mark.slow
@pytest.mark.parametrize("every", [16, 1])
def test_r15_killed_at_boundaries_the_run_goes_on_and_ends_at_the_same_bytes(
    tmp_path: Path, tree: Path, server_url: str, every: int
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert run(calm, tree, server_url) == 0
    expected = manifests(calm)
    kills = 0
    for place in (BEFORE_RECORD, BEFORE_MANIFEST, *[BOUNDARY] * (2 * len(expected))):
        before = times(killed)
        if run(killed, tree, server_url, place, every if place == BOUNDARY else 1) == 0:
            break
        kills += 1
        after = times(killed)
        assert before.items() <= after.items(), "a finished artifact was made again"
        assert len(after) - len(before) == (every if place == BOUNDARY else 0)
    assert kills == len(expected) // every + 2, "a kill at every n-th boundary, and two inside stages"
    assert manifests(killed) == expected
    assert in_use(killed).model_digest == in_use(calm).model_digest and in_use(killed).index_digest == in_use(calm).index_digest
