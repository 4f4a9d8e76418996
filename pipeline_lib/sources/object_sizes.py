"""Git objects that are read only where they are small: dulwich inflates each in memory, however large it says it is.

A pack states the inflated length of every object before its bytes, and a delta begins with the length of what it makes: a
bomb of any shape is seen before it goes off. The format is that of git's Documentation/gitformat-pack.txt.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from dulwich.objects import ObjectID, RawObjectID, ShaFile
from dulwich.pack import Pack
from dulwich.repo import Repo

_OFS_DELTA, _REF_DELTA = 6, 7
_MAX_CHAIN = 4095  # git's own limit for a chain of deltas
_HEAD_BYTES = 128  # hold every length that is asked for


class ObjectTooLargeError(Exception):
    """An object, or one that it is a delta to, is larger than may be read."""


class SmallObjects:
    """The objects of a repository of which neither they nor what they are made of is longer than a bound.

    Args:
        max_bytes: of one object, inflated.
    """

    def __init__(self, repository: Repo, max_bytes: int) -> None:
        self.store = repository.object_store
        self.store.loose_object_size_limit = max_bytes + _HEAD_BYTES
        self.packs = self.store.packs
        self.max_bytes = max_bytes

    def __getitem__(self, sha: ObjectID) -> ShaFile:
        """The object of that name.

        Raises:
            ObjectTooLargeError: it is in a pack and too large; known before it is read.
            zlib.error, KeyError and others of dulwich: it is loose and too large, broken or missing.
        """
        for pack in self.packs:
            if sha in pack:
                self._check(pack, pack.index.object_offset(sha))
                break
        return self.store[sha]

    def _check(self, pack: Pack, offset: int) -> None:
        """Follow a chain of deltas to its end."""
        with Path(pack.data.path).open("rb") as stream:
            for _ in range(_MAX_CHAIN):
                kind, base, sizes = _entry(stream, offset)
                if max(sizes) > self.max_bytes:
                    raise ObjectTooLargeError(f"an object of {max(sizes)} bytes, at most {self.max_bytes} are read")
                if isinstance(base, bytes):
                    offset = pack.index.object_offset(RawObjectID(base))
                elif kind == _OFS_DELTA:
                    offset -= base
                else:
                    return
        raise ObjectTooLargeError(f"a chain of more than {_MAX_CHAIN} deltas")


def _entry(stream: BinaryIO, offset: int) -> tuple[int, int | bytes, tuple[int, ...]]:
    """Its kind, its base (distance or name), and every length that it states."""
    stream.seek(offset)
    head = stream.read(_HEAD_BYTES)
    size, at = _varint(head, 0)
    kind, size = (head[0] >> 4) & 7, (size & 15) | (size >> 7 << 4)  # the first byte holds the kind beside four bits
    if kind == _OFS_DELTA:
        base, at = _distance(head, at)
        return kind, base, (size, *_delta_sizes(head[at:]))
    if kind == _REF_DELTA:
        return kind, head[at : at + 20], (size, *_delta_sizes(head[at + 20 :]))
    return kind, 0, (size,)


def _delta_sizes(compressed: bytes) -> tuple[int, int]:
    """The length of a delta's base and of what it makes."""
    delta = zlib.decompressobj().decompress(compressed, _HEAD_BYTES)
    before, at = _varint(delta, 0)
    return before, _varint(delta, at)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A little-endian number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def _distance(data: bytes, at: int) -> tuple[int, int]:
    """How far back the base begins, and where the number ends."""
    value = data[at] & 127
    while data[at] >= 128:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 127)
    if value == 0:
        raise ValueError("a delta to itself")
    return value, at + 1
