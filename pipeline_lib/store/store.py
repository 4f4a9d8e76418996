"""Artifact store: what stages leave behind, and the one rule by which it is there or not.

    root/STAGE/parts/KEY-CONTENT/        the files of one part, content-named, never overwritten
    root/STAGE/parts/KEY.json            the part's record: the part exists if and only if this does
    root/STAGE/KEY/manifest.json         the artifact: a list of parts, deterministic to the byte
    root/STAGE/KEY/run.json              how it came about: seconds, host, memory, commit

Records are written last and put-if-absent: of two writers one wins, and the other reads what the winner wrote. A file that
no record names is garbage. Keys are computed from content digests, so that equal inputs find equal work.

The root may also be a folder of a bucket. Stages know nothing of that: their machine has a root of its own, which then is a
cache. An artifact exists if and only if the *bucket* has its manifest; a part is written here, uploaded, and recorded there;
a file that is asked for is fetched and hashed. What is in a cache and not in the bucket is lost work, never wrong work.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.runtime.machine import cache_folder
from pipeline_lib.store.artifact import Artifact, fetch_part, part_is_there, record_name, unstored
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.files import digest_of, fault_point, put_if_absent, replace_file, sha256_file, sign_in, sync_folder
from pipeline_lib.store.records import (
    File,
    Manifest,
    Outcome,
    Part,
    RunRecord,
    Stage,
    to_json,
)

KEY_DIGITS = 24
LEAST_DIGITS = 4  # of a key that is cut short, as of git's commits
SHOWN_DIGITS = 8  # of a key where people read it
_FULL = (errno.ENOSPC, errno.EDQUOT)
NOTES = (".json", ".jsonl", ".md")  # files beside a manifest that go where it goes


class Store:
    """The artifacts below one root.

    Args:
        root: a folder on a local or shared disk; made when first written to.
        remote: URL of the bucket's folder that is the root; `root` is then this machine's cache.
    """

    def __init__(self, root: Path | str, remote: str = "") -> None:
        self.root = Path(root).absolute()
        self.bucket = Bucket(remote) if remote else None

    @classmethod
    def at(cls, place: str) -> Store:
        """The store at a path, a file:// URL, or the URL of a bucket's folder, with this machine's cache."""
        scheme, mark, path = place.partition("://")
        if mark and scheme != "file":
            return cls(cache_folder(place.rstrip("/")), place)
        return cls(path if mark else place)

    @property
    def place(self) -> str:
        """The path or URL that another process, here or elsewhere, opens with `Store.at`."""
        return self.remote or str(self.root)

    @property
    def remote(self) -> str:
        """The bucket's URL; empty for a store on a disk."""
        return self.bucket.url if self.bucket else ""

    def check_writable(self) -> None:
        """Write a file and take it away again: keys, rights and addresses are right, or wrong, before any work is done.

        Raises:
            UserError: the root cannot be written to.
            TransientError: nobody answers there.
        """
        name = f"probes/{uuid.uuid4().hex}"
        try:
            if self.bucket is None:
                replace_file(self.root / name, b"")
            else:
                self.bucket.replace(name, b"")
        except OSError as error:
            raise UserError(f"{self.place}: cannot be written to ({error.strerror}); give a folder of yours") from error
        self._remove(name)

    def key(self, stage: Stage, config: StageConfig, inputs: Mapping[str, str]) -> str:
        """The name of this work: stage, version, the config without operational fields, and the inputs' content digests."""
        return digest_of([stage.name, stage.version, config.key_fields(), dict(sorted(inputs.items()))])[:KEY_DIGITS]

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished artifact, or None; one with missing or short files is None too, and will be made again."""
        name = f"{stage}/{key}/manifest.json"
        content = self._read(name)
        if content is None:
            return None
        artifact = Artifact(self.root, Manifest.model_validate_json(content), self.bucket)
        broken = artifact.missing()
        if not broken:
            return artifact
        self._remove(name)
        for part in broken:
            self._remove(record_name(part.stage, part.key))
        return None

    def keys(self, stage: str) -> list[str]:
        """The keys of the finished artifacts of a stage, in order."""
        if self.bucket is None:
            return sorted(path.parent.name for path in (self.root / stage).glob("*/manifest.json"))
        return sorted(name.split("/")[-2] for name in self.bucket.sizes(stage) if name.endswith("/manifest.json"))

    def find_key(self, stage: str, digits: str) -> str:
        """The whole key of the finished artifact whose key begins with these digits.

        Args:
            digits: a key, or its beginning, 4 digits at least, as git takes a commit's.

        Raises:
            UserError: no key begins so, or several do; the message lists them.
        """
        keys = self.keys(stage)
        found = [key for key in keys if key == digits or (key.startswith(digits) and len(digits) >= LEAST_DIGITS)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{stage} key {digits!r} is ambiguous: {', '.join(found)}")
        raise UserError(self._no_such_key(stage, digits))

    def artifacts(self, stage: str) -> list[Artifact]:
        """The finished artifacts of a stage, by key; their files are not looked at."""
        contents = (self._read(f"{stage}/{key}/manifest.json") for key in self.keys(stage))
        return [Artifact(self.root, Manifest.model_validate_json(found), self.bucket) for found in contents if found]

    def open(self, stage: str, key: str) -> Artifact:
        """The finished artifact of that key, which may be cut short (see `find_key`).

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        found = self.find(stage, key if len(key) == KEY_DIGITS else self.find_key(stage, key))
        if found is None:
            raise UserError(self._no_such_key(stage, key))
        return found

    def find_part(self, stage: str, key: str) -> Part | None:
        """The finished part, or None; a record on this machine whose files are gone or short is removed."""
        path = self.root / record_name(stage, key)
        if path.is_file():
            part = Part.model_validate_json(path.read_bytes())
            if part_is_there(self.root, part):
                return part
            path.unlink(missing_ok=True)
        content = self.bucket.read(record_name(stage, key)) if self.bucket else None
        return Part.model_validate_json(content) if content else None

    def parts(self, stage: str, prefix: str) -> list[Part]:
        """The finished parts of a stage whose keys begin so, by key."""
        folder = f"{stage}/parts/"
        names = {path.name for path in (self.root / folder).glob(f"{prefix}*.json")}
        if self.bucket is not None:
            below = (name.removeprefix(folder) for name in self.bucket.sizes(folder.rstrip("/")))
            names |= {name for name in below if name.startswith(prefix) and name.endswith(".json") and "/" not in name}
        found = (self.find_part(stage, name.removesuffix(".json")) for name in sorted(names))
        return [part for part in found if part is not None]

    def folder_of(self, part: Part) -> Path:
        """The folder of a part, with every file there; see `Artifact.folder_of`."""
        return fetch_part(self.root, self.bucket, part)

    def scratch(self, stage: str) -> Path:
        """A new empty folder for files in the making, on the same disk; `commit_part` moves it or the caller removes it."""
        place = self.root / stage / "scratch"
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{sign_in(self.root)}-", dir=place))

    def commit_part(self, draft: Part, scratch: Path) -> Part:
        """Move the files of `scratch` to their place and write the record that makes the part exist.

        Args:
            draft: the part without folder and files (see `draft_part`); files may carry rows.
            scratch: a folder of this store; it is moved or removed.

        Returns:
            The part in the store: the earlier one, where another writer was first.
        """
        part = self._move(draft, scratch)
        fault_point("part:before_record")
        if self.bucket is not None and (winner := self._upload(self.bucket, part)) != part:
            return winner
        while not put_if_absent(self.root / record_name(part.stage, part.key), to_json(part)):
            earlier = self.find_part(part.stage, part.key)  # removes a record whose files are gone
            if earlier is not None:
                return earlier
        return part

    def _move(self, draft: Part, scratch: Path) -> Part:
        rows = {file.name: file.rows for file in draft.files}
        files = tuple(_describe(scratch, path, rows) for path in sorted(scratch.rglob("*")) if path.is_file())
        content = digest_of([(file.name, file.sha256) for file in files])[:12]
        part = draft.model_copy(update={"files": files, "folder": f"{draft.stage}/parts/{draft.key}-{content}"})
        part.counts.check(f"{draft.stage} {draft.label}")
        place = self.root / part.folder
        place.parent.mkdir(parents=True, exist_ok=True)
        fault_point("part:before_move")
        try:
            os.rename(scratch, place)
        except OSError:
            if not place.is_dir():
                raise
            if part_is_there(self.root, part):
                shutil.rmtree(scratch)  # the same bytes are there already
            else:
                os.rename(place, broken := self.scratch(part.stage) / "broken")
                os.rename(scratch, place)
                shutil.rmtree(broken.parent)
        sync_folder(place.parent)
        return part

    def _upload(self, bucket: Bucket, part: Part) -> Part:
        """Put a part's files and then its record into the bucket; returns what the bucket's record says."""
        there = bucket.sizes(part.folder)
        for file in part.files:
            if there.get(name := f"{part.folder}/{file.name}") != file.bytes:
                bucket.upload(self.root / name, name)
        fault_point("bucket:before_record")
        if bucket.put_if_absent(record_name(part.stage, part.key), to_json(part)):
            return part
        winner = bucket.read(record_name(part.stage, part.key))
        return Part.model_validate_json(winner) if winner else part

    def commit(self, manifest: Manifest, run: RunRecord | None = None) -> Artifact:
        """Write run.json, then the manifest; of two writers one wins and the other returns the winner's artifact."""
        manifest.counts.check(f"{manifest.stage} {manifest.key}")
        name = f"{manifest.stage}/{manifest.key}/manifest.json"
        folder = (self.root / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        if run is not None and self._read(name) is None:
            replace_file(folder / "run.json", run.to_json())
        if self.bucket is not None:
            self._complete(self.bucket, manifest)
        fault_point("artifact:before_manifest")
        (self.bucket.put_if_absent if self.bucket else self._put)(name, to_json(manifest))
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
            UserError: the disk is full.
        """
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        key = self.key(stage, config, digests)
        found = self.find(stage.name, key)
        if found is not None:
            return found
        sign_in(self.root)
        for artifact in inputs.values():
            artifact.verify()
        run = RunRecord.start()
        try:
            outcome = make(key)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(self._no_room(stage, inputs)) from error
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

    def _no_such_key(self, stage: str, key: str) -> str:
        known = ", ".join(self.keys(stage)) or "none"
        return f"no such key: no finished {stage} artifact {key!r} under {self.place}; there are: {known}"

    def _no_room(self, stage: Stage, inputs: Mapping[str, Artifact]) -> str:
        disk = shutil.disk_usage(self.root)
        read = sum(_bytes_of(artifact.manifest) for artifact in inputs.values())
        what = f"{self.root}: the disk is full in stage {stage.name}: {disk.free:,} of {disk.total:,} bytes are free"
        return f"{what}; it reads {read:,} bytes and needs about as many; make room and run again: finished parts are kept"

    def _complete(self, bucket: Bucket, manifest: Manifest) -> None:
        """Upload the parts that only this machine has, as trainer processes leave them, and what lies beside the manifest.

        Raises:
            TransientError: a part's files are gone; it is made again by the next try.
        """
        for part in unstored(bucket, manifest.parts):
            if not part_is_there(self.root, part):
                self._remove(record_name(part.stage, part.key))
                raise TransientError(f"{bucket.url}/{part.folder}: files are gone; the part is to be made again")
            self._upload(bucket, part)
        for note in sorted((self.root / manifest.stage / manifest.key).iterdir()):
            if note.suffix in NOTES and note.is_file():
                bucket.put_if_absent(note.relative_to(self.root).as_posix(), note.read_bytes())

    def _read(self, name: str) -> bytes | None:
        if self.bucket is not None:
            return self.bucket.read(name)
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def _put(self, name: str, content: bytes) -> bool:
        return put_if_absent(self.root / name, content)

    def _remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)
        if self.bucket is not None:
            self.bucket.remove(name)


def _describe(folder: Path, path: Path, rows: Mapping[str, int | None]) -> File:
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return File(name=name, bytes=path.stat().st_size, sha256=sha256_file(path), rows=rows.get(name))


def _bytes_of(manifest: Manifest) -> int:
    """Bytes of its files, or of those that it lists."""
    files = sum(file.bytes for part in manifest.parts for file in part.files)
    return max(files, int(manifest.facts.get("bytes", 0)))
