"""Garbage of a store: what killed workers left and, when asked, what no kept lineage needs.

Found, in this order:
- scratch folders whose process is dead (`locks`); those without a lock of a process, when untouched for `idle_hours`;
- folders of parts without a record, and timeout logs of texts whose part is finished, when untouched for `idle_hours`;
- with `keep_runs`: artifacts that are no ancestor of the newest so many indexes and exports nor of the published ones, and no
  card of theirs, and the parts that no manifest names then; of cached vectors those that nobody read since the oldest of the
  kept indexes and exports was made. A manifest goes before its parts, so that no artifact is ever seen
  without them. The run whose checkpoint was tuned is an ancestor of the tuned one: it is measured on that run's corpus.

A trainer's states are kept: a killed run goes on from them.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import LOCKS, at_work, digest_of, is_alive, replace_file
from pipeline_lib.store.store import Store

ENDS = ("index", "export")  # stages whose artifacts people use
WHOLE = ("known_splits",)  # stages whose artifacts hold all that is needed of what they were made from
BASE = "base"  # input of an index that is the delta of another: what stays of that one was copied
CARD = "card"  # stays with its export
USERS, REGISTRY = "users", "registry"  # folders of a store and of an artifact root
VECTORS = "vectors"  # the cache of embeddings: parts that no manifest names, touched when they are read


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody needs, why, and its size."""

    path: Path
    why: str
    bytes: int


def find_leftovers(store: Store, idle_hours: float = 24.0) -> list[Leftover]:
    """What killed processes left in the store, or with a bucket in this machine's cache."""
    now = time.time()
    found = []
    for path, why in [*_scratch(store.root), *_half_parts(store.root), *_timeout_logs(store.root), *_dead_locks(store.root)]:
        alive = is_alive(store.root, _owner(path)) if path.parent.name == "scratch" else None
        if alive is False or (alive is None and now - _touched(path) >= idle_hours * 3600):
            found.append(Leftover(path, why, _size(path)))
    return found


def find_unneeded(store: Store, keep_runs: int, published: Sequence[str], idle_hours: float = 24.0) -> list[Leftover]:
    """Artifacts, and then their parts, that are no ancestor of what is kept.

    Args:
        store: on a disk.
        keep_runs: newest indexes, and as many exports, that are kept with all that they come from.
        published: content digests of artifacts that are kept besides.
        idle_hours: what was written later than that stays: a run that goes on may be about to use it.

    Raises:
        UserError: a process is at work in the store, or it is a bucket, in which other machines may be reading.
    """
    if store.bucket is not None:
        raise UserError(f"{store.remote}: artifacts of a bucket are not removed; give it a lifecycle rule, or prune a folder")
    if working := at_work(store.root):
        raise UserError(f"{working[0]}: a process is at work in this store; old runs can be removed when it is done")
    now = time.time()
    everything = [artifact for stage in _stages(store.root) for artifact in store.artifacts(stage)]
    ends = _ends(everything, keep_runs) | set(published)
    used_from = min((_touched(found.folder / "manifest.json") for found in everything if found.digest in ends), default=now)
    ends |= {found.digest for found in everything if found.manifest.stage == CARD and ends & {*found.manifest.inputs.values()}}
    kept = _with_ancestors(everything, ends)
    young = {artifact.digest for artifact in everything if now - _touched(artifact.folder) < idle_hours * 3600}
    gone = [artifact for artifact in everything if artifact.digest not in _with_ancestors(everything, kept | young)]
    lost = {artifact.folder for artifact in gone}
    named = {part.folder for artifact in everything if artifact.folder not in lost for part in artifact.manifest.parts}
    found = [Leftover(artifact.folder, "no kept lineage needs it", _size(artifact.folder)) for artifact in gone]
    for folder in sorted({part.folder for artifact in gone for part in artifact.manifest.parts} - named):
        place = store.root / folder
        found.append(Leftover(place, "part of artifacts that no kept lineage needs", _size(place)))
    unread = _unread_vectors(store.root, min(used_from, now - idle_hours * 3600))
    return [*found, *(Leftover(place, "vectors that no kept run has read", _size(place)) for place in unread)]


