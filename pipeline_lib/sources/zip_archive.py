"""Members of zip archives, by the directory at the end or, where that is gone, by the header before each; none is unpacked."""

from __future__ import annotations

import io
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from typing import Any, Literal, NamedTuple, cast

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.time_limit import sign_of_life

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may decompress to any size in one call
_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER, _DIRECTORY, _DESCRIPTOR = b"PK\3\4", b"PK\1\2", b"PK\7\x08"
_DESCRIBED_BEHIND = 0x8  # a flag: lengths and checksum stand behind the content
_PIECE_BYTES = 64 * 1024
ZIPS = (_LOCAL_HEADER, b"PK\5\6")


class _Budget:
    """How much may still come out of an archive."""

    def __init__(self, size: int, limits: ReadLimits) -> None:
        by_ratio = max(limits.free_expansion_bytes, size * limits.max_expansion)
        self.most = self.left = min(by_ratio, math.inf if limits.max_expanded_bytes is None else limits.max_expanded_bytes)

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unreadable(Refusal("expansion_limit", f"more than {self.most:.0f} bytes come out; see source.limits"))


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
    budget = _Budget(size, limits)
    if (refusal := _directory_refusal(stream, limits)) is not None:
        yield from _without_directory(stream, budget, refusal)
        return
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError, OverflowError) as error:
        refusal = Refusal("damaged", f"no sound zip directory: {ascii(str(error))[:200]}")
        yield from _without_directory(stream, budget, refusal)
        return
    infos = archive.infolist()
    _check_overlaps(infos, archive.start_dir)
    for info in infos:
        yield ZipEntry(info.filename, _kind(info), info.file_size, "its content", archive, info, budget)


def _directory_refusal(stream: BufferedReader, limits: ReadLimits) -> Refusal | None:
    try:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # the one way to know the size before it is read
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError) as error:
        return Refusal("damaged", f"no sound zip directory: {ascii(str(error))[:200]}")
    if end is None:
        return Refusal("truncated", "a zip archive without its directory, which stands at the end: get it again")
    size, most = end[zipfile._ECD_SIZE], limits.max_directory_bytes  # type: ignore[attr-defined]
    if size > most:
        detail = f"a directory of {size} bytes, at most {most} are read; see source.limits.max_directory_bytes"
        raise Unreadable(Refusal("too_many_members", detail))
    return None


def _without_directory(stream: BufferedReader, budget: _Budget, refusal: Refusal) -> Iterator[ZipEntry]:
    """The members of an archive whose directory is gone, by the header before each; then the refusal is raised.

    Where a header does not tell its member's length, as of archives that were written to a pipe, the deflated content itself
    says where it ends.
    """
    at, size = 0, stream.seek(0, 2)
    while True:
        stream.seek(at)
        head = stream.read(_LOCAL_HEADER_BYTES)
        if len(head) < _LOCAL_HEADER_BYTES or not head.startswith(_LOCAL_HEADER):
            break
        _, _, flags, method, _, _, crc, packed, length, named, extra = struct.unpack("<4s5H3L2H", head)
        name = stream.read(named).decode("utf-8" if flags & 0x800 else "cp437", "replace")
        begin = at + _LOCAL_HEADER_BYTES + named + extra
        after = begin + packed
        if flags & _DESCRIBED_BEHIND:
            if (measured := _measured(stream, begin, method)) is None:
                break
            packed, length, crc, after = measured
        if 0xFFFFFFFF in (packed, length) or after > size:
            break
        info = zipfile.ZipInfo(name)
        info.flag_bits, info.compress_type, info.CRC, info.header_offset = flags, method, crc, at
        info.compress_size, info.file_size, at = packed, length, after
        kind: Literal["file", "folder"] = "folder" if name.endswith("/") else "file"
        yield ZipEntry(name, kind, length, "its content", _LocalMembers(stream), info, budget)
    lost = size if refusal.reason == "truncated" else size - at
    raise Unreadable(replace(refusal, offset=at, lost_bytes=lost))


def _measured(stream: BufferedReader, begin: int, method: int) -> tuple[int, int, int, int] | None:
    """Lengths of a deflated member, packed and unpacked, its checksum, and where the next one begins; None where it is cut."""
    if method != zipfile.ZIP_DEFLATED:
        return None
    inflater, length, crc, read = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0, 0
    stream.seek(begin)
    while not inflater.eof:
        piece = inflater.unconsumed_tail or stream.read(_PIECE_BYTES)
        read += 0 if inflater.unconsumed_tail else len(piece)
        try:
            out = inflater.decompress(piece, _PIECE_BYTES)
        except zlib.error:
            return None
        if not piece and not out:
            return None
        length, crc = length + len(out), zlib.crc32(out, crc)
        sign_of_life()
    packed = read - len(inflater.unused_data)
    stream.seek(begin + packed)
    behind = stream.read(24 + len(_LOCAL_HEADER))
    mark = 4 if behind.startswith(_DESCRIPTOR) else 0
    sizes = (mark + 12, mark + 20)  # the second is that of large files
    next_at = next((at for at in sizes if behind.startswith((_LOCAL_HEADER, _DIRECTORY), at)), min(sizes[0], len(behind)))
    stated = int.from_bytes(behind[mark : mark + 4], "little") if len(behind) >= mark + 4 else crc
    return packed, length, stated, begin + packed + next_at


class _LocalMembers(zipfile.ZipFile):
    """An archive of which only members are opened whose headers are known."""

    def __init__(self, stream: BufferedReader) -> None:
        super().__init__(io.BytesIO(), "w")
        self.mode, self.fp = "r", cast(Any, stream)

    def __del__(self) -> None:  # nothing is to be written behind what is read
        return


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
