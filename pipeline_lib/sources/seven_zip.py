"""Members of 7-Zip archives, read in their order by libarchive, the C library; nothing is unpacked to the disk.

Many members may be one compressed block, and so what is skipped is decompressed too, and counts for the bound on expansion.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Expanded, Unreadable
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.time_limit import sign_of_life

_MISSING = (
    "7-Zip, which needs libarchive: pip install 'cpt-factory[dumps]', and the library itself (apt-get install libarchive13, or"
    " brew install libarchive); or unpack it: 7z x FILE"
)


class SevenZipEntry(NamedTuple):
    """One member: readable until the next one is asked for."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    target: str  # of a link
    entry: Any

    def read(self, max_bytes: int) -> bytes | Refusal:
        """Its content, of which no more than `max_bytes` + 1 are held."""
        parts, size = [], 0
        try:
            for block in self.entry.get_blocks():
                parts.append(block[: max_bytes + 1 - size])
                size += len(parts[-1])
                if size > max_bytes:
                    break
        except _library().ArchiveError as error:
            if "ncrypt" in str(error) or "assphrase" in str(error):
                return Refusal("encrypted", "a member that needs a password")
            raise _unreadable(error) from error
        content = b"".join(parts)
        return content if size == self.size else Refusal("damaged", f"{size} bytes of {self.size}")


def seven_zip_entries(stream: Expanded, limits: ReadLimits) -> Iterator[SevenZipEntry]:
    """The entries of an archive in its order.

    Raises:
        Unreadable: `truncated`, `damaged` or `expansion_limit`; the members before were good. `unsupported_compression`
            where libarchive is not here.
    """
    library = _library()
    os.lseek(stream.raw.fileno(), 0, os.SEEK_SET)
    left = stream.most
    try:
        with library.fd_reader(stream.raw.fileno(), "7zip") as archive:
            for entry in archive:
                sign_of_life()
                size = entry.size or 0
                left -= size
                if left < 0:
                    detail = f"more than {stream.most:.0f} bytes come out of {stream.size}; see source.limits.max_expansion"
                    raise Unreadable(Refusal("expansion_limit", detail))
                yield SevenZipEntry(entry.pathname or "", _kind(entry), size, entry.linkpath or "", entry)
    except library.ArchiveError as error:
        raise _unreadable(error) from error


def _library() -> Any:
    try:
        import libarchive
    except (ImportError, OSError, AttributeError, TypeError) as error:  # without the C library its package cannot be loaded
        raise Unreadable(Refusal("unsupported_compression", _MISSING)) from error
    if "UTF-8" not in locale.nl_langinfo(locale.CODESET).upper():  # else it drops names that are not ASCII
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    return libarchive


def _kind(entry: Any) -> Literal["file", "folder", "link", "special"]:
    if entry.isdir:
        return "folder"
    if entry.issym or entry.islnk:
        return "link"
    return "file" if entry.isfile else "special"


def _unreadable(error: Exception) -> Unreadable:
    reason = "truncated" if "runcated" in str(error) else "damaged"
    return Unreadable(Refusal(reason, f"no sound 7-Zip archive: {ascii(str(error))[:200]}"))