def remove(store: Store, leftovers: Sequence[Leftover]) -> int:
    """Remove them, manifests and records first; returns the bytes freed."""
    for leftover in leftovers:
        assert leftover.path.is_relative_to(store.root), f"{leftover.path} is outside of {store.root}"
        if leftover.path.parent.name == "parts":
            _record(leftover.path).unlink(missing_ok=True)
        if leftover.path.is_dir():
            (leftover.path / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            leftover.path.unlink(missing_ok=True)
    return sum(leftover.bytes for leftover in leftovers)


def note_home(root: Path, home: Path) -> None:
    """Write down that an artifact root publishes from a store outside of it, so that no other one prunes that away."""
    if not root.is_relative_to(home):
        user = {"host": socket.gethostname(), "home": str(home)}
        path = root / USERS / f"{digest_of(user)[:16]}.json"
        if not path.exists():
            replace_file(path, json.dumps(user).encode())


def homes_of(root: Path, own: Path) -> list[Path]:
    """The artifact roots that publish from a store: that of this process, the one that it lies in, and those that noted it.

    Raises:
        UserError: one of them is not to be seen from this machine.
    """
    found = {own.absolute(): "", root.parent: ""}
    for path in sorted((root / USERS).glob("*.json")):
        user = json.loads(path.read_bytes())
        found.setdefault(Path(user["home"]), f"{user['home']} of the machine {user['host']} publishes from {root}")
    for home, why in found.items():
        if why and not (home / REGISTRY).is_dir():
            raise UserError(f"{why}, and is not to be seen here: prune there; where it is gone for good, remove {root}/{USERS}")
    return list(found)


def _ends(everything: Sequence[Artifact], keep_runs: int) -> set[str]:
    kept: set[str] = set()
    for stage in ENDS:
        of_stage = [artifact for artifact in everything if artifact.manifest.stage == stage]
        newest = sorted(of_stage, key=lambda artifact: _touched(artifact.folder / "manifest.json"), reverse=True)
        kept |= {artifact.digest for artifact in newest[:keep_runs]}
    return kept


def _with_ancestors(everything: Sequence[Artifact], digests: set[str]) -> set[str]:
    holders = {part.digest: artifact.digest for artifact in everything for part in artifact.manifest.parts}
    inputs = {
        artifact.digest: (*_needed_inputs(artifact), *_start(artifact, holders))
        for artifact in everything
        if artifact.manifest.stage not in WHOLE
    }
    seen: set[str] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest not in seen:
            seen.add(digest)
            waiting += inputs.get(digest, ())
    return seen


def _needed_inputs(artifact: Artifact) -> Iterator[str]:
    return (digest for name, digest in artifact.manifest.inputs.items() if name != BASE)


def _start(artifact: Artifact, holders: Mapping[str, str]) -> Iterator[str]:
    """The artifact whose part training began from: a config names it by its content."""
    model = artifact.manifest.config.get("model")
    start = str(model.get("init")) if isinstance(model, dict) else ""
    if start in holders:
        yield holders[start]


def _unread_vectors(root: Path, since: float) -> Iterator[Path]:
    """Folders of cached vectors that were last read before then, by the time of their record."""
    for place in sorted((root / VECTORS / "parts").glob("*")):
        if place.is_dir() and _record(place).exists() and _record(place).stat().st_mtime < since:
            yield place


def _stages(root: Path) -> list[str]:
    return sorted({path.parent.parent.name for path in root.glob("*/*/manifest.json")})


def _scratch(root: Path) -> Iterator[tuple[Path, str]]:
    return ((path, "scratch of a process that is gone") for path in sorted(root.glob("*/scratch/*")))


def _half_parts(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.glob("*/parts/*")):
        if path.is_dir() and not _record(path).exists():
            yield path, "part without a record: its writer died before it"


def _timeout_logs(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.glob("*/timeouts/*")):
        if (path.parents[1] / "parts" / f"{path.name}.json").exists():
            yield path, "timeout log of a finished part"


def _dead_locks(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / LOCKS).glob("*")):
        if is_alive(root, path.name) is False:
            yield path, "lock of a process that is gone"


def _owner(scratch: Path) -> str:
    return scratch.name.rpartition("-")[0]


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name.rpartition('-')[0]}.json")


def _touched(path: Path) -> float:
    """When anything below was last written."""
    times = [place.lstat().st_mtime for place in (path, *path.rglob("*")) if place.is_symlink() or place.exists()]
    return max(times, default=time.time())


def _size(path: Path) -> int:
    return sum(place.lstat().st_size for place in (path, *path.rglob("*")) if place.is_file() and not place.is_symlink())
