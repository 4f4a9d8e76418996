"""Finished artifacts: the manifest, and the files, fetched from a bucket when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.files import digest_of, put_if_absent, replace_file, sha256_file
from pipeline_lib.store.records import File, Manifest, Part, to_json

TRANSFERS = 16  # at a time: enough to hide 50 ms of latency behind one another


class Artifact:
    """A manifest and the place where its parts lie.

    Args:
        root: the folder of the store, or its cache.
        bucket: where files are fetched from that are not below `root`.
    """

    def __init__(self, root: Path, manifest: Manifest, bucket: Bucket | None = None) -> None:
        self.root = root
        self.manifest = manifest
        self.bucket = bucket

    def with_parts(self, parts: Iterable[Part]) -> Artifact:
        """The same artifact with other parts in it."""
        return Artifact(self.root, self.manifest.model_copy(update={"parts": tuple(parts)}), self.bucket)

    def only(self, label: str) -> Artifact:
        """The artifact reduced to one part: reading, verifying and naming it touch no other.

        Raises:
            UserError: there is no such part.
        """
        return self.with_parts([self.part(label)])

    @property
    def digest(self) -> str:
        """Content digest: equal bytes under equal labels give equal digests, whoever made them."""
        return digest_of([(part.label, part.digest) for part in self.manifest.parts])

    @property
    def folder(self) -> Path:
        """The folder of manifest.json and run.json."""
        return self.root / self.manifest.stage / self.manifest.key

    def part(self, label: str) -> Part:
        """The part of that label.

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        for part in self.manifest.parts:
            if part.label == label:
                return part
        known = ", ".join(part.label for part in self.manifest.parts[:20])
        raise UserError(f"{self.manifest.stage} {self.manifest.key}: no part {label!r}; there are: {known}")

    def part_folder(self, label: str | None = None) -> Path:
        """The folder of one part, its files in it; of the only one where no label is given."""
        if label is None:
            assert len(self.manifest.parts) == 1, f"{self.folder}: {len(self.manifest.parts)} parts, name one"
            return self.folder_of(self.manifest.parts[0])
        return self.folder_of(self.part(label))

    def folder_of(self, part: Part) -> Path:
        """The folder of a part, with every file there."""
        return fetch_part(self.root, self.bucket, part)

    def paths(self, name: str) -> list[Path]:
        """The file of that name in every part that has one, in the manifest's order."""
        files = [(part, file) for part in self.manifest.parts for file in part.files if file.name == name]
        return fetch_files(self.root, self.bucket, files)

    def path_of(self, part: Part, file: File) -> Path:
        """One file of a part; fetched and hashed first, where it is not on this machine.

        Raises:
            CorruptArtifact: the bucket has other bytes.
            TransientError: the bucket did not answer.
        """
        return fetch_file(self.root, self.bucket, part, file)

    def note(self, name: str) -> bytes | None:
        """A file beside the manifest, such as run.json; it is no part of the content."""
        path = self.folder / name
        if path.is_file():
            return path.read_bytes()
        return self.bucket.read(path.relative_to(self.root).as_posix()) if self.bucket else None

    @property
    def run_record(self) -> dict[str, Any]:
        """What its making took, as `records.RunRecord` writes it; empty where that was not recorded."""
        return json.loads(self.note("run.json") or b"{}")

    @property
    def started_at(self) -> float:
        """When its making began, in seconds since 1970; 0 where that was not recorded."""
        return float(self.run_record.get("started_at", 0.0))

    def add_note(self, name: str, content: bytes) -> None:
        """Write a file beside the manifest, in place of what is there."""
        if self.note(name) == content:
            return
        replace_file(self.folder / name, content)
        if self.bucket is not None:
            self.bucket.replace((self.folder / name).relative_to(self.root).as_posix(), content)

    def missing(self) -> list[Part]:
        """The parts that lack a file, or have one of another size: by names and sizes, cheap enough for each start."""
        lacking = [part for part in self.manifest.parts if not part_is_there(self.root, part)]
        return lacking if self.bucket is None else unstored(self.bucket, lacking)

    def verify(self) -> Self:
        """Read every byte on this machine and compare. A bucket's are compared when they are fetched, before anyone reads them.

        Raises:
            CorruptArtifact: with the file, and the sha256 that it has and should have.
        """
        for part in self.manifest.parts:
            if self.bucket is None:
                verify_part(self.root, part)
                continue
            for file in part.files:
                path = self.root / part.folder / file.name
                if path.is_file() and sha256_file(path) != file.sha256:
                    path.unlink()  # a damaged copy: the next reader fetches another
        return self


def verify_part(root: Path, part: Part) -> None:
    """Compare every file of the part with its record.

    Raises:
        CorruptArtifact: with the file, and the sha256 that it has and should have.
    """
    for file in part.files:
        path = root / part.folder / file.name
        got = sha256_file(path) if path.is_file() else "no file"
        if got != file.sha256:
            raise CorruptArtifact(
                f"{path}: sha256 is {got}, its record says {file.sha256}; remove {root / part.stage} and run again"
            )


def part_is_there(root: Path, part: Part) -> bool:
    """True where every file of the part lies below the root with its size."""
    return all(_is_there(root / part.folder / file.name, file) for file in part.files)


def unstored(bucket: Bucket, parts: Sequence[Part]) -> list[Part]:
    """The parts whose record, or a file with its size, is not in the bucket."""
    sizes = {stage: bucket.sizes(f"{stage}/parts") for stage in {part.stage for part in parts}}

    def is_stored(part: Part) -> bool:
        names = sizes[part.stage]
        return record_name(part.stage, part.key) in names and all(
            names.get(f"{part.folder}/{file.name}") == file.bytes for file in part.files
        )

    return [part for part in parts if not is_stored(part)]


def fetch_part(root: Path, bucket: Bucket | None, part: Part) -> Path:
    """The folder of a part below the root, its files fetched from the bucket where there is one."""
    if bucket is not None:
        fetch_files(root, bucket, [(part, file) for file in part.files])
        put_if_absent(root / record_name(part.stage, part.key), to_json(part))
    return root / part.folder


def fetch_files(root: Path, bucket: Bucket | None, files: Sequence[tuple[Part, File]]) -> list[Path]:
    """Files of parts, several fetched at a time; see `Artifact.path_of`."""
    if bucket is None or len(files) < 2:
        return [fetch_file(root, bucket, *place) for place in files]
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(lambda place: fetch_file(root, bucket, *place), files))


def fetch_file(root: Path, bucket: Bucket | None, part: Part, file: File) -> Path:
    """One file of a part; see `Artifact.path_of`."""
    path = root / part.folder / file.name
    if bucket is not None and not _is_there(path, file):
        if ".." in path.parts or not path.is_relative_to(root):  # whoever can write to the bucket must not choose the place
            raise CorruptArtifact(f"{bucket.url}: part {part.label!r} names a file outside the store: {path}")
        bucket.download(f"{part.folder}/{file.name}", path, file.bytes, file.sha256)
    return path


def record_name(stage: str, key: str) -> str:
    """The place of a part's record below the root."""
    return f"{stage}/parts/{key}.json"


def _is_there(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes
