"""Current model and index: current.json names the one pair that search reads, and is swapped whole.

Trust goes down a chain of sha256: current.json holds the two artifacts' content digests, a part's record lists the sha256
of its files and must add up to that digest, and each file must have the sha256 of the record before any reader sees it.
They are hashed at every start: 80 MB take 0.05 s on a CPU with SHA instructions, 0.2 s without, beside 0.5 s of imports;
a service opens a `Searcher` once.

Nothing heavy is imported here: the artifact store alone costs 0.3 s of a search's 1.5 s, so records are read as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import CorruptArtifact, UserError

if TYPE_CHECKING:
    from pipeline_lib.store.artifact import Artifact

FILE = "current.json"


@dataclass(frozen=True)
class Current:
    """What current.json says; the folders are absolute."""

    model: Path
    model_digest: str
    index: Path
    index_digest: str
    run: str


def promote(home: Path, exported: Artifact, indexed: Artifact, run: str) -> Current:
    """Let searches use this model and this index from now on; a search that is under way keeps the pair that it opened.

    Args:
        home: the artifact root; artifacts below it move with it.
        run: the name of the run they come from.

    Raises:
        CorruptArtifact: a file's bytes are not those of its manifest.
        UserError: the index was made by another model.
    """
    from pipeline_lib.store.files import replace_file

    exported.verify()
    indexed.verify()
    home = home.absolute()
    made_by = read_json(indexed.part_folder() / "index.json")["model_digest"]
    if made_by != exported.digest:
        raise UserError(
            f"{indexed.part_folder()}: made by model {made_by[:12]}, not by {exported.digest[:12]} in "
            f"{exported.part_folder()}; index with the model that is to be searched with"
        )
    record = {
        "model": _place(home, exported.part_folder()),
        "model_digest": exported.digest,
        "index": _place(home, indexed.part_folder()),
        "index_digest": indexed.digest,
        "run": run,
    }
    replace_file(home / FILE, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    return read_current(home)


def read_current(home: Path) -> Current:
    """The pair that is in use.

    Raises:
        UserError: there is none yet.
        CorruptArtifact: current.json cannot be understood, or what it points at is gone.
    """
    home = home.absolute()
    path = home / FILE
    if not path.is_file():
        raise UserError(f"no index yet under {home}: run `make demo` or `cpt run --preset demo`")
    record = read_json(path)
    expected = sorted(Current.__dataclass_fields__)
    if sorted(record) != expected or not all(isinstance(value, str) for value in record.values()):
        raise CorruptArtifact(f"{path}: got {sorted(record)}, expected texts under {expected}; run `cpt run` again")
    folders = {name: home / record[name] for name in ("model", "index")}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise CorruptArtifact(f"{path}: its {name} is gone: {folder}; run `cpt run` again")
    return Current(**{**record, **folders})


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
        raise CorruptArtifact(f"{path}: adds up to {got[:12]}, {FILE} says {digest[:12]}; run `cpt run` again")
    for name in names:
        sha256 = _sha256(folder / name)
        if sha256 != files.get(name):
            raise CorruptArtifact(
                f"{folder / name}: sha256 is {sha256}, its record says {files.get(name)}; "
                f"remove {folder} and run `cpt run` again"
            )


def to_json(current: Current) -> dict[str, str]:
    """The record with its folders as text, for reports."""
    return {name: str(value) for name, value in asdict(current).items()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CorruptArtifact: there is no such file, or no object in it.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{path}: no such file; run `cpt run` again") from error
    except ValueError as error:
        raise CorruptArtifact(f"{path}: not JSON: {error}; run `cpt run` again") from error
    if not isinstance(record, dict):
        raise CorruptArtifact(f"{path}: a {type(record).__name__}, expected an object; run `cpt run` again")
    return record


def _place(home: Path, folder: Path) -> str:
    """Relative to the artifact root, which may be moved, where the folder is below it."""
    return folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)


def _digest(value: Any) -> str:
    """The rule of artifact.digest_of."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "no file"
