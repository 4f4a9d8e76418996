"""A tar archive as a stream of entries: tarfile reads the headers, within bounds, and stops loudly where they are broken."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple, Self, cast

from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.safe_open import Refusal

MAX_HEADER_BYTES = 256 * 1024  # of one extended header: tarfile reads it whole; real ones hold a long path or attributes

_EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

_BROKEN = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


class TarEntry(NamedTuple):
    """One member: readable until the next one is asked for."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    target: str  # of a link
    archive: tarfile.TarFile
    info: tarfile.TarInfo

    def read(self, max_bytes: int) -> bytes | Refusal:
        """Its content, of which no more than `max_bytes` + 1 are read."""
        try:
            stream = self.archive.extractfile(self.info)
            assert stream is not None, f"{self.name}: a regular member without content"
            content = stream.read(max_bytes + 1)
        except _BROKEN as error:
            raise _unreadable(error) from error
        return content if len(content) == self.size else Refusal("damaged", f"{len(content)} bytes of {self.size}")


def tar_entries(stream: io.RawIOBase) -> Iterator[TarEntry]:
    """The entries of a tar archive in its order.

    Raises:
        Unreadable: `truncated`, `damaged` or `expansion_limit`; the members before were good.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_Header, encoding="utf-8") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps them all: a gigabyte for a million
                yield TarEntry(info.name.removeprefix("./"), _kind(info), info.size, info.linkname, archive, info)
    except _BROKEN as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Unreadable:
    reason = "truncated" if "unexpected end" in str(error) else "damaged"
    return Unreadable(Refusal(reason, f"no sound tar archive: {type(error).__name__}: {ascii(str(error))[:200]}"))


class _Header(tarfile.TarInfo):
    """A header that ends the reading where it is broken; tarfile itself would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As tarfile's, but a broken header is refused."""
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise Unreadable(Refusal("truncated", "the archive ends without its end mark: get the file again")) from error
        except tarfile.HeaderError as error:
            raise Unreadable(Refusal("damaged", f"a broken header: {error}")) from error
        if info.type in _EXTENDED and info.size > MAX_HEADER_BYTES:
            detail = f"an extended header of {info.size} bytes, at most {MAX_HEADER_BYTES} are read"
            raise Unreadable(Refusal("expansion_limit", detail))
        if info.size < 0:
            raise Unreadable(Refusal("damaged", f"a member of {info.size} bytes"))
        return info


def _kind(info: tarfile.TarInfo) -> Literal["file", "folder", "link", "special"]:
    if info.issparse():
        return "special"  # a terabyte of holes in one block, and a map that tarfile does not check
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "special"
