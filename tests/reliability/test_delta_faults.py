"""Deltas of an index under a kill, and under readers: what is found is the index before or the whole one after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from builders import pair_row, write_pairs
from unit.index.test_delta import Life

from data_contracts.schemas import row_id
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.index.index import build_index, update_index
from pipeline_lib.search.query import FollowingSearcher
from pipeline_lib.search.registry import Candidate, promote, reindex
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]
BOUNDARIES = (
    "part:before_move", "part:before_record", "file:before_fsync", "file:before_link", "file:after_link",
    "artifact:before_manifest", "artifact:after_manifest",
)  # fmt: skip
KILLED = """
import os, signal, sys
from pathlib import Path
from unit.index.test_delta import Life
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.index.index import build_index
from pipeline_lib.store.files import arm

life = Life(Path(sys.argv[1]), "hnsw", 80)
life.corpus.edit(3, 3, 3)
curated = life.corpus.write(life.store)
if sys.argv[3] == "embedded":  # what is committed is the index alone
    build_index(life.store, life.exported, curated, IndexConfig(bm25=False, precision="float32"), life.model)
arm(sys.argv[2], lambda: os.kill(os.getpid(), signal.SIGKILL))
life.update()
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["embedded", "nothing"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_kill_at_any_boundary_leaves_the_base_or_the_whole_delta(tmp_path: Path, boundary: str, before: str) -> None:
    places = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "home"), boundary, before]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = Store(tmp_path / "home")
    for found in store.artifacts("index"):
        found.verify()
    life = Life(tmp_path / "home", "hnsw", 80)
    assert not life.model.embedded, "the base is found"
    assert life.edit(3, 3, 3)["number"] == 1
    assert life.model.documents <= (0 if before == "embedded" else 12), (
        "what was embedded before the kill is not embedded again"
    )
    uninterrupted = Life(tmp_path / "other", "hnsw", 80)
    uninterrupted.edit(3, 3, 3)
    assert life.index.digest == uninterrupted.index.digest


class Generations:
    """A published index of twenty functions, of which each generation changes five."""

    def __init__(self, root: Path, kind: str) -> None:
        from exported_models import Exported  # torch: a second that no other test here needs
        from search_homes import SearchHome

        self.home, self.config = SearchHome(root), IndexConfig(kind=kind, workers=1, rebuild_share=1.0)
        self.model = Exported(self.home.exported)
        self.index = build_index(self.home.store, self.home.exported, self._curated(0), self.config, self.model)
        promote(root, "planted", Candidate(self.home.exported, self.index))

    @staticmethod
    def names(generation: int) -> frozenset[str]:
        """What a search for everything finds."""
        last = {i: max((g for g in range(1, generation + 1) if (i + g) % 4 == 0), default=0) for i in range(20)}
        return frozenset(f"f{i} as of {g}" for i, g in last.items())

    def _curated(self, generation: int) -> Artifact:
        rows = [
            pair_row(f"says {name}", f"def {name.replace(' ', '_')}(x):\n    return {i}", id=row_id(name), name=name)
            for i, name in enumerate(sorted(self.names(generation)))
        ]
        return write_pairs(self.home.store, "curate", {"train": rows})

    def live(self, generations: int) -> None:
        for generation in range(1, generations + 1):
            inputs = {"exported": self.home.exported, "curated": self._curated(generation)}
            self.index = update_index(self.home.store, self.index, inputs, self.config, self.model)
            reindex(self.home.root, "planted", self.index)


def asked_throughout(ask: Callable[[], frozenset[str]], work: Callable[[], None], threads: int = 3) -> list[frozenset[str]]:
    """All answers that several readers get while something is done, and the last one when they are gone; none may fail.

    While one of them opens an index, the others are answered by the one before it.
    """
    done = threading.Event()

    def read(_: int) -> list[frozenset[str]]:
        answers = []
        while not done.is_set():
            answers.append(ask())
        return answers

    with ThreadPoolExecutor(threads) as pool:
        readers = [pool.submit(read, number) for number in range(threads)]
        try:
            work()
        finally:
            done.set()
        answers = [answer for reader in readers for answer in reader.result()]
    return [*answers, ask()]


@pytest.mark.parametrize("kind", [pytest.param("flat", marks=pytest.mark.slow), "hnsw"])
def test_every_answer_over_ten_deltas_is_of_one_whole_index(tmp_path: Path, kind: str) -> None:
    life = Generations(tmp_path / "home", kind)
    searcher = FollowingSearcher(life.home.root, "planted")
    answers = asked_throughout(
        lambda: frozenset(hit.name for hit in searcher.search("anything", k=50, mode="vectors")), lambda: life.live(10)
    )
    whole = [life.names(generation) for generation in range(11)]
    assert set(answers) <= set(whole), "an answer mixes two indexes"
    assert answers[-1] == whole[10] and len(set(answers)) > 2


@pytest.mark.slow
def test_a_service_answers_throughout_ten_deltas(tmp_path: Path) -> None:
    from search_homes import ask, serving

    life = Generations(tmp_path / "home", "hnsw")
    with serving(life.home) as service:

        def found() -> frozenset[str]:
            status, _, body = ask(service, "/search?q=anything&k=50&mode=vectors")
            assert status == 200, body
            return frozenset(hit["name"] for hit in json.loads(body)["hits"])

        answers = asked_throughout(found, lambda: life.live(10))
        whole, until = [life.names(generation) for generation in range(11)], time.monotonic() + 60
        while answers[-1] != whole[10] and time.monotonic() < until:  # a service opens an index beside its answers
            answers.append(found())
    assert set(answers) <= set(whole) and answers[-1] == whole[10] and len(set(answers)) > 2
