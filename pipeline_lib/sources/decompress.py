"""Decompression: streams that stop at a bound and tell where they are broken. Reads .gz, .bz2, .xz, .zst; plain ones too.

A file that is one stream (JSON Lines, a tar archive, an XML export) is worth nothing where it is cut off: what came out of it
would depend on where. It is read to its end once before, and refused as a whole:

    refusal = check_stream(file.place, limits, file.sha256)
    if refusal is not None:
        yield SourceRecord(file, refusal)
        return
    with open_expanded(file.place, limits) as stream:
        ...  # a binary file: stream.readline(), tarfile.open(fileobj=stream, mode="r|")

Both passes hold less than 1 MiB (zstd: its window and 32 MiB). `open_expanded` and reading raise `Unreadable`, whose
`refusal` says why; after `check_stream` that happens only where the file changes between the two.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.safe_open import Refusal, open_regular, read_bytes
from pipeline_lib.sources.time_limit import sign_of_life

FREE_BYTES = 1024**2  # of output before the expansion counts: a small file of zeros is no bomb
_READ_BYTES = 64 * 1024
_ZSTD_READ_BYTES = 1024  # four bytes of zstd may hold 128 KiB and its output cannot be capped: 32 MiB at most a read
_BZIP2_BYTES = 1024**2  # nothing comes out of less than a block, of 900,000 bytes at most
_OUT_BYTES = 256 * 1024
_LZMA_BYTES = 128 * 1024**2  # the memory that an .xz file may ask for; those of `xz -9` ask for 65 MiB
_WINDOW_BYTES = 128 * 1024**2  # zstd's own limit; files made with --long=31 ask for 2 GiB and are refused


class Unreadable(Exception):  # neither OSError nor EOFError: a library that reads from the stream would swallow those
    """A stream that cannot be read on, with the refusal that says why and where."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.detail}")
        self.refusal = refusal


class _Gzip:
    """zlib's decompressor under the interface that bz2's and lzma's have."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + data, most)

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data


class _Zstd:
    """The same for zstandard's, which gives all at once."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self.inner = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        self.error = zstandard.ZstdError

    def decompress(self, data: bytes, most: int) -> bytes:
        try:
            return self.inner.decompress(data)
        except self.error as error:
            raise ValueError(str(error)) from error

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data


_DECODERS: dict[str, Callable[[], Any]] = {
    "gz": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES),
    "zst": _Zstd,
}
_MAGIC = {"gz": b"\x1f\x8b\x08", "bz2": b"BZh", "xz": b"\xfd7zXZ\0", "zst": b"\x28\xb5\x2f\xfd"}
_SUFFIXES = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
_ENDINGS = tuple(_SUFFIXES)


