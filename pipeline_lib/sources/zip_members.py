"""A zip archive as entries: its directory is read within bounds, and a directory that lies about it is refused."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import Literal, NamedTuple

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.decompress import FREE_BYTES, Unreadable
from pipeline_lib.sources.safe_open import Refusal

MAX_DIRECTORY_BYTES = 32 * 1024**2  # some 300,000 members, which take 300 MB of memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may decompress to any size in one call
_LOCAL_HEADER_BYTES = 30


class _Budget:
    """How much may still come out of an archive."""

    def __init__(self, size: int, limits: ReadLimits) -> None:
        self.most = self.left = min(limits.max_expanded_bytes, max(FREE_BYTES, int(size * limits.max_expansion)))

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unreadable(Refusal("expansion_limit", f"more than {self.most} bytes come out; see source.limits"))


class ZipEntry(NamedTuple):
    """One member."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    target: str
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    budget: _Budget

    def read(self, max_bytes: int) -> bytes | Refusal:
        """Its content, of which no more than `max_bytes` + 1 are decompressed."""
        if self.info.flag_bits & 0x1:
            return Refusal("encrypted", "a member that needs a password")
        if self.info.compress_type not in _METHODS:
            return Refusal("unsupported_compression", f"method {self.info.compress_type}, only stored and deflated are read")
        try:
            with self.archive.open(self.info) as stream:
                content = stream.read(max_bytes + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error, NotImplementedError, OSError) as error:
            return Refusal("damaged", f"{type(error).__name__}: {ascii(str(error))[:200]}", self.info.header_offset)
        self.budget.take(len(content))
        return content if len(content) == self.size else Refusal("damaged", f"{len(content)} bytes of {self.size}")


def zip_entries(stream: BufferedReader, limits: ReadLimits) -> Iterator[ZipEntry]:
    """The entries of a zip archive in the order of its directory.

    Raises:
        Unreadable: `truncated`, `damaged` or `expansion_limit`.
    """
    size = stream.seek(0, 2)
    _check_directory(stream)
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError, OverflowError) as error:
        raise Unreadable(Refusal("damaged", f"no sound zip directory: {ascii(str(error))[:200]}")) from error
    infos = archive.infolist()
    _check_overlaps(infos, archive.start_dir)
    budget = _Budget(size, limits)
    for info in infos:
        yield ZipEntry(info.filename, _kind(info), info.file_size, "its content", archive, info, budget)


def _check_directory(stream: BufferedReader) -> None:
    end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # the one way to know the size before it is read
    if end is None:
        raise Unreadable(Refusal("truncated", "a zip archive without its directory, which stands at the end: get it again"))
    if end[zipfile._ECD_SIZE] > MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        detail = f"a directory of {end[zipfile._ECD_SIZE]} bytes, at most {MAX_DIRECTORY_BYTES} are read"  # type: ignore[attr-defined]
        raise Unreadable(Refusal("too_many_members", detail))


def _check_overlaps(infos: list[zipfile.ZipInfo], directory: int) -> None:
    """Members that share bytes are how 10 MB become 281 TB (D. Fifield, A better zip bomb, 2019)."""
    bounds = [(info.header_offset, info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size) for info in infos]
    last = 0
    for start, end in [*sorted(bounds), (directory, directory)]:
        if start < last:
            raise Unreadable(Refusal("expansion_limit", "members that overlap: a bomb, or a damaged directory", start))
        last = end


def _kind(info: zipfile.ZipInfo) -> Literal["file", "folder", "link", "special"]:
    mode = info.external_attr >> 16
    if info.is_dir():
        return "folder"
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if not stat.S_IFMT(mode) or stat.S_ISREG(mode) else "special"
