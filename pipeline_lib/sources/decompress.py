"""Decompression: streams that stop at a bound and tell where they are broken; gzip, bzip2, xz, lzma, zstd, lz4, plain files.

The first bytes tell how a file is compressed, not its name. It is read once, from its first byte to its last:

    with open_expanded(file.place, limits) as stream:
        ...  # a binary file: stream.readline(), tarfile.open(fileobj=stream, mode="r|")

Where it ends early, reading raises `Unreadable`, whose `refusal` says why and where, once all is handed out that comes out of
the bytes before: the same bytes, however long the pieces are in which they are read. Reading holds less than 1 MiB (zstd: its
window and 32 MiB). `Reading` notes how far it came, and the digest of the bytes.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.codecs import SUFFIXES, Codec, codec_of, window_refusal
from pipeline_lib.sources.safe_open import Refusal, open_regular, read_bytes
from pipeline_lib.sources.time_limit import sign_of_life

_READ_BYTES = 64 * 1024
_BZIP2_BYTES = 1024**2  # nothing comes out of less than a block, of 900,000 bytes at most
_OUT_BYTES = 256 * 1024
_PIECES = 64  # that a small file is read in: how far reading came is known to a share of 1 in 64
_LEAST_READ_BYTES = 1024
_HEAD_BYTES = 512
_BROKEN = (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError, RuntimeError)
_CHECKSUM_ERRORS = ("data check", "length check", "checksum")  # of zlib, zstd and lz4
_ENDINGS = tuple(SUFFIXES)


class Unreadable(Exception):  # neither OSError nor EOFError: a library that reads from the stream would swallow those
    """A stream that cannot be read on, with the refusal that says why and where."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.detail}")
        self.refusal = refusal


class Reading:
    """Progress of reading one file, whoever opens it: how far it came, and the digest of the bytes up to there.

    Args:
        sha256: what the content must be; empty, or another mark such as etag:DIGEST: nobody knows.
    """

    def __init__(self, place: str, sha256: str) -> None:
        self.place = place
        self.sha256 = "" if ":" in sha256 else sha256
        self.position = 0  # in the file, as it is on disk; 0 too where its reader goes back and forth in it
        self._digest = hashlib.sha256()
        self._digested = 0

    def take(self, position: int, data: bytes) -> None:
        """Note bytes that were read at a position."""
        self.position = position + len(data)
        if self.sha256 and position == self._digested:
            self._digest.update(data)
            self._digested += len(data)

    def changed(self) -> Refusal | None:
        """The refusal of a file that is another than was listed; reads what was not read yet."""
        raw = open_regular(self.place) if self.sha256 else Refusal("", "")
        if isinstance(raw, Refusal):
            return None
        with raw:
            raw.seek(self._digested)
            while data := raw.read(_OUT_BYTES):
                self._digest.update(data)
                sign_of_life()
        got = self._digest.hexdigest()
        return None if got == self.sha256 else _changed(got, self.sha256)


_readings: dict[str, Reading] = {}


@contextmanager
def reading(place: str, sha256: str) -> Iterator[Reading]:
    """Follow how a file is read by whatever `open_expanded` opens it for meanwhile."""
    outer = _readings.get(place)
    _readings[place] = state = Reading(place, sha256)
    try:
        yield state
    finally:
        _readings.pop(place, None)
        if outer is not None:
            _readings[place] = outer


