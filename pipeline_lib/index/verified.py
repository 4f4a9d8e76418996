"""Chain of sha256 from a pair that search reads down to each of its bytes.

Trust goes down: the registry holds the two artifacts' content digests, a part's record lists the sha256 of its files and must
add up to that digest, and each file must have the sha256 of the record before any reader sees it. They are hashed at every
start: 80 MB take 0.05 s on a CPU with SHA instructions, 0.2 s without, beside 0.5 s of imports; a service opens a `Searcher`
once.

Nothing heavy is imported here: the artifact store alone costs 0.3 s of a search's 1.5 s, so records are read as plain JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline_lib.errors import CorruptArtifact

HASHED_AT_ONCE = 2  # files; a million rows are two large ones
NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def check_files(folder: Path, digest: str, names: Sequence[str]) -> None:
    """Hash files of a one-part artifact and compare them with what the digest vouches for.

    Args:
        folder: the part's folder, STAGE/parts/KEY-CONTENT; its record is STAGE/parts/KEY.json.
        digest: the artifact's content digest.
        names: the files to read.

    Raises:
        CorruptArtifact: the record does not add up to the digest, or a file's bytes are not those of the record.
    """
    path = folder.parent / f"{folder.name.rpartition('-')[0]}.json"
    record = read_json(path)
    try:
        files = {file["name"]: file["sha256"] for file in record["files"]}
        got = _digest([(record["label"], _digest(list(files.items())))])
    except (KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path}: not a part's record: {error!r}; run `cpt run` again") from error
    if got != digest:
        raise CorruptArtifact(f"{path}: adds up to {got[:12]}, the registry says {digest[:12]}; run `cpt run` again")
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:  # hashing lets go of the interpreter's lock
        found = list(pool.map(lambda name: _sha256(folder / name), names))
    for name, sha256 in zip(names, found, strict=True):
        if sha256 != files.get(name):
            raise CorruptArtifact(
                f"{folder / name}: sha256 is {sha256}, its record says {files.get(name)}; "
                f"remove {folder} and run `cpt run` again"
            )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CorruptArtifact: there is no such file, or no object in it.
    """
    try:
        content = path.read_bytes()
    except NO_FILE as error:
        raise CorruptArtifact(f"{path}: no such file; run `cpt run` again") from error
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object that these bytes are.

    Raises:
        CorruptArtifact: they are none.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{where}: not JSON: {error}; run `cpt run` again") from error
    if not isinstance(record, dict):
        raise CorruptArtifact(f"{where}: a {type(record).__name__}, expected an object; run `cpt run` again")
    return record


def _digest(value: Any) -> str:
    """The rule of files.digest_of."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except NO_FILE:
        return "no file"


BLOCK_BYTES = 65_536
_DIGEST_BYTES = 32


def write_block_digests(path: Path, digests: Path) -> None:
    """Write the sha256 of each block of a file, one after the other."""
    with path.open("rb") as stream, digests.open("wb") as out:
        while block := stream.read(BLOCK_BYTES):
            out.write(hashlib.sha256(block).digest())


class BlockFile(io.RawIOBase):
    """A file that is read anywhere and gives no byte that was not verified; unbuffered.

    Args:
        path: of the file.
        digests: what `write_block_digests` wrote of it, verified.

    Raises:
        CorruptArtifact: on reading, a block is not the one that was written.
    """

    def __init__(self, path: Path, digests: bytes) -> None:
        super().__init__()
        self.path, self._digests = path, digests
        try:
            self._stream = path.open("rb", buffering=0)
        except NO_FILE as error:
            raise CorruptArtifact(f"{path}: no such file; run `cpt run` again") from error
        self._size = os.fstat(self._stream.fileno()).st_size
        self._at = 0
        self._last: tuple[int, bytes] = (-1, b"")
        if -(-self._size // BLOCK_BYTES) * _DIGEST_BYTES != len(digests):
            raise CorruptArtifact(f"{path}: {self._size:,} bytes, not as many as were written; run `cpt run` again")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        found = []
        while self._at < end:
            number, start = divmod(self._at, BLOCK_BYTES)
            piece = self._block(number)[start : start + end - self._at]
            found.append(piece)
            self._at += len(piece)
        return b"".join(found)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if self._last[0] != number:
            block = os.pread(self._stream.fileno(), BLOCK_BYTES, number * BLOCK_BYTES)
            expected = self._digests[number * _DIGEST_BYTES :][:_DIGEST_BYTES]
            if hashlib.sha256(block).digest() != expected:
                raise CorruptArtifact(
                    f"{self.path}: sha256 of block {number:,} is not what was written; "
                    f"remove {self.path.parent} and run `cpt run` again"
                )
            self._last = number, block
        return self._last[1]
