"""Chain of sha256 from a pair that search reads down to each of its bytes.

Trust goes down: the registry holds the two artifacts' content digests, a part's record lists the sha256 of its files and must
add up to that digest, and each file must have the sha256 of the record before any reader sees it. They are hashed at every
start: 80 MB take 0.05 s on a CPU with SHA instructions, 0.2 s without, beside 0.5 s of imports; a service opens a `Searcher`
once.

Nothing heavy is imported here: the artifact store alone costs 0.3 s of a search's 1.5 s, so records are read as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.errors import CorruptArtifact


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
    for name in names:
        sha256 = _sha256(folder / name)
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
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{path}: no such file; run `cpt run` again") from error
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object that these bytes are.

    Raises:
        CorruptArtifact: they are none.
    """
    try:
        record = json.loads(content)
    except ValueError as error:
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
    except FileNotFoundError:
        return "no file"
