"""An existing Dask cluster: a scheduler and workers as processes of their own, encrypted, one of them with another root."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from corpus import write_corpus
from distributed import Client, Security

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.pairs.extract import ExtractWork, extract, extract_bundle
from pipeline_lib.runtime.cluster import TASKS_A_WORKER, run_tasks
from pipeline_lib.runtime.processes import start_child, stop_child
from pipeline_lib.runtime.shared_cluster import Fitness, code_versions, existing_cluster, on_fit_worker
from pipeline_lib.sources.dump_files import list_bundles
from pipeline_lib.store.records import Part
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]
# The same path in every process, and another folder in each that has another working folder.
HERE = Path("/proc/self/cwd/store")


class Cluster:
    """A scheduler and its workers, started as `dask scheduler` and `dask worker` would be by hand."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        security = Security.temporary()
        self.tls = {}
        for flag, name in (("ca-file", "tls_ca_file"), ("cert", "tls_scheduler_cert"), ("key", "tls_scheduler_key")):
            self.tls[flag] = folder / f"{flag}.pem"
            self.tls[flag].write_text(getattr(security, name))
        self.file = folder / "scheduler.json"
        self.start("scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")

    @property
    def config(self) -> dict[str, str]:
        """Dask's own configuration, by which a client finds its certificates."""
        names = {"ca-file": "ca-file", "cert": "client.cert", "key": "client.key"}
        return {f"distributed.comm.tls.{names[flag]}": str(path) for flag, path in self.tls.items()}

    def start(self, kind: str, *words: str, cwd: Path | None = None) -> None:
        """Start one of them; it ends with the test."""
        files = [word for flag, path in self.tls.items() for word in (f"--tls-{flag}", str(path))]
        command = [sys.executable, "-m", "dask", kind, "--scheduler-file", str(self.file), *files, *words]
        with (self.folder / f"{kind}.log").open("ab") as log:
            child = start_child(command, {"PYTHONPATH": str(PROJECT)}, log, cwd or self.folder)
        self.stack.callback(stop_child, child, 5.0)
        while kind == "scheduler" and not self.file.exists():
            assert child.poll() is None, (self.folder / f"{kind}.log").read_text()
            time.sleep(0.05)

    def worker(self, cwd: Path, nthreads: int = 1) -> None:
        """Start a worker with that working folder."""
        self.start("worker", "--nthreads", str(nthreads), "--host", "127.0.0.1", "--no-dashboard", cwd=cwd)

    def wait_for(self, workers: int) -> None:
        """Until that many workers have come."""
        with Client(scheduler_file=str(self.file)) as client:
            client.wait_for_workers(workers, timeout=60)


@contextmanager
def cluster_in(folder: Path) -> Iterator[Cluster]:
    """A cluster without workers yet, whose certificates this process knows."""
    folder.mkdir()
    with ExitStack() as stack:
        cluster = Cluster(folder, stack)
        stack.enter_context(dask.config.set(cluster.config))
        yield cluster


def run_sleeps(cluster: Cluster, tasks: int, seconds: float, tick: Callable[[], None]) -> tuple[int, int]:
    """Run that many tasks. How many workers had one, and how many tasks were handed out at once."""
    busy: set[str] = set()
    in_flight = 0
    with Client(scheduler_file=str(cluster.file)) as client:

        def watch() -> None:
            nonlocal in_flight
            tick()
            in_flight = max(in_flight, len(client.futures))
            busy.update(worker for worker, keys in client.processing().items() if keys)

        results: dict[int, object] = {}
        run_tasks(client, time.sleep, [(seconds,)] * tasks, results.__setitem__, watch)
    assert len(results) == tasks
    return len(busy), in_flight


