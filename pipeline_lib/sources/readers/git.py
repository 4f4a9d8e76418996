"""Git repositories, bare or checked out, at a revision: read from their objects, without a checkout and without running git.

dulwich inflates each object in memory, however large it says it is, so only small ones are read: a pack states the inflated
length of every object before its bytes, and a delta begins with the length of what it makes. A bomb of any shape is seen before
it goes off. The format is that of git's Documentation/gitformat-pack.txt.
"""

from __future__ import annotations

import itertools
import stat
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pydantic import Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.folder import Skips, valid_name
from pipeline_lib.sources.licences import Licences
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.archive import MemberOptions, member_record, unsafe_path, wanted_form
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.remote import is_remote
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import sign_of_life

if TYPE_CHECKING:
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.pack import Pack
    from dulwich.repo import Repo

_SUBMODULE = 0o160000
_OFS_DELTA, _REF_DELTA = 6, 7
_MAX_CHAIN = 4095  # git's own limit for a chain of deltas
_HEAD_BYTES = 128  # hold every length that is asked for
_FREE_ENTRIES = 1_000_000  # files and folders that any commit may have, however few objects there are


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
        self.name_bytes = self.store.object_format.hash_func().digest_size  # 20 of SHA-1, 32 of SHA-256

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
        from dulwich.objects import RawObjectID

        with Path(pack.data.path).open("rb") as stream:
            for _ in range(_MAX_CHAIN):
                kind, base, sizes = _entry(stream, offset, self.name_bytes)
                if max(sizes) > self.max_bytes:
                    raise ObjectTooLargeError(f"an object of {max(sizes)} bytes, at most {self.max_bytes} are read")
                if isinstance(base, bytes):
                    offset = pack.index.object_offset(RawObjectID(base))
                elif kind == _OFS_DELTA:
                    offset -= base
                else:
                    return
        raise ObjectTooLargeError(f"a chain of more than {_MAX_CHAIN} deltas")


def _entry(stream: BinaryIO, offset: int, name_bytes: int) -> tuple[int, int | bytes, tuple[int, ...]]:
    """Its kind, its base (distance or name), and every length that it states."""
    stream.seek(offset)
    head = stream.read(_HEAD_BYTES)
    size, at = _varint(head, 0)
    kind, size = (head[0] >> 4) & 7, (size & 15) | (size >> 7 << 4)  # the first byte holds the kind beside four bits
    if kind == _OFS_DELTA:
        base, at = _distance(head, at)
        return kind, base, (size, *_delta_sizes(head[at:]))
    if kind == _REF_DELTA:
        return kind, head[at : at + name_bytes], (size, *_delta_sizes(head[at + name_bytes :]))
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


class Options(MemberOptions):
    """Options of the reader `git`."""

    revision: str = Field("HEAD", description="A branch, a tag or a commit.", min_length=1)


def describe_repository(place: str, source: str, revision: str) -> SourceFile:
    """The record of a repository: the commit that the revision is now stands for its content.

    Raises:
        UserError: there is no repository, or no such revision in it.
    """
    from dulwich.errors import NotGitRepository
    from dulwich.objectspec import parse_commit
    from dulwich.repo import Repo

    if is_remote(place):
        raise UserError(f"source {source}: {place}: a repository is read from disk; `git clone --bare` it first")
    folder = Path(place).expanduser()
    try:
        with Repo(str(folder)) as repository:
            commit = parse_commit(repository, revision.encode())
            objects = Path(repository.commondir()) / "objects"
    except NotGitRepository as error:
        raise UserError(f"source {source}: {folder}: no git repository there; give its folder, bare or checked out") from error
    except _broken() as error:
        raise UserError(f"source {source}: {folder}: no revision {revision!r}; give a branch, a tag or a commit") from error
    name = valid_name(folder.resolve().name)
    return SourceFile(
        place=str(folder.resolve()),
        path=name,
        source=source,
        group=name.removesuffix(".git") or name,
        licence=None,
        form="git",
        bytes=sum(path.stat().st_size for path in sorted(objects.rglob("*")) if path.is_file()),
        sha256="commit:" + commit.id.decode(),
    )