class Expanded(io.RawIOBase):
    """What a file holds, decompressed as it is read; no read spans two members (gzip), streams or frames (zstd).

    Raises, while it is read:
        Unreadable: `truncated`, `damaged` (offset: where in the file the reading stood) or `expansion_limit`.
    """

    def __init__(self, raw: io.BufferedReader, codec: str, limits: ReadLimits) -> None:
        super().__init__()
        self.raw, self.codec = raw, codec
        self.size = os.fstat(raw.fileno()).st_size
        self.most = min(limits.max_expanded_bytes, max(FREE_BYTES, int(self.size * limits.max_expansion)))
        self.expanded = 0  # bytes that came out
        self.raw_read = 0  # where in the file the reading stands
        self.member_start = 0  # where in the file the member begins that the last bytes came from
        self._compressed = b""  # read and not given to the decoder
        self._decoder: Any = None  # None: between two members
        self._left = memoryview(b"")  # what came out and did not fit into a buffer

    def readable(self) -> bool:
        """It is a stream to read."""
        return True

    def readinto(self, into: Any, /) -> int:
        """Fill some of a buffer; 0 is the end of the file."""
        if not self._left:
            self._left = memoryview(self.read_some())
        taken = min(len(into), len(self._left))
        into[:taken] = self._left[:taken]
        self._left = self._left[taken:]
        return taken

    def read_some(self, most: int = _OUT_BYTES) -> bytes:
        """The next bytes, of one member; empty at the end. At most `most` of them, but up to 32 MiB from zstd."""
        if self.codec == "plain":
            return self._read(most)
        while self._decoder is not None or self._begin_member():
            data = self._decode(most)
            if self._decoder.eof:
                self._compressed, self._decoder = self._decoder.unused_data, None
            self.expanded += len(data)
            if self.expanded > self.most:
                detail = f"more than {self.most} bytes come out of {self.size}; see source.limits"
                raise Unreadable(Refusal("expansion_limit", detail, self.raw_read))
            if data:
                return data
        return b""

    def skip_damage(self, marker: bytes) -> bool:
        """Go on at the first later member whose content begins with a marker; False where there is none."""
        magic = _MAGIC.get(self.codec, b"")
        self._left = memoryview(b"")
        position = self.member_start + 1
        while magic and (position := self._find(magic, position)) >= 0:
            self.raw.seek(position)
            try:
                head = self.raw.read(_BZIP2_BYTES if self.codec == "bz2" else _ZSTD_READ_BYTES)
                found = _DECODERS[self.codec]().decompress(head, len(marker)).startswith(marker)
            except (zlib.error, OSError, lzma.LZMAError, ValueError):
                found = False
            if found:
                self.raw.seek(position)
                self.raw_read, self._compressed, self._decoder = position, b"", None
                return True
            position += 1
        return False

    def close(self) -> None:
        """Close the file too."""
        self.raw.close()
        super().close()

    def _begin_member(self) -> bool:
        """Make a decoder where another member begins; False at the end of the file. Zeros between members are padding."""
        first = self.raw_read == 0
        data = self._compressed or self._read(self._chunk)
        while data and not first and not (data := data.lstrip(b"\0")):
            data = self._read(self._chunk)
        if not data and not first:
            return False
        self.member_start = self.raw_read - len(data)
        self._compressed, self._decoder = data, _DECODERS[self.codec]()
        return True

    def _decode(self, most: int) -> bytes:
        data = b""
        if self._decoder.needs_input:
            data, self._compressed = self._compressed or self._read(self._chunk), b""
        try:
            out: bytes = self._decoder.decompress(data, most)
        except (zlib.error, OSError, lzma.LZMAError, ValueError) as error:
            raise Unreadable(Refusal("damaged", f"no {self.codec} data: {error}", self.raw_read - len(data))) from error
        if not out and not data and not self._decoder.eof and self._decoder.needs_input:
            detail = f"the {self.codec} stream that begins at byte {self.member_start} has no end: get the file again"
            raise Unreadable(Refusal("truncated", detail, self.raw_read))
        return out

    @property
    def _chunk(self) -> int:
        return _ZSTD_READ_BYTES if self.codec == "zst" else _READ_BYTES

    def _read(self, most: int) -> bytes:
        sign_of_life()
        try:
            data = self.raw.read(most)
        except OSError as error:
            raise Unreadable(Refusal("unreadable", error.strerror or str(error), self.raw_read)) from error
        self.raw_read += len(data)
        return data

    def _find(self, wanted: bytes, position: int) -> int:
        """Offset in the file of the next such bytes, from a position on; -1: none."""
        self.raw.seek(position)
        before = b""
        while data := self.raw.read(_READ_BYTES):
            sign_of_life()
            window = before + data
            if (at := window.find(wanted)) >= 0:
                return position - len(before) + at
            position += len(data)
            before = window[-len(wanted) + 1 :]
        return -1


def without_suffix(path: str) -> str:
    """A file's name without what says that it is compressed: `book.txt` of `book.txt.gz`."""
    if not path.lower().endswith(_ENDINGS):  # a path made of each file's name would cost as much as opening it
        return path
    suffix = PurePath(path).suffix
    return path[: -len(suffix)] if suffix.lower() in _SUFFIXES else path


def open_expanded(place: str, limits: ReadLimits) -> Expanded:
    """Open a file to read what it holds, decompressed where its name or its first bytes say that it is compressed.

    Raises:
        Unreadable: it is missing, no regular file, or not to be opened.
    """
    raw = open_regular(place)
    if isinstance(raw, Refusal):
        raise Unreadable(raw)
    codec = _SUFFIXES.get(PurePath(place).suffix.lower())
    if codec is None:
        head = raw.read(8)
        raw.seek(0)
        codec = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "plain")
    return Expanded(raw, codec, limits)


def check_stream(place: str, limits: ReadLimits, sha256: str = "") -> Refusal | None:
    """Read a file to its end: why it cannot be read whole, or None where it can.

    Args:
        sha256: what the file must be, where it is known: one that changed since it was listed is refused.
    """
    try:
        with open_expanded(place, limits) as stream:
            if sha256 and (got := _digest(stream.raw)) != sha256:
                return Refusal("content_changed", f"sha256 is {got}, listed as {sha256}: list the dump again")
            stream.raw.seek(0)
            while stream.codec != "plain" and stream.read_some():
                pass
    except Unreadable as error:
        return error.refusal
    return None


def read_whole(place: str, limits: ReadLimits, max_bytes: int, sha256: str = "") -> bytes | Refusal:
    """Content of a file, decompressed where its name says so; or why it is not read: too large, damaged, or changed."""
    if without_suffix(place) == place:
        return read_bytes(place, max_bytes, sha256)
    refusal = check_stream(place, limits, sha256)
    if refusal is not None:
        return refusal
    try:
        with open_expanded(place, limits) as stream:
            data = io.BufferedReader(stream).read(max_bytes + 1)
    except Unreadable as error:
        return error.refusal
    return data if len(data) <= max_bytes else Refusal("file_too_large", f"more than {max_bytes} bytes come out of it")


def _digest(stream: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while data := stream.read(_OUT_BYTES):
        digest.update(data)
        sign_of_life()
    return digest.hexdigest()
