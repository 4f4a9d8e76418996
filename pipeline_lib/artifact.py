"""What a stage leaves behind, and the one rule by which it is there or not.

    root/STAGE/parts/KEY-CONTENT/        the files of one part, content-named, never overwritten
    root/STAGE/parts/KEY.json            the part's record: the part exists if and only if this does
    root/STAGE/KEY/manifest.json         the artifact: a list of parts, deterministic to the byte
    root/STAGE/KEY/run.json              how it came about: seconds, host, memory, commit

Records are written last and put-if-absent: of two writers one wins, and the other reads what the winner wrote. A file that
no record names is garbage. Keys are computed from content digests, so that equal inputs find equal work.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config import StageConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.faults import fault_point
from pipeline_lib.files import digest_of, put_if_absent, replace_file, sha256_file, sync_folder
from pipeline_lib.lineage import RunRecord

MANIFEST_VERSION = 1
KEY_DIGITS = 24


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Record):
    """A step of the pipeline. Raise `version` whenever its output changes for the same input."""

    name: str
    version: int


class File(Record):
    """One file of a part: its name inside the part's folder, and what its bytes must be."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None


class Counts(Record):
    """Where every row went: n_in == n_out + sum(dropped) + quarantined."""

    n_in: int = 0
    n_out: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    quarantined: int = 0

    def check(self, where: str) -> Self:
        """Assert the accounting identity; a stage that loses or invents a row fails here."""
        accounted = self.n_out + sum(self.dropped.values()) + self.quarantined
        assert self.n_in == accounted, f"{where}: {self.n_in} rows came in, {accounted} are accounted for: {self}"
        return self

    def __add__(self, other: Counts) -> Counts:
        dropped = Counter(self.dropped) + Counter(other.dropped)
        return Counts(
            n_in=self.n_in + other.n_in,
            n_out=self.n_out + other.n_out,
            dropped=dict(sorted(dropped.items())),
            quarantined=self.quarantined + other.quarantined,
        )


class Part(Record):
    """The output for one input file, bundle or hash partition."""

    stage: str
    key: str
    label: str  # what a person calls it: "numpy 2.4.6 [2/3]", "train", "step-000400"
    folder: str  # below the store's root
    files: tuple[File, ...]
    counts: Counts = Counts()
    facts: dict[str, Any] = Field(default_factory=dict)  # deterministic figures of this part

    @property
    def digest(self) -> str:
        return digest_of([(file.name, file.sha256) for file in self.files])


class Manifest(Record):
    """Only what is deterministic: two runs over the same input write the same bytes."""

    manifest_version: int = MANIFEST_VERSION
    stage: str
    stage_version: int
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> content digest
    parts: tuple[Part, ...]
    counts: Counts
    facts: dict[str, Any] = Field(default_factory=dict)


class Outcome(Record):
    """What a stage's function returns: its parts, and figures about the whole."""

    parts: tuple[Part, ...]
    counts: Counts = Counts()
    facts: dict[str, Any] = Field(default_factory=dict)


class Artifact:
    """A manifest and the place where its parts lie."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @property
    def digest(self) -> str:
        """Content digest: equal bytes under equal labels give equal digests, whoever made them."""
        return digest_of([(part.label, part.digest) for part in self.manifest.parts])

    @property
    def folder(self) -> Path:
        """Where manifest.json and run.json lie."""
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
        """The folder of one part; of the only one where no label is given."""
        if label is None:
            assert len(self.manifest.parts) == 1, f"{self.folder}: {len(self.manifest.parts)} parts, name one"
            return self.root / self.manifest.parts[0].folder
        return self.root / self.part(label).folder

    def paths(self, name: str) -> list[Path]:
        """The file of that name in every part that has one, in the manifest's order."""
        return [self.root / part.folder / file.name for part in self.manifest.parts for file in part.files if file.name == name]

    def is_whole(self) -> bool:
        """Whether every file is there with its size: cheap enough for each start."""
        return all(
            (path := self.root / part.folder / file.name).is_file() and path.stat().st_size == file.bytes
            for part in self.manifest.parts
            for file in part.files
        )

    def verify(self) -> Self:
        """Read every byte and compare.

        Raises:
            CorruptArtifact: with the file, and the sha256 that it has and should have.
        """
        for part in self.manifest.parts:
            verify_part(self.root, part)
        return self