def read_repository(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every file of code or prose of the listed commit, by path; its group is the repository.

    Refusals of files: link, submodule, unsafe_path, file_too_large, damaged, and those of decoding; of folders: damaged,
    tree_depth. Of the repository: unreadable, damaged, too_many_members.
    """
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    try:
        with Repo(file.place) as repository:
            yield from _files(file, repository, limits)
    except (NotGitRepository, PermissionError) as error:
        yield SourceRecord(file, Refusal("unreadable", ascii(str(error))[:200]))
    except _broken() as error:
        yield SourceRecord(file, Refusal("damaged", f"{type(error).__name__}: {ascii(str(error))[:200]}"))


def _files(file: SourceFile, repository: Repo, limits: ReadLimits) -> Iterator[SourceRecord]:
    from dulwich.objects import Commit

    commit = repository[file.sha256.removeprefix("commit:").encode()]
    if not isinstance(commit, Commit):
        raise ValueError(f"{file.sha256} is no commit")
    html, skips = Options.model_validate(file.options).html, Skips()
    objects = SmallObjects(repository, limits.max_text_bytes)
    most = limits.max_members or max(_FREE_ENTRIES, int(limits.max_expansion * _count(repository)))
    licences = _licences(file, objects, commit.tree, limits, most)
    for mode, name, sha, broken in _entries(objects, commit.tree, limits, most):
        form = wanted_form(name, html, file.more_forms)
        if broken is not None:
            yield member_record(file, name, form, broken, limits, licences)
        elif mode == _SUBMODULE:
            refusal = Refusal("submodule", "another repository: list it by itself")
            yield member_record(file, name, form, refusal, limits, licences)
        elif form is not None:
            yield member_record(file, name, form, _content(objects, mode, name, sha, limits), limits, licences)
        else:
            skips.note(name)
    if skips:
        yield SourceRecord(file, skips)


class _Entry(NamedTuple):
    """One file of a commit, or a folder that cannot be read."""

    mode: int
    name: str
    sha: ObjectID
    refusal: Refusal | None = None  # of a folder: nobody knows what is in it


def _entries(objects: SmallObjects, tree: ObjectID, limits: ReadLimits, most: int) -> Iterator[_Entry]:
    """Each file, by path; a folder that is broken or nested too deep is one entry, and what follows it is read.

    Raises:
        Unreadable: there are more than `most`; folders are counted too, for a few objects can nest to any number of them.
        zlib.error, KeyError and others of dulwich: the first folder, which holds all, is broken or missing.
    """
    pending = [(stat.S_IFDIR, b"", tree, 0)]
    for count in itertools.count():
        if not pending:
            return
        sign_of_life()
        if count > most:
            detail = f"more than {most} files and folders; see source.limits.max_members"
            raise Unreadable(Refusal("too_many_members", detail))
        mode, path, sha, depth = pending.pop()
        name = valid_name(path.decode("utf-8", "surrogateescape"))
        if not stat.S_ISDIR(mode):
            yield _Entry(mode, name, sha)
            continue
        if depth >= limits.max_depth:
            detail = f"nested deeper than {limits.max_depth} folders; see source.limits.max_depth"
            yield _Entry(mode, f"{name}/", sha, Refusal("tree_depth", detail))
            continue
        try:
            inside = _inside(objects, path, sha, depth)
        except _broken() as error:
            if not path:
                raise
            yield _Entry(mode, f"{name}/", sha, Refusal("damaged", f"its folder, object {_why(sha, error)}"))
            continue
        pending.extend(reversed(inside))


def _inside(objects: SmallObjects, path: bytes, sha: ObjectID, depth: int) -> list[tuple[int, bytes, ObjectID, int]]:
    """Mode, path, object and depth of what a folder holds."""
    from dulwich.objects import Tree

    folder = objects[sha]
    if not isinstance(folder, Tree) or _digest(objects, b"tree", folder.as_raw_string()) != sha.decode():
        raise ValueError("it is no folder, or not the one that its name says")
    entries = folder.iteritems(name_order=True)
    return [(entry.mode, b"/".join(filter(None, (path, entry.path))), entry.sha, depth + 1) for entry in entries]


def _why(sha: ObjectID, error: BaseException) -> str:
    return f"{sha.decode(errors='replace')}: {type(error).__name__}: {ascii(str(error))[:200]}"


def _licences(file: SourceFile, objects: SmallObjects, tree: ObjectID, limits: ReadLimits, most: int) -> Licences:
    """What manifests and licence files say, in a pass of its own: they may stand behind the files that they are of."""
    licences = Licences(file.licence)
    try:
        for mode, name, sha, _ in _entries(objects, tree, limits, most):
            if stat.S_ISREG(mode) and licences.is_statement(name):
                content = _content(objects, mode, name, sha, limits)
                licences.add(name, content if isinstance(content, bytes) else b"")
    except Unreadable:
        pass  # as below
    except _broken():
        pass  # the pass over the texts comes to the same place, and says so
    return licences


def _count(repository: Repo) -> int:
    """Objects of a repository: a tree of many more names than there are objects is a bomb."""
    store = repository.object_store
    return sum(len(pack) for pack in store.packs) + sum(1 for _ in store._iter_loose_objects())


def _content(objects: SmallObjects, mode: int, name: str, sha: ObjectID, limits: ReadLimits) -> bytes | Refusal:
    if stat.S_ISLNK(mode):
        return Refusal("link", "a symbolic link; links are not followed")
    if (unsafe := unsafe_path(name, limits)) is not None:
        return unsafe
    try:
        blob = objects[sha]
    except ObjectTooLargeError as error:
        return Refusal("file_too_large", str(error))
    except _broken() as error:
        reason = "file_too_large" if "exceeds maximum size" in str(error) else "damaged"
        return Refusal(reason, f"object {_why(sha, error)}")
    content = blob.as_raw_string()
    if _digest(objects, b"blob", content) != sha.decode():
        return Refusal("damaged", f"object {sha.decode()}: its content is not what its name says")
    return content


@cache
def _broken() -> tuple[type[Exception], ...]:
    """What broken objects make dulwich raise."""
    from dulwich.errors import ChecksumMismatch, FileFormatException, NotGitRepository, WrongObjectException
    from dulwich.pack import ApplyDeltaError

    own = (ApplyDeltaError, ChecksumMismatch, FileFormatException, NotGitRepository, WrongObjectException)
    builtin = (zlib.error, LookupError, ValueError, TypeError, AttributeError, AssertionError, OSError, EOFError, OverflowError)
    return (ObjectTooLargeError, *own, *builtin, RecursionError)


def _digest(objects: SmallObjects, kind: bytes, content: bytes) -> str:
    digest = objects.store.object_format.hash_func()
    digest.update(kind + b" %d\0" % len(content) + content)
    return digest.hexdigest()


def is_repository(place: str) -> bool:
    """True for a path on this machine that is a repository, bare or checked out."""
    folder = Path(place)
    inside = folder / ".git"  # a file in a worktree or a submodule
    return inside.is_file() or any((at / "HEAD").is_file() and (at / "objects").is_dir() for at in (inside, folder))


def _describe(place: str, source: str, options: dict[str, Any]) -> SourceFile:
    return describe_repository(place, source, options.get("revision", "HEAD"))


READER = Reader(read=read_repository, probe=is_repository, options=Options, needs=("dulwich",), describe=_describe)