class Expanded(io.RawIOBase):
    """What a file holds, decompressed as it is read; no read spans two members (gzip), streams or frames (zstd).

    Raises, while it is read:
        Unreadable: `truncated`, `damaged` (offset: of the byte in the file), `expansion_limit`, `zstd_window`, `xz_memory`.
    """

    def __init__(self, raw: io.BufferedReader, codec: Codec | None, limits: ReadLimits, state: Reading | None = None) -> None:
        super().__init__()
        self.raw, self.codec, self.limits, self.state = raw, codec.name if codec else "plain", limits, state
        self.size = os.fstat(raw.fileno()).st_size
        by_ratio = max(limits.free_expansion_bytes, self.size * limits.max_expansion)
        self.most = min(by_ratio, math.inf if limits.max_expanded_bytes is None else limits.max_expanded_bytes)
        self.expanded = 0  # bytes that came out
        self.raw_read = 0  # where in the file the reading stands
        self.member_start = 0  # where in the file the member begins that the last bytes came from
        most = codec.read_bytes if codec else _OUT_BYTES
        self._piece = max(_LEAST_READ_BYTES, min(most, self.size // _PIECES))
        self._codec = codec
        self._compressed = b""  # read and not given to the decoder
        self._decoder: Any = None  # None: between two members
        self._left = memoryview(b"")  # what came out and did not fit into a buffer
        self._fed_at = 0  # where in the file the bytes stood that the decoder got last
        self._member_out = 0  # bytes that came out of the member
        self._again = 0  # of those, how many were handed out when it was decoded before
        self._byte_by_byte_from: int | None = None  # where in the file the piece begins that is known to be damaged

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
        if self._codec is None:
            return self._read(min(most, self._piece))
        while self._decoder is not None or self._begin_member():
            data = self._decode(most)
            if self._decoder is not None and self._decoder.eof:
                self._compressed, self._decoder = self._decoder.unused_data, None
            self.expanded += len(data)
            if self.expanded > self.most:
                raise self._ended("expansion_limit", self._bound(), self.raw_read)
            if data:
                return data
        return b""

    def skip_damage(self, marker: bytes) -> bool:
        """Go on at the first later member whose content begins with a marker; False where there is none."""
        self._left = memoryview(b"")
        position = self.member_start + 1
        while self._codec is not None and (position := self._find(self._codec.magics[0], position)) >= 0:
            self.raw.seek(position)
            try:
                head = self.raw.read(_BZIP2_BYTES if self.codec == "bz2" else _LEAST_READ_BYTES)
                found = self._codec.make(self.limits).decompress(head, len(marker)).startswith(marker)
            except _BROKEN:
                found = False
            if found:
                self._go_to(position)
                return True
            position += 1
        return False

    def close(self) -> None:
        """Close the file too."""
        self.raw.close()
        super().close()

    def _go_to(self, position: int) -> None:
        self.raw.seek(position)
        self.raw_read, self._compressed, self._decoder = position, b"", None
        self._again, self._byte_by_byte_from = 0, None

    def _begin_member(self) -> bool:
        """Make a decoder where another member begins; False at the end of the file. Zeros between members are padding."""
        assert self._codec is not None
        first = self.raw_read == 0
        data = self._compressed or self._read(self._piece)
        while data and not first and not (data := data.lstrip(b"\0")):
            data = self._read(self._piece)
        if not data and not first:
            return False
        self.member_start = self.raw_read - len(data)
        self._compressed, self._decoder, self._member_out = data, self._codec.make(self.limits), 0
        return True

    def _decode(self, most: int) -> bytes:
        data = b""
        if self._decoder.needs_input:
            data, self._compressed = self._compressed or self._read(self._next_piece()), b""
            self._fed_at = self.raw_read - len(data)
        try:
            out: bytes = self._decoder.decompress(data, most)
        except _BROKEN as error:
            if self._byte_by_byte_from is None:
                self._decode_again()
                return b""
            raise self._damaged(error) from error
        if not out and not data and not self._decoder.eof and self._decoder.needs_input:
            detail = f"the {self.codec} stream that begins at byte {self.member_start} has no end: get the file again"
            raise self._ended("truncated", detail, self.raw_read)
        self._member_out += len(out)
        if known := min(self._again, len(out)):
            self._again -= known
            out = out[known:]
        return out

    def _decode_again(self) -> None:
        """Decode the member anew, the damaged piece byte by byte: an error takes with it what came out of its piece."""
        assert self._codec is not None
        damaged, known = self._fed_at, self._member_out
        self._go_to(self.member_start)
        self._decoder, self._member_out = self._codec.make(self.limits), 0
        self._again, self._byte_by_byte_from = known, damaged

    def _next_piece(self) -> int:
        if self._byte_by_byte_from is None:
            return self._piece
        return min(self._piece, max(1, self._byte_by_byte_from - self.raw_read))

    def _damaged(self, error: Exception) -> Unreadable:
        assert self._codec is not None
        self.raw.seek(self.member_start)
        if (refusal := window_refusal(self._codec, error, self.raw.read(_HEAD_BYTES), self.limits)) is not None:
            return self._ended(refusal.reason, refusal.detail, self.member_start, self.size - self.member_start)
        # a checksum stands behind the content: which byte is wrong nobody knows
        if any(words in str(error) for words in _CHECKSUM_ERRORS):
            detail = f"the {self.codec} stream that begins at byte {self.member_start} is not what was written: {error}"
            return self._ended("damaged", detail, self._fed_at, self.size - self.member_start)
        return self._ended("damaged", f"no {self.codec} data: {error}", self._fed_at)

    def _ended(self, reason: str, detail: str, offset: int, lost_bytes: int | None = None) -> Unreadable:
        """The end before the end. Of a file that was cut nobody knows how much is missing: all of it is weighed."""
        lost = self.size if reason == "truncated" else self.size - offset
        return Unreadable(Refusal(reason, detail, offset, lost if lost_bytes is None else lost_bytes))

    def _bound(self) -> str:
        name = "max_expanded_bytes" if self.most == self.limits.max_expanded_bytes else "max_expansion"
        return f"more than {self.most:.0f} bytes come out of {self.size}; raise source.limits.{name} if it is no bomb"

    def _read(self, most: int) -> bytes:
        sign_of_life()
        try:
            data = self.raw.read(most)
        except OSError as error:
            raise self._ended("unreadable", error.strerror or str(error), self.raw_read) from error
        if self.state is not None:
            self.state.take(self.raw_read, data)
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
    return path[: -len(suffix)] if suffix.lower() in SUFFIXES else path


def open_expanded(place: str, limits: ReadLimits, read: bytes | None = None) -> Expanded:
    """Open a file to read what it holds, decompressed where its first bytes say that it is compressed.

    Args:
        read: first bytes of a format that the caller reads itself: such a file is opened as it is.

    Raises:
        Unreadable: it is missing, no regular file, not to be opened, or compressed in a way that is not read.
    """
    raw = open_regular(place)
    if isinstance(raw, Refusal):
        raise Unreadable(raw)
    try:
        head = raw.read(_HEAD_BYTES)
        raw.seek(0)
        codec = None if read and head.startswith(read) else codec_of(head, place)
        if isinstance(codec, Refusal):
            raise Unreadable(codec)
        if codec is not None and (inner := _codec_inside(raw, codec, limits)):
            detail = f"{codec.name} around {inner}: decompress it once"
            raise Unreadable(Refusal("nested_compression", detail))
        return Expanded(raw, codec, limits, _readings.get(place))
    except BaseException as error:
        raw.close()
        if isinstance(error, OSError):
            raise Unreadable(Refusal("unreadable", error.strerror or str(error))) from error
        raise


def _codec_inside(raw: io.BufferedReader, codec: Codec, limits: ReadLimits) -> str:
    """The codec that what comes out of a file is compressed with once more; empty for none."""
    try:
        head = codec.make(limits).decompress(raw.read(_BZIP2_BYTES if codec.name == "bz2" else codec.read_bytes), _HEAD_BYTES)
    except _BROKEN:
        head = b""
    raw.seek(0)
    inner = codec_of(head[:_HEAD_BYTES], "") if head else None
    return inner.name if isinstance(inner, Codec) else "another compression" if inner else ""


def check_stream(place: str, limits: ReadLimits, sha256: str = "") -> Refusal | None:
    """Read a file to its end: why it cannot be read whole, or None where it can. For what is worth nothing in part.

    Args:
        sha256: what the file must be, where it is known: one that changed since it was listed is refused.
    """
    try:
        with reading(place, sha256) as state:
            with open_expanded(place, limits) as stream:
                while stream.codec != "plain" and stream.read_some():
                    pass
            return state.changed()
    except Unreadable as error:
        return error.refusal


def read_whole(place: str, limits: ReadLimits, max_bytes: int, sha256: str = "") -> bytes | Refusal:
    """Content of a file, decompressed where it is compressed; or why it is not read: too large, damaged, or changed."""
    if without_suffix(place) == place and not _is_compressed(place):
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


def _is_compressed(place: str) -> bool:
    raw = open_regular(place)
    if isinstance(raw, Refusal):
        return False
    with raw:
        return codec_of(raw.read(_HEAD_BYTES), place) is not None


def _changed(got: str, listed: str) -> Refusal:
    return Refusal("content_changed", f"sha256 is {got}, listed as {listed}: list the dump again")
