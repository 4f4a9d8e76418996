"""Changes of a dump since it was listed last, file by file and by content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from pipeline_lib.sources.dump_files import FILES
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.store.artifact import Artifact

SHOWN = 5  # files that a sentence names of each kind
File = tuple[str, int]  # content and bytes
Files = Mapping[tuple[str, str], File]  # by source and path


@dataclass(frozen=True)
class Changes:
    """Files of a dump, each as SOURCE: PATH, and the bytes that are to be read.

    Attributes:
        bytes: of the new and the changed files.
        total_bytes: of all files that are there now.
        shrunk: share of its bytes that the dump has lost; 0 where it has grown.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    bytes: int = 0
    total_bytes: int = field(default=0, compare=False)
    shrunk: float = 0.0

    @property
    def any(self) -> bool:
        """True if one file at least is not as it was."""
        return bool(self.new or self.changed or self.removed)

    @property
    def share(self) -> float:
        """The share of the bytes that are new: about that of the pairs."""
        return self.bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def sentence(self) -> str:
        """The numbers of files."""
        counts = {"new": self.new, "changed": self.changed, "removed": self.removed}
        told = ", ".join(f"{len(files):,} {kind}" for kind, files in counts.items() if files)
        files = sum(map(len, counts.values()))
        return f"{told} file{'s' if files > 1 else ''}" if told else "no file is new, changed or removed"

    def lines(self) -> list[str]:
        """The first files of each kind."""
        told = []
        for kind, files in (("new", self.new), ("changed", self.changed), ("removed", self.removed)):
            told += [f"{kind:<8} {name}" for name in files[:SHOWN]]
            told += [f"{kind:<8} and {len(files) - SHOWN:,} more"] if len(files) > SHOWN else []
        return told


def changes_between(before: Files, now: Files) -> Changes:
    """What is new, changed and removed from one listing to the next."""
    new = sorted(name for name in now if name not in before)
    changed = sorted(name for name in now if name in before and now[name] != before[name])
    removed = sorted(name for name in before if name not in now)
    read = sum(now[name][1] for name in (*new, *changed))
    had, total = (sum(size for _, size in files.values()) for files in (before, now))
    return Changes(_told(new), _told(changed), _told(removed), read, total, max(0.0, 1 - total / had) if had else 0.0)


def _told(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{source}: {path}" for source, path in names)


def files_of(listing: Artifact) -> Files:
    """The files of an artifact of the stage "source"."""
    table = pq.read_table(listing.part_folder() / FILES, columns=["source", "path", "sha256", "bytes"])
    return {(source, path): (sha256, size) for source, path, sha256, size in zip(*table.to_pydict().values(), strict=True)}


def listed_files(files: Iterable[SourceFile]) -> Files:
    """The same of files that were listed just now."""
    return {(file.source, file.path): (file.sha256, file.bytes) for file in files}
