"""The stage `extract` with its own cluster, on folders made for the purpose."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dask
import psutil
import pyarrow.parquet as pq
import pytest

from data_contracts.schemas import DOCUMENTS, PAIRS, QUARANTINE, text_hash
from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.pairs import extract as stage
from pipeline_lib.pairs.extract import extract
from pipeline_lib.runtime.cluster import Failure, guarded, local_cluster, run_tasks
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Manifest
from pipeline_lib.store.store import Store

CONFIG = ExtractConfig(workers=2)

MODULE = '''
"""Module {name}."""


def first_{name}(items):
    """Return the first of the items of {name}.

    {prose}
    """
    for item in items:
        if item:
            return item
    return None


class Thing{name}:
    def area(self):
        """Compute the area of {name} in square metres."""
        width = self.width
        height = self.height
        return width * height

    def __len__(self):
        """The number of parts."""
        return 3
'''


def prose(name: str, sentences: int) -> str:
    return " ".join(f"The {name} sentence number {i} tells a little more about what it does and why." for i in range(sentences))


def plant(root: Path, packages: int = 4, modules: int = 6) -> Path:
    """A tree of code and prose, with a file that is no text."""
    for p in range(packages):
        folder = root / f"package{p}"
        folder.mkdir(parents=True)
        for m in range(modules):
            name = f"p{p}m{m}"
            (folder / f"{name}.py").write_text(MODULE.format(name=name, prose=prose(name, 12)))
        (folder / "README.md").write_text(f"# Package {p}\n\n" + "\n\n".join(prose(f"p{p}-{i}", 5) for i in range(6)))
        (folder / "tests").mkdir()
        (folder / "tests" / "test_it.py").write_text("def test_it():\n    pass\n")
    (root / "package0" / "binary.py").write_bytes(b"x = '\xff\xfe'\n")
    return root


def source_of(root: Path, bundle_bytes: int = 6_000) -> SourceConfig:
    return SourceConfig(folder=str(root), max_bundle_bytes=bundle_bytes)


def rows(artifact: Artifact, name: str) -> list[dict]:
    return [row for path in artifact.paths(name) for row in pq.read_table(path).to_pylist()]


def workers_of_this_process() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    """Alive, and a process of the cluster; one that was just killed may still be listed."""
    try:
        return any("spawn_main" in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too
        return False


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("trees") / "mine")


@pytest.fixture(scope="module")
def artifact(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    notes: list[tuple[float, float, str]] = []
    store = Store(tmp_path_factory.mktemp("store"))
    found = extract(store, source_of(tree), CONFIG, lambda done, total, note="": notes.append((done, total, note)))
    assert notes[-1][0] == notes[-1][1] > 0
    assert notes[-1][2] == f"{found.manifest.counts.n_out:,} pairs"
    return found


def test_rows_have_their_schemas_ids_and_provenance(artifact: Artifact) -> None:
    for name, schema in (("documents", DOCUMENTS), ("pairs", PAIRS), ("quarantine", QUARANTINE)):
        assert all(pq.read_schema(path).equals(schema) for path in artifact.paths(f"{name}.parquet"))
    documents, pairs = rows(artifact, "documents.parquet"), rows(artifact, "pairs.parquet")
    assert len({row["id"] for row in documents}) == len(documents)
    assert len({row["id"] for row in pairs}) == len(pairs)
    assert {row["document_id"] for row in pairs} <= {row["id"] for row in documents}
    assert {row["group"] for row in pairs} == {f"package{p}" for p in range(4)}
    assert all(row["x_hash"] == text_hash(row["x"]) and row["y_hash"] == text_hash(row["y"]) for row in pairs)
    (area,) = [row for row in pairs if row["name"] == "package1.p1m2.Thingp1m2.area"]
    assert area["x"] == "Compute the area of p1m2 in square metres."
    assert area["y"].startswith("def area(self):\n    width = self.width")
    assert (area["path"], area["line"], area["kind"], area["view"]) == ("package1/p1m2.py", 17, "code", "docstring")
    views = Counter((row["kind"], row["view"]) for row in pairs)
    assert views["code", "docstring"] == 4 * 6 * 2
    assert views["text", "neighbour"] > 4 * 6


def test_every_candidate_is_accounted_for(artifact: Artifact) -> None:
    counts, facts = artifact.manifest.counts.check("extract"), artifact.manifest.facts
    pairs = rows(artifact, "pairs.parquet")
    assert counts.n_out == len(pairs) == facts["code_pairs"] + facts["text_pairs"]
    assert counts.dropped == {"dunder": 24, "file_of_tests": 4}
    assert counts.quarantined == 1
    assert facts["documents"] == len(rows(artifact, "documents.parquet"))
    assert facts["files"] == 4 * 8 + 1


def test_a_file_that_is_no_text_is_quarantined_with_its_place(artifact: Artifact) -> None:
    (row,) = rows(artifact, "quarantine.parquet")
    assert (row["path"], row["reason"], row["offset"]) == ("package0/binary.py", "not_utf8", 5)
    assert row["stage"] == "extract"


def test_a_second_run_starts_no_cluster(artifact: Artifact, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a cluster was started for nothing")

    monkeypatch.setattr(stage, "gathered", never)
    store = Store(artifact.root)
    assert extract(store, source_of(tree), CONFIG).digest == artifact.digest
    (artifact.folder / "manifest.json").unlink()  # as if killed before the end: all parts are there
    assert extract(store, source_of(tree), ExtractConfig(workers=7)).manifest == artifact.manifest


def test_one_worker_and_two_write_the_same_bytes(artifact: Artifact, tree: Path, tmp_path: Path) -> None:
    again = extract(Store(tmp_path), source_of(tree), ExtractConfig(workers=1))
    assert again.manifest == artifact.manifest


def test_growth_redoes_only_what_changed(tree: Path, artifact: Artifact, tmp_path: Path) -> None:
    root = plant(tmp_path / "grown" / "mine")
    (root / "package3" / "new.py").write_text(MODULE.format(name="new", prose="More."))
    grown = extract(Store(artifact.root), source_of(root), CONFIG)
    old, new = ({part.key for part in a.manifest.parts} for a in (artifact, grown))
    assert 0 < len(new - old) <= 3
    ids = {row["id"] for row in rows(artifact, "pairs.parquet")}
    assert ids < {row["id"] for row in rows(grown, "pairs.parquet")}


def test_killed_workers_cost_no_pair_and_add_none(artifact: Artifact, tree: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(done: float, total: float, note: str = "") -> None:
        alive = workers_of_this_process() if 0 < done < total and len(killed) < 2 else []
        if alive:
            killed.append(alive[0].pid)
            alive[0].kill()

    hurt = extract(Store(tmp_path), source_of(tree, 2_000), CONFIG, kill_one)
    assert killed, "no worker was killed: the work was over too soon"
    wanted = Counter(row["id"] for row in rows(artifact, "pairs.parquet"))
    assert Counter(row["id"] for row in rows(hurt, "pairs.parquet")) == wanted
    assert rows(hurt, "quarantine.parquet") == rows(artifact, "quarantine.parquet")


def test_a_file_that_kills_every_worker_is_quarantined_alone(artifact: Artifact, tmp_path: Path) -> None:
    root = plant(tmp_path / "mine")
    (root / "package2" / "poison.py").write_text("x = 1\n")
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        textwrap.dedent("""
        import os
        from pipeline_lib.sources import readers
        if not hasattr(readers, "harmless"):  # Dask loads this file twice
            readers.harmless = readers.read_source
        def read_source(place, *args, **options):
            if place.endswith("poison.py"):
                os._exit(9)
            return readers.harmless(place, *args, **options)
        readers.read_source = read_source
        """)
    )
    with dask.config.set({"distributed.worker.preload": [str(deadly)]}):
        found = extract(Store(tmp_path / "store"), source_of(root, 20_000), CONFIG)
    reasons = {row["path"]: row["reason"] for row in rows(found, "quarantine.parquet")}
    assert reasons == {"package0/binary.py": "not_utf8", "package2/poison.py": "worker_killed"}
    wanted = Counter(row["id"] for row in rows(artifact, "pairs.parquet"))
    assert Counter(row["id"] for row in rows(found, "pairs.parquet")) == wanted


def test_tasks_wait_for_a_cluster_whose_workers_have_all_just_died() -> None:
    results: dict[int, int] = {}
    with local_cluster(2, 2**30) as client:
        for worker in workers_of_this_process():
            worker.kill()
        while client.scheduler_info(n_workers=-1)["workers"]:
            time.sleep(0.01)
        run_tasks(client, abs, [(-index,) for index in range(9)], results.__setitem__, lambda: None)
    assert results == {index: index for index in range(9)}


def fail_deeply(depth: int) -> int:
    return fail_deeply(depth + 1)


def fill_the_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("task", "error", "words"), [(fail_deeply, RuntimeError, "RecursionError"), (fill_the_disk, OSError, "No space left")]
)
def test_a_task_that_fails_fails_the_caller(task: Callable[[int], object], error: type[Exception], words: str) -> None:
    failure = guarded(task, (0,))
    assert isinstance(failure, Failure)
    again = pickle.loads(pickle.dumps(failure))
    with pytest.raises(error, match=words):
        again.raise_here()


PARENT = """
import sys
from pipeline_lib.store.store import Store
from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.runtime.cluster import Failure, guarded, local_cluster, run_tasks
from pipeline_lib.pairs.extract import extract

def tell(done, total, note=""):
    print(int(done), int(total), flush=True)

if __name__ == "__main__":
    source = SourceConfig(folder=sys.argv[1], max_bundle_bytes=2_000)
    artifact = extract(Store(sys.argv[2]), source, ExtractConfig(workers=2), tell)
    print(artifact.digest, flush=True)
"""


def test_a_killed_parent_leaves_no_worker_and_a_rerun_goes_on(tree: Path, artifact: Artifact, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tree), str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    for line in parent.stdout:
        if int(line.split()[0]) > 0:
            break
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "extract" / "parts").glob("*.json")}
    assert done, "killed before the first part"
    time.sleep(0.01)
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    assert len(ended.stdout.splitlines()[-1]) == 64
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    found = Store(tmp_path / "store")
    pairs = [
        row["id"]
        for part in (found.root / "extract").glob("*/manifest.json")
        for row in rows(Artifact(found.root, Manifest.model_validate_json(part.read_bytes())), "pairs.parquet")
    ]
    assert Counter(pairs) == Counter(row["id"] for row in rows(artifact, "pairs.parquet"))