def test_an_existing_cluster_gives_the_same_bytes_may_grow_and_must_see_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    source = SourceConfig(folder=str(write_corpus(tmp_path / "mine", packages=4)), max_bundle_bytes=8_000)
    work = ExtractWork(source=source, extract=ExtractConfig())
    parts = [Part.model_validate_json(extract_bundle(str(tmp_path), bundle, work)) for bundle in list_bundles(source)]
    monkeypatch.chdir(shared)
    with cluster_in(tmp_path / "cluster") as cluster:
        config = ExtractConfig(scheduler=str(cluster.file), worker_wait_seconds=60)
        cluster.worker(shared)
        assert list(extract(Store(HERE), source, config).manifest.parts) == parts
        assert not list((shared / "store" / "probes").iterdir())

        to_come = [shared]
        busy, in_flight = run_sleeps(cluster, 40, 0.3, lambda: cluster.worker(to_come.pop()) if to_come else None)
        assert (busy, in_flight >= 2 * TASKS_A_WORKER) == (2, True), "tasks for a worker that joined were not handed out"

        cluster.worker(other)
        cluster.worker(shared, nthreads=2)
        cluster.wait_for(4)
        more = SourceConfig(folder=str(write_corpus(tmp_path / "more", packages=2, seed=8)))
        with pytest.raises(UserError) as failure:
            extract(Store(HERE), more, config)
        message = str(failure.value)
        assert "does not see the artifact root /proc/self/cwd/store ([Errno 2] No such file or directory" in message
        assert "runs 2 tasks at once: start workers with --nthreads 1" in message
        assert "\n" not in message
        assert not (other / "store").exists(), "something was written where nobody looks"


def test_a_scheduler_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    def connect(address: str, seconds: float = 1.0) -> None:
        with existing_cluster(address, str(tmp_path), (), seconds):
            pass

    with pytest.raises(UserError, match="give tcp://HOST:PORT"):
        connect("carrier-pigeon://loft")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(TransientError, match="nobody answers"):
        connect("tcp://127.0.0.1:9")
    with cluster_in(tmp_path / "cluster") as cluster, pytest.raises(TransientError, match="no worker has come in 1 s"):
        connect(str(cluster.file))


def fitness(folder: Path, **changes: object) -> Fitness:
    probe = folder / "probes" / "one"
    probe.parent.mkdir(exist_ok=True)
    probe.write_text("token")
    fields = {
        "root": str(folder),
        "probe": "probes/one",
        "token": "token",
        "versions": code_versions(),
        "places": (str(folder),),
        **changes,
    }
    return Fitness(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "other"}, r"does not see the artifact root .* \(token\): mount it there, or keep the artifacts"),
        ({"places": ("/no/such/dump",)}, "does not see /no/such/dump: mount it there"),
        ({"versions": {**code_versions(), "pyarrow": "1.0"}}, "has pyarrow .*, this process has 1.0: install the same"),
        ({"versions": {**code_versions(), "pipeline_lib": "0"}}, "has pipeline_lib .*, this process has 0"),
        ({"versions": {**code_versions(), "resiliparsing": "2"}}, "has resiliparsing none, this process has 2"),
    ],
)
def test_a_worker_that_came_later_and_is_not_fit_does_nothing(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    done: list[int] = []
    assert on_fit_worker(fitness(tmp_path), abs, -1) == 1
    with pytest.raises(UserError, match=words):
        on_fit_worker(fitness(tmp_path, **changes), done.append, 1)
    assert not done


def test_a_worker_that_sees_another_bucket_does_nothing(tmp_path: Path, s3: Any) -> None:
    for name in ("ours", "theirs"):
        s3.mkdir(f"probe-{name}")
    with cluster_in(tmp_path / "cluster") as cluster:
        cluster.worker(tmp_path)
        with existing_cluster(str(cluster.file), "s3://probe-ours/root", (), 60) as (client, fitness):
            assert client.submit(on_fit_worker, fitness, abs, -2).result() == 2
            elsewhere = dataclasses.replace(fitness, root="s3://probe-theirs/root")
            with pytest.raises(UserError, match="does not see the artifact root s3://probe-theirs/root"):
                client.submit(on_fit_worker, elsewhere, abs, -2).result()
        assert not s3.find("probe-ours"), "the probe is removed"
