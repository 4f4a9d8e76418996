"""Existing Dask cluster, by its scheduler's address: its workers must see the artifact root and run this very code.

A worker on which the root is another folder would write parts that nobody finds. Every worker is asked once at the start, and
each task asks again where it runs: workers come and go while the work goes on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from distributed import Client
from packaging.requirements import Requirement

from data_contracts import schemas
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.files import replace_file

SHOWN_FAULTS = 3
ANSWER_SECONDS = 10.0
PROJECT = "cpt-factory"
# what every part is made and checked with; besides come the packages of the extra `dumps`, which readers and languages need
_PACKAGES = (
    "distributed", "great-expectations", "numpy", "pyarrow", "pydantic", "tokenizers", "tree-sitter", "tree-sitter-python",
)  # fmt: skip


@dataclass(frozen=True)
class Fitness:
    """Conditions that a worker must meet where it runs."""

    root: str  # of the artifacts: a folder, or a bucket's URL
    probe: str  # a file in it
    token: str  # what is written there
    versions: dict[str, str]
    places: tuple[str, ...]  # of the dump, one a source

    def fault(self) -> str | None:
        """The fault of the process that asks, and what to do about it; None: nothing."""
        me = f"worker process {os.getpid()} on {socket.gethostname()}"
        try:
            seen = _read(self.root, self.probe)
        except (OSError, UserError, TransientError) as error:
            seen = str(error)
        if seen != self.token:
            what_to_do = "mount it there, or keep the artifacts in a folder or bucket that all machines share"
            return f"{me} does not see the artifact root {self.root} ({seen}): {what_to_do}"
        for place in self.places:
            if not Path(place).exists():
                return f"{me} does not see {place}: mount it there, or put the dump into a bucket"
        here = code_versions()
        for name in sorted({*self.versions, *here}):
            wanted, got = self.versions.get(name, "none"), here.get(name, "none")
            if got != wanted:
                return f"{me} has {name} {got}, this process has {wanted}: install the same on both"
        return None


def on_fit_worker(fitness: Fitness, function: Callable[..., Any], *task: Any) -> Any:
    """`function(*task)`, where this process is fit for it.

    Raises:
        UserError: it is not.
    """
    if (fault := fitness.fault()) is not None:
        raise UserError(fault)
    return function(*task)


def check_scheduler(address: str) -> None:
    """Ask a scheduler's address for somebody who listens, where that is not left to its file.

    Raises:
        UserError: it is no address, there is no such file, or nobody answers.
    """
    found = _host_and_port(address)
    if found is None:
        return
    try:
        socket.create_connection(found, ANSWER_SECONDS).close()
    except OSError as error:
        why = error.strerror or "no answer"
        raise UserError(f"scheduler {address}: nobody answers ({why}); start it there, or give its address") from error


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None for a scheduler file, for which Dask would wait for ever if it is not there."""
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise UserError(f"scheduler {address}: no such scheduler file; start the scheduler with --scheduler-file")
        return None
    scheme, _, place = address.rpartition("://")
    found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/]+):(\d{1,5})", place)
    if scheme not in ("tcp", "tls") or not found or not 0 < int(found[2]) < 1 << 16:
        raise UserError(f"scheduler {address!r}: give tcp://HOST:PORT, tls://HOST:PORT or a scheduler file (.json)")
    return found[1].strip("[]"), int(found[2])


@contextmanager
def existing_cluster(address: str, root: str, places: Sequence[str], wait_seconds: float) -> Iterator[tuple[Client, Fitness]]:
    """Connect to a scheduler and ask each of its workers whether it is fit.

    Args:
        address: tcp://HOST:PORT or tls://HOST:PORT, or the path of a scheduler file (.json). Certificates come from Dask's own
            configuration (`distributed.comm.tls`).
        root: of the store: a folder, or a bucket's URL.
        places: files or folders of the dump on this machine's disks.
        wait_seconds: how long the first worker may take to come.

    Raises:
        UserError: the address is wrong, or a worker is not fit.
        TransientError: nobody answers there, or no worker comes.
    """
    with _connect(address) as client:
        try:
            client.wait_for_workers(1, timeout=wait_seconds)
        except TimeoutError as error:
            raise TransientError(f"scheduler {address}: no worker has come in {wait_seconds:.0f} s; start some") from error
        with probed(root, places) as fitness:
            _check_workers(client, address, fitness)
            yield client, fitness


@contextmanager
def probed(root: str, places: Sequence[str]) -> Iterator[Fitness]:
    """Conditions for other machines, with a file in the root for as long as the block lasts, by which they know it.

    Args:
        root: of the store: a folder, or a bucket's URL.
        places: files or folders on this machine's disks that others must see too.
    """
    fitness = Fitness(root, f"probes/{uuid.uuid4().hex}", uuid.uuid4().hex, code_versions(), tuple(places))
    _write(root, fitness.probe, fitness.token)
    try:
        yield fitness
    finally:
        _remove(root, fitness.probe)


def _read(root: str, name: str) -> str:
    if "://" in root:
        return (Bucket(root).read(name) or b"no such object").decode()
    return (Path(root) / name).read_text()


def _write(root: str, name: str, content: str) -> None:
    if "://" in root:
        Bucket(root).replace(name, content.encode())
    else:
        replace_file(Path(root) / name, content.encode())


def _remove(root: str, name: str) -> None:
    if "://" in root:
        Bucket(root).remove(name)
    else:
        (Path(root) / name).unlink(missing_ok=True)


def _connect(address: str) -> Client:
    _host_and_port(address)
    try:
        return Client(scheduler_file=address) if address.endswith(".json") else Client(address)
    except (ValueError, TypeError) as error:
        raise UserError(f"scheduler {address!r}: {error}; give tcp://HOST:PORT, tls://HOST:PORT or a scheduler file") from error
    except OSError as error:
        raise TransientError(f"scheduler {address}: nobody answers: {error}") from error


def _check_workers(client: Client, address: str, fitness: Fitness) -> None:
    answers = client.run(fitness.fault, on_error="return")
    faults = [f"{worker}: {fault}" for worker, fault in sorted(answers.items()) if fault is not None]
    workers = client.scheduler_info(n_workers=-1)["workers"]
    for worker, info in sorted(workers.items()):
        if info["nthreads"] != 1:
            faults.append(f"{worker}: runs {info['nthreads']} tasks at once: start workers with --nthreads 1, more of them")
    if faults:
        more = f" (and {len(faults) - SHOWN_FAULTS} more)" if len(faults) > SHOWN_FAULTS else ""
        raise UserError(f"scheduler {address}: {'; '.join(faults[:SHOWN_FAULTS])}{more}")


@cache
def code_versions() -> dict[str, str]:
    """Versions that make the rows in this process: Python, packages, and a digest of our own sources."""
    found = {"Python": platform.python_version(), "pipeline_lib": _sources_digest()}
    for name in {*_PACKAGES, *_packages_of_dumps()}:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _packages_of_dumps() -> list[str]:
    with suppress(PackageNotFoundError):
        needed = map(Requirement, requires(PROJECT) or ())
        return [one.name for one in needed if one.marker and one.marker.evaluate({"extra": "dumps"})]
    return []


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for folder in (Path(__file__).parents[1], Path(schemas.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
