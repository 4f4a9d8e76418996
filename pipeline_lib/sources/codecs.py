"""Codecs of compressed files: how each is known by its first bytes, what decodes it, and those that are not read.

gzip, bzip2, xz and lzma are Python's own; zstd and lz4 are of the extra `dumps`. A file in another format is refused as
`unsupported_compression`, with the command that makes it one that is read.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import Refusal

_READ_BYTES = 64 * 1024
_ZSTD_READ_BYTES = 1024  # four bytes of zstd may hold 128 KiB and its output cannot be capped: 32 MiB at most a read


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

    def __init__(self, max_window_bytes: int) -> None:
        import zstandard

        self.inner = zstandard.ZstdDecompressor(max_window_size=max_window_bytes).decompressobj()
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


class _Lz4:
    """The same for lz4's frames. What comes out is not capped, for it does not tell of a rest: 16 MiB a read at most."""

    def __init__(self) -> None:
        from lz4.frame import LZ4FrameDecompressor

        self.inner = LZ4FrameDecompressor()

    def decompress(self, data: bytes, most: int) -> bytes:
        if not data and self.inner.needs_input:  # it would raise EOFError: that the file ends is seen by the caller
            return b""
        out: bytes = self.inner.decompress(data)
        return out

    @property
    def eof(self) -> bool:
        return bool(self.inner.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self.inner.needs_input)

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data or b""


@dataclass(frozen=True)
class Codec:
    """One way to compress.

    Args:
        magics: what its files begin with.
        make: a decoder, within the limits.
        suffixes: of file names, in lower case.
        read_bytes: given to the decoder at a time, at most.
    """

    name: str
    magics: tuple[bytes, ...]
    make: Callable[[ReadLimits], Any]
    suffixes: tuple[str, ...]
    read_bytes: int = _READ_BYTES


CODECS = (
    Codec("gz", (b"\x1f\x8b\x08",), lambda _: _Gzip(), (".gz", ".tgz")),
    Codec("bz2", (b"BZh",), lambda _: bz2.BZ2Decompressor(), (".bz2", ".tbz2")),
    Codec("xz", (b"\xfd7zXZ\0",), lambda limits: lzma.LZMADecompressor(memlimit=limits.max_xz_memory_bytes), (".xz", ".txz")),
    Codec("lzma", (b"\x5d\0\0",), lambda limits: lzma.LZMADecompressor(memlimit=limits.max_xz_memory_bytes), (".lzma",)),
    Codec(
        "zst",
        (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))),  # the others: skippable frames
        lambda limits: _Zstd(limits.max_zstd_window_bytes),
        (".zst", ".zstd"),
        _ZSTD_READ_BYTES,
    ),
    Codec("lz4", (b"\x04\x22\x4d\x18",), lambda _: _Lz4(), (".lz4",)),
)
SUFFIXES = {suffix: codec.name for codec in CODECS for suffix in codec.suffixes}
_BY_NAME = {codec.name: codec for codec in CODECS}
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # "BZh" may begin a text too
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"  # read as an archive, which it always is
_CONTAINERS = (b"PK\3\4", b"PK\5\6", b"PAR1")

# formats that are not read: first bytes, or suffix where they have none, to name and what to do
_OTHERS: tuple[tuple[bytes, str, str, str], ...] = (
    (SEVEN_ZIP, ".7z", "7-Zip", "give the reader `archive`, or unpack it: 7z x FILE"),
    (b"Rar!\x1a\x07", ".rar", "RAR", "unpack it: unrar x FILE"),
    (b"\x1f\x9d", ".z", "compress", "gunzip FILE, then gzip"),
    (b"LZIP", ".lz", "lzip", "lzip -d FILE, then xz or zstd"),
    (b"\x89LZO\0\r\n\x1a\n", ".lzo", "lzop", "lzop -d FILE, then gzip or zstd"),
    (b"\xff\x06\0\0sNaPpY", ".sz", "snappy", "decompress it, then gzip or zstd"),
    (b"\x02\x21\x4c\x18", "", "lz4's legacy format", "lz4 -d FILE, then lz4 FILE"),
    (b"LRZI", ".lrz", "lrzip", "lrzip -d FILE, then xz or zstd"),
    (b"", ".br", "brotli", "brotli -d FILE, then gzip or zstd"),
)


def codec_of(head: bytes, place: str) -> Codec | Refusal | None:
    """The codec of a file by its first bytes; None: it is not compressed; or the refusal of a format that is not read.

    What its name says counts where the first bytes are no text, or too few: such a file is damaged, or cut.
    """
    for codec in CODECS:
        if head.startswith(codec.magics) and (codec.name != "bz2" or head[4:10] in _BZIP2_BLOCKS or _is_cut(head)):
            return _available(codec)
    suffix = PurePath(place).suffix.lower()
    for magic, ending, name, advice in _OTHERS:
        if (head.startswith(magic) if magic else suffix == ending) and not is_text(head):
            return Refusal(
                "unsupported_compression", f"{name}, which is not read here: {advice.replace('FILE', PurePath(place).name)}"
            )
    named = _BY_NAME.get(SUFFIXES.get(suffix, ""))
    if named is None or any(magic.startswith(head) for magic in named.magics):
        return _available(named) if named else None
    is_container = head.startswith(_CONTAINERS) or head[_TAR_MARK_AT:].startswith(_TAR_MARK)
    return None if is_container or is_text(head) else _available(named)


def is_text(head: bytes) -> bool:
    """True where a file's first bytes may begin a text: UTF-8 without NUL, its last character perhaps cut."""
    try:
        head[:-3].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 6 and b"\0" not in head
    return b"\0" not in head


def window_refusal(codec: Codec, error: Exception, head: bytes, limits: ReadLimits) -> Refusal | None:
    """The refusal of a stream that takes too much memory, with the option that made it; None: that is not its error."""
    if codec.name == "zst" and "too much memory" in str(error):
        import zstandard

        window = zstandard.get_frame_parameters(head).window_size
        long = max(window - 1, 1).bit_length()
        return Refusal(
            "zstd_window",
            f"written with a window of {window} bytes (zstd --long={long}), which takes as much memory; at most"
            f" {limits.max_zstd_window_bytes} are given: raise source.limits.max_zstd_window_bytes and, beyond half of it,"
            f" extract.worker_memory_bytes, or write it anew: zstd -d --long={long} -c FILE | zstd > NEW",
        )
    if codec.name in ("xz", "lzma") and "limit" in str(error).lower():
        return Refusal(
            "xz_memory",
            f"takes more memory than {limits.max_xz_memory_bytes} bytes: raise source.limits.max_xz_memory_bytes, or write it"
            " anew with a smaller dictionary: xz -dc FILE | xz -6 > NEW",
        )
    return None


def _is_cut(head: bytes) -> bool:
    return any(block.startswith(head[4:10]) for block in _BZIP2_BLOCKS) and len(head) < 10


def _available(codec: Codec) -> Codec | Refusal:
    package = {"zst": "zstandard", "lz4": "lz4"}.get(codec.name)
    if package is None or find_spec(package) is not None:
        return codec
    return Refusal("unsupported_compression", f"{codec.name} needs {package}: pip install 'cpt-factory[dumps]'")