class Store:
    """The artifacts below one root folder.

    Args:
        root: on a local or shared disk; made when first written to.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    def key(self, stage: Stage, config: StageConfig, inputs: Mapping[str, str]) -> str:
        """The name of this work: stage, version, the config without operational fields, and the inputs' content digests."""
        return digest_of([stage.name, stage.version, config.key_fields(), dict(sorted(inputs.items()))])[:KEY_DIGITS]

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished artifact, or None; one with missing or short files is None too, and will be made again."""
        path = self.root / stage / key / "manifest.json"
        if not path.is_file():
            return None
        artifact = Artifact(self.root, Manifest.model_validate_json(path.read_bytes()))
        if artifact.is_whole():
            return artifact
        path.unlink(missing_ok=True)
        for part in artifact.manifest.parts:
            self.find_part(part.stage, part.key)
        return None

    def open(self, stage: str, key: str) -> Artifact:
        """The finished artifact of that key.

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        found = self.find(stage, key)
        if found is None:
            known = sorted(p.parent.name for p in (self.root / stage).glob("*/manifest.json"))
            raise UserError(f"no finished {stage} artifact {key!r} under {self.root}; there are: {', '.join(known) or 'none'}")
        return found

    def find_part(self, stage: str, key: str) -> Part | None:
        """The finished part, or None; a record whose files are gone or short is removed."""
        path = self._part_record(stage, key)
        if not path.is_file():
            return None
        part = Part.model_validate_json(path.read_bytes())
        folder = self.root / part.folder
        if all((folder / f.name).is_file() and (folder / f.name).stat().st_size == f.bytes for f in part.files):
            return part
        path.unlink(missing_ok=True)
        return None

    def scratch(self, stage: str) -> Path:
        """A new empty folder for files in the making, on the same disk; `commit_part` moves it or the caller removes it."""
        place = self.root / stage / "scratch"
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=place))

    def commit_part(self, draft: Part, scratch: Path) -> Part:
        """Move the files of `scratch` to their place and write the record that makes the part exist.

        Args:
            draft: the part without folder and files (see `draft_part`); files may carry rows.
            scratch: a folder of this store; it is moved or removed.

        Returns:
            The part on disk: the earlier one, where another writer was first.
        """
        rows = {file.name: file.rows for file in draft.files}
        files = tuple(_describe(scratch, path, rows) for path in sorted(scratch.rglob("*")) if path.is_file())
        content = digest_of([(file.name, file.sha256) for file in files])[:12]
        folder = f"{draft.stage}/parts/{draft.key}-{content}"
        part = draft.model_copy(update={"files": files, "folder": folder})
        part.counts.check(f"{draft.stage} {draft.label}")
        place = self.root / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        fault_point("part:before_move")
        try:
            os.rename(scratch, place)
        except OSError:
            if not place.is_dir():
                raise
            if all((place / f.name).is_file() and (place / f.name).stat().st_size == f.bytes for f in files):
                shutil.rmtree(scratch)  # the same bytes are there already
            else:
                os.rename(place, broken := self.scratch(part.stage) / "broken")
                os.rename(scratch, place)
                shutil.rmtree(broken.parent)
        sync_folder(place.parent)
        fault_point("part:before_record")
        record = self._part_record(part.stage, part.key)
        while not put_if_absent(record, _to_json(part)):
            earlier = self.find_part(part.stage, part.key)  # removes a record whose files are gone
            if earlier is not None:
                return earlier
        return part

    def commit(self, manifest: Manifest, run: RunRecord | None = None) -> Artifact:
        """Write run.json, then the manifest; of two writers one wins and the other returns the winner's artifact."""
        manifest.counts.check(f"{manifest.stage} {manifest.key}")
        folder = self.root / manifest.stage / manifest.key
        folder.mkdir(parents=True, exist_ok=True)
        if run is not None and not (folder / "manifest.json").exists():
            replace_file(folder / "run.json", run.to_json())
        fault_point("artifact:before_manifest")
        put_if_absent(folder / "manifest.json", _to_json(manifest))
        fault_point("artifact:after_manifest")
        found = self.find(manifest.stage, manifest.key)
        assert found is not None, f"{folder}: committed, but its files are not there"
        return found

    def build(
        self,
        stage: Stage,
        config: StageConfig,
        inputs: Mapping[str, Artifact],
        make: Callable[[str], Outcome],
    ) -> Artifact:
        """Return the artifact of this work, making it only if it is not there.

        Args:
            stage: name and version.
            config: the stage's config; operational fields do not count.
            inputs: the artifacts that are read; each is verified byte by byte before work starts.
            make: called with the artifact's key; commits parts and returns them.

        Raises:
            CorruptArtifact: an input's bytes are not those of its manifest.
        """
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        key = self.key(stage, config, digests)
        found = self.find(stage.name, key)
        if found is not None:
            return found
        for artifact in inputs.values():
            artifact.verify()
        run = RunRecord.start()
        outcome = make(key)
        manifest = Manifest(
            stage=stage.name,
            stage_version=stage.version,
            key=key,
            config=config.key_fields(),
            inputs=dict(sorted(digests.items())),
            parts=outcome.parts,
            counts=outcome.counts,
            facts=outcome.facts,
        )
        return self.commit(manifest, run.finish())

    def _part_record(self, stage: str, key: str) -> Path:
        return self.root / stage / "parts" / f"{key}.json"


def draft_part(
    stage: Stage,
    key: str,
    label: str,
    counts: Counts | None = None,
    rows: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Part:
    """A part that is not on disk yet: what `Store.commit_part` completes with its folder and files."""
    files = tuple(File(name=name, bytes=0, sha256="", rows=n) for name, n in (rows or {}).items())
    return Part(
        stage=stage.name,
        key=key,
        label=label,
        folder="",
        files=files,
        counts=counts or Counts(),
        facts=dict(facts or {}),
    )


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


def _describe(folder: Path, path: Path, rows: Mapping[str, int | None]) -> File:
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return File(name=name, bytes=path.stat().st_size, sha256=sha256_file(path), rows=rows.get(name))


def _to_json(record: Record) -> bytes:
    return json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def sum_counts(parts: Iterable[Part]) -> Counts:
    """The counts of several parts together."""
    total = Counts()
    for part in parts:
        total = total + part.counts
    return total
