"""Cutting a dump into bundles: what one process reads in one go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from pipeline_lib.artifact import Record, digest_of
from pipeline_lib.config import SourceConfig
from pipeline_lib.sources.dump_files import list_dump
from pipeline_lib.sources.dump_spec import read_spec
from pipeline_lib.sources.python_installation import list_python
from pipeline_lib.sources.source_file import COPY_MARK, SourceFile
from pipeline_lib.sources.source_tree import list_tree

# One path in 32 may start a bundle once it is half full. So where a bundle ends depends on the paths near it alone, and a
# new file moves one bound or two, not all that follow.
CUT_ONE_IN = 32


class Bundle(Record):
    """Files that are extracted together, as one part. Equal digests: equal rows come out."""

    label: str  # its first file's source, and its path where that is not the source's first
    digest: str
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def list_bundles(config: SourceConfig) -> list[Bundle]:
    """The bundles of a dump spec or a folder or, where neither is named, of this machine's Python.

    Raises:
        UserError: the folder cannot be read or is empty; the project is not installed.
    """
    return bundles_of(list_files(config), config.max_bundle_bytes)


def list_files(config: SourceConfig) -> list[SourceFile]:
    """The files of a dump spec or a folder or, where neither is named, of this machine's Python."""
    if config.dump:
        return list_dump(read_spec(config.dump))
    return list_tree(config.folder) if config.folder else list_python()


def bundles_of(files: Iterable[SourceFile], max_bytes: int) -> list[Bundle]:
    """Cut files, in the order of (source, path), into bundles of at most `max_bytes`; a larger file is alone in its own."""
    bundles: list[Bundle] = []
    pending: list[SourceFile] = []
    size = 0
    last_source = ""
    for file in _told_apart(sorted(files, key=lambda file: (file.source, file.path, file.sha256))):
        full = size + file.bytes > max_bytes or (size > max_bytes // 2 and _may_start(file))
        if pending and full:
            bundles.append(_bundle(pending, last_source))
            last_source, pending, size = pending[-1].source, [], 0
        pending.append(file)
        size += file.bytes
    if pending:
        bundles.append(_bundle(pending, last_source))
    return bundles


def _told_apart(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """The files, each with a path of its own: names of other bytes can be shown alike."""
    last, copies = ("", ""), 1
    for file in files:
        copies = copies + 1 if (file.source, file.path) == last else 1
        last = file.source, file.path
        yield file.model_copy(update={"path": f"{file.path}{COPY_MARK}{copies}"}) if copies > 1 else file


def _may_start(file: SourceFile) -> bool:
    return int.from_bytes(hashlib.sha256(file.path.encode()).digest()[:4], "big") % CUT_ONE_IN == 0


def _bundle(files: list[SourceFile], source_before: str) -> Bundle:
    first = files[0]
    label = first.source if first.source != source_before else f"{first.source} from {first.path}"
    digest = digest_of([label, [file.identity for file in files]])
    return Bundle(label=label, digest=digest, files=tuple(files))
