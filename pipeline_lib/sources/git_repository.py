"""A git repository, bare or checked out, at a revision: read from its objects, without a checkout and without running git."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dulwich.errors import ChecksumMismatch, FileFormatException, NotGitRepository, WrongObjectException
from dulwich.object_store import MaxTreeDepthExceeded, ObjectContainer, iter_tree_contents
from dulwich.objects import Commit, ObjectID
from dulwich.objectspec import parse_commit
from dulwich.pack import ApplyDeltaError
from dulwich.repo import Repo
from pydantic import Field

from pipeline_lib.config import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.member import MemberOptions, member, unsafe_path, wanted_form
from pipeline_lib.sources.object_sizes import ObjectTooLargeError, SmallObjects
from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.source_tree import shown
from pipeline_lib.sources.time_limit import sign_of_life

_SUBMODULE = 0o160000
# whatever broken objects make dulwich raise
_BROKEN = (
    ObjectTooLargeError,
    MaxTreeDepthExceeded,
    ChecksumMismatch,
    FileFormatException,
    WrongObjectException,
    ApplyDeltaError,
    NotGitRepository,
    zlib.error,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    EOFError,
    OverflowError,
    RecursionError,
)


class Options(MemberOptions):
    """Of the reader `git`."""

    revision: str = Field("HEAD", description="A branch, a tag or a commit.", min_length=1)


def describe_repository(place: str, source: str, revision: str) -> SourceFile:
    """The record of a repository: the commit that the revision is now stands for its content.

    Raises:
        UserError: there is no repository, or no such revision in it.
    """
    folder = Path(place).expanduser()
    try:
        with Repo(str(folder)) as repository:
            commit = parse_commit(repository, revision.encode())
            objects = Path(repository.commondir()) / "objects"
    except NotGitRepository as error:
        raise UserError(f"source {source}: {folder}: no git repository there; give its folder, bare or checked out") from error
    except _BROKEN as error:
        raise UserError(f"source {source}: {folder}: no revision {revision!r}; give a branch, a tag or a commit") from error
    name = shown(folder.resolve().name)
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


def read_repository(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """Every file of code or prose of the listed commit, by path; its group is the repository.

    Refusals of files: link, submodule, unsafe_path, file_too_large, damaged, and those of decoding. Of the repository:
    unreadable, damaged, too_many_members.
    """
    try:
        with Repo(file.place) as repository:
            yield from _files(file, repository, limits)
    except (NotGitRepository, PermissionError) as error:
        yield Found(file, Refusal("unreadable", ascii(str(error))[:200]))
    except _BROKEN as error:
        yield Found(file, Refusal("damaged", f"{type(error).__name__}: {ascii(str(error))[:200]}"))


def _files(file: SourceFile, repository: Repo, limits: ReadLimits) -> Iterator[Found]:
    commit = repository[file.sha256.removeprefix("commit:").encode()]
    if not isinstance(commit, Commit):
        raise ValueError(f"{file.sha256} is no commit")
    html = Options.model_validate(file.options).html
    objects = SmallObjects(repository, limits.max_text_bytes)
    # folders are counted too: a few objects can nest to any number of them
    for count, entry in enumerate(
        iter_tree_contents(cast(ObjectContainer, objects), commit.tree, include_trees=True, max_depth=limits.max_depth)
    ):
        sign_of_life()
        if count > limits.max_members:
            yield Found(file, Refusal("too_many_members", f"more than {limits.max_members}; see source.limits"))
            return
        mode, name = entry.mode or 0, shown((entry.path or b"").decode("utf-8", "surrogateescape"))
        if stat.S_ISDIR(mode) or entry.sha is None:
            continue
        form = wanted_form(name, html)
        if mode == _SUBMODULE:
            yield member(file, name, form, Refusal("submodule", "another repository: list it by itself"), limits)
        elif form is not None:
            yield member(file, name, form, _content(objects, mode, name, entry.sha), limits)


def _content(objects: SmallObjects, mode: int, name: str, sha: ObjectID) -> bytes | Refusal:
    if stat.S_ISLNK(mode):
        return Refusal("link", "a symbolic link; links are not followed")
    if (unsafe := unsafe_path(name)) is not None:
        return unsafe
    try:
        blob = objects[sha]
    except ObjectTooLargeError as error:
        return Refusal("file_too_large", str(error))
    except _BROKEN as error:
        reason = "file_too_large" if "exceeds maximum size" in str(error) else "damaged"
        return Refusal(reason, f"object {sha.decode()}: {type(error).__name__}: {ascii(str(error))[:200]}")
    content = blob.as_raw_string()
    if _digest(objects, content) != sha.decode():
        return Refusal("damaged", f"object {sha.decode()}: its content is not what its name says")
    return content


def _digest(objects: SmallObjects, content: bytes) -> str:
    digest = objects.store.object_format.hash_func()
    digest.update(b"blob %d\0" % len(content) + content)
    return digest.hexdigest()
