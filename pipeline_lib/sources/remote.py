"""Remote files: listed through fsspec, told by their first bytes, and copied to a temporary file while they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from pipeline_lib.errors import TransientError, UserError, public_name, redacted
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import unlimited
from pipeline_lib.store.files import digest_of

BLOCK_BYTES = 1 << 20


class RemoteFile(NamedTuple):
    """One object of a bucket or the like."""

    url: str
    path: str  # below the listed folder, or the part of a glob's path that has no wild card
    bytes: int
    identity: str  # changes whenever the content does, as far as the server tells


def is_remote(place: str) -> bool:
    """True for a URL that is not on this machine."""
    return "://" in place


def list_url(url: str) -> tuple[bool, list[RemoteFile]]:
    """List every file that a URL names, by path; and say if the URL is a folder.

    Raises:
        UserError: there is no such scheme or nothing there, or its library or the right to read is missing.
        TransientError: the server did not answer.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        magic = has_wild_card(path)
        folder = not magic and system.isdir(path)
        details = system.glob(path, detail=True) if magic else system.find(path, detail=True)
    except (ValueError, ImportError, FileNotFoundError, PermissionError) as error:
        raise UserError(f"{url}: {error}; give a URL that can be read from here") from error
    except Exception as error:
        raise TransientError(f"{url}: listing failed: {type(error).__name__}: {error}") from error
    root = fixed_folder(path) if magic else path if folder else path.rsplit("/", 1)[0]
    files = [
        RemoteFile(
            system.unstrip_protocol(name),
            public_name(name.removeprefix(root).lstrip("/")),
            int(info["size"] or 0),
            _identity(info),
        )
        for name, info in sorted(details.items())
        if info["type"] == "file"
    ]
    return folder, files


def read_heads(urls: Sequence[str], most: int) -> list[bytes]:
    """The first bytes of remote files, all asked for at once where their server lets one; none of a file that is not there.

    Raises:
        TransientError: the server did not answer.
    """
    import fsspec

    if not urls:
        return []
    try:
        with unlimited():
            system, _ = fsspec.core.url_to_fs(urls[0])
            paths = [system._strip_protocol(url) for url in urls]
            if "http" in system.protocol or "https" in system.protocol:  # which may send all of a file for its beginning
                heads = [_head(system, path, most) for path in paths]
            else:
                heads = system.cat_ranges(paths, [0] * len(paths), [most] * len(paths), on_error="return")
    except Exception as error:
        raise TransientError(f"{urls[0]}: reading failed: {type(error).__name__}: {error}") from error
    return [bytes(head[:most]) if isinstance(head, bytes | bytearray) else b"" for head in heads]


def _head(system: Any, path: str, most: int) -> bytes:
    try:
        with system.open(path, "rb") as stream:
            return bytes(stream.read(most))
    except (FileNotFoundError, PermissionError) as error:
        if _is_dead_server(error.__cause__):
            raise
        return b""


@contextmanager
def local_copy(file: SourceFile) -> Iterator[SourceFile | Refusal]:
    """The file with a place on this machine: itself, or a temporary copy of no more bytes than were listed.

    Raises:
        TransientError: the server did not answer.
    """
    if not is_remote(file.place):
        yield file
        return
    suffix = "".join(PurePosixPath(file.path).suffixes[-2:])
    with tempfile.NamedTemporaryFile(prefix="cpt-", suffix=suffix) as copy:
        try:
            with unlimited():
                refusal = _download(file, copy)
        except (FileNotFoundError, PermissionError) as error:
            if _is_dead_server(error.__cause__):
                raise TransientError(f"{file.place}: reading failed: {error.__cause__}") from error
            refusal = Refusal("unreadable", redacted(f"{file.place}: {error}"))
        except Exception as error:
            raise TransientError(f"{file.place}: reading failed: {type(error).__name__}: {error}") from error
        yield refusal or file.model_copy(update={"place": copy.name, "sha256": ""})


def _download(file: SourceFile, copy: IO[bytes]) -> Refusal | None:
    import fsspec

    system, path = fsspec.core.url_to_fs(file.place)
    system.invalidate_cache()
    info = system.info(path)
    if (got := _identity(info)) != file.sha256:
        return Refusal("content_changed", f"is {got}, listed as {file.sha256}: list again")
    left = file.bytes
    with system.open(path, "rb") as stream:
        while left and (block := stream.read(min(BLOCK_BYTES, left))):
            copy.write(block)
            left -= len(block)
    copy.flush()
    return Refusal("truncated", f"{file.bytes} bytes were listed, {left} are missing") if left else None


def _is_dead_server(cause: BaseException | None) -> bool:
    """True where fsspec, which says of HTTP that a file is not there whatever happened, means that its server is not."""
    unreachable = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError)
    return unreachable or isinstance(cause, TimeoutError) or getattr(cause, "status", 0) >= 500


def _identity(info: dict[str, Any]) -> str:
    mark = next((info[name] for name in ("ETag", "etag", "md5Hash", "mtime", "created", "LastModified") if info.get(name)), "")
    return "etag:" + digest_of([info["size"], str(mark)])


def fixed_folder(pattern: str) -> str:
    """The folders of a glob before its first wild card."""
    parts = pattern.split("/")
    first = next((index for index, part in enumerate(parts) if has_wild_card(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


def has_wild_card(place: str) -> bool:
    """True for a glob."""
    return any(c in place for c in "*?[")
