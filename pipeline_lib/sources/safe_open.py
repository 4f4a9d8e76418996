"""Untrusted bytes as text or lines, or a refusal with its reason: nothing is guessed and nothing is executed."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import stat
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_MORE_BYTES = 1 << 16  # read at a time of a file that grew since it was opened


@dataclass(frozen=True, slots=True)
class SourceText:
    """A file's text, its newlines folded to \\n and without a byte order mark, and the same as UTF-8."""

    text: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file was not read: a reason to count by, where in it the trouble lies, and what was got."""

    reason: str
    detail: str
    offset: int = -1  # byte; -1: the file as a whole
    lost_bytes: int | None = None  # of a file that ends early: its bytes on disk that are lost; None: nobody counted them


def read_source(place: str, max_bytes: int, sha256: str = "", python: bool = False) -> SourceText | Refusal:
    """Read one file as text.

    Args:
        place: absolute path; a symbolic link, a pipe or a device is refused.
        max_bytes: larger files are refused as `file_too_large`.
        sha256: what the content must be, where it is known: a file that changed since it was listed is refused.
        python: the file may declare its encoding in its first two lines (PEP 263).
    """
    data = read_bytes(place, max_bytes, sha256)
    return data if isinstance(data, Refusal) else decode(data, python)


def read_bytes(place: str, max_bytes: int, sha256: str = "") -> bytes | Refusal:
    """Read one file as bytes; arguments as of `read_source`."""
    data = _read_regular(place, max_bytes)
    if not isinstance(data, Refusal) and sha256 and (got := hashlib.sha256(data).hexdigest()) != sha256:
        return Refusal("content_changed", f"sha256 is {got}, listed as {sha256}: reinstall the package or list again")
    return data


def decode(data: bytes, python: bool = False, prose: bool = False) -> SourceText | Refusal:
    """UTF-8 strictly; failing that, for Python, one attempt at the declared encoding; prose may be UTF-16, by its mark."""
    if prose and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeError):
            data = data.decode("utf-16").encode("utf-8")
    nul = data.find(b"\0")
    if nul >= 0:
        return Refusal("nul_byte", "a NUL byte: binary, or text in an encoding other than UTF-8", nul)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        declared = _decode_as_declared(data) if python else None
        if declared is None:
            return Refusal("not_utf8", f"{error.reason} (0x{data[error.start]:02x})", error.start)
        text, data = declared
    if text.startswith("\ufeff"):
        text, data = text[1:], data[3:]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        data = text.encode("utf-8")
    return SourceText(text, data)


def printable(text: str) -> str:
    """The text without control characters: a name from a dump must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def open_regular(place: str) -> io.BufferedReader | Refusal:
    """Open a regular file to read its bytes; never a link, a pipe or a device."""
    opened = _open(place)
    return opened if isinstance(opened, Refusal) else os.fdopen(opened[0], "rb")


def _open(place: str) -> tuple[int, int] | Refusal:
    """The handle of a regular file, and its size in bytes."""
    try:
        # O_NONBLOCK: a pipe that takes the file's place between listing and reading must not hang the worker
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error))
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        return Refusal("not_a_file", "neither a folder to walk nor a regular file")
    return handle, found.st_size


def _read_regular(place: str, max_bytes: int) -> bytes | Refusal:
    opened = _open(place)
    if isinstance(opened, Refusal):
        return opened
    handle, size = opened
    try:
        if size > max_bytes:
            return Refusal("file_too_large", f"{size} bytes, at most {max_bytes} are read")
        data = os.read(handle, size + 1)  # a buffer of max_bytes for each file cost a quarter of reading it
        while len(data) != size and len(data) <= max_bytes and (more := os.read(handle, _MORE_BYTES)):  # it grows or shrinks
            data += more
    except OSError as error:
        return Refusal("unreadable", error.strerror or str(error))
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        return Refusal("file_too_large", f"grew while it was read, at most {max_bytes} bytes are")
    return data


def _decode_as_declared(data: bytes) -> tuple[str, bytes] | None:
    """The text in its declared encoding and that text as UTF-8; None where there is no usable declaration."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        return text, text.encode("utf-8")  # utf-7 and the like can yield unpaired surrogates: refused here
    except (SyntaxError, LookupError, UnicodeError):
        return None


def bounded_lines(stream: io.BufferedReader, max_bytes: int) -> Iterator[bytes | Refusal]:
    """Each line with its newline; one of more than `max_bytes` is passed over, and no more than that of it is held."""
    while line := stream.readline(max_bytes):
        whole = line.endswith(b"\n") or len(line) < max_bytes
        yield line if whole else Refusal("file_too_large", f"a line of more than {max_bytes} bytes")
        while not whole and (rest := stream.readline(max_bytes)):
            whole = rest.endswith(b"\n")
