"""Bucket: a folder of an object store, through fsspec. Objects are whole or absent, records are put once.

A bucket has no rename, and needs none: an upload becomes visible when it is complete. What it must offer is a put that fails
where an object is (`If-None-Match: *` and its like), for the records that make parts and artifacts exist.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError, has_secret
from pipeline_lib.store.files import fault_point, sha256_file

# with an atomic put-if-absent behind fsspec's mode="create"; "memory" is one process's own
PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
_LOCAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # a fault of this machine's disk, not of the network

# of botocore, google-auth and azure-core, which are not imported here
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
    }
)


class Bucket:
    """The objects below one URL, by their names relative to it.

    Raises:
        UserError: the scheme is unknown, offers no put-if-absent, or its library is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        if has_secret(url):
            raise UserError(
                f"{url}: the place of artifacts is written down in many places; give credentials by the environment"
            )
        scheme, _, place = url.partition("://")
        if not place.strip("/"):
            raise UserError(f"{url}: no bucket is named; expected {scheme}://BUCKET/PREFIX")
        self.url = url.rstrip("/")
        if scheme not in PROTOCOLS:
            known = ", ".join(f"{name}://" for name in sorted(PROTOCOLS))
            raise UserError(f"{url}: artifacts need a store that puts an object only where there is none; expected {known}")
        try:
            system, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise UserError(f"{url}: {error}") from error
        self._system: Any = system
        self._root: str = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The content of an object, or None where there is none."""
        with self._edge(name):
            try:
                return self._system.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one. Returns whether this call wrote it."""
        with self._edge(name):
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            return True

    def replace(self, name: str, content: bytes) -> None:
        """Write an object in place of what is there."""
        with self._edge(name):
            self._system.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Take an object away, if there is one."""
        with self._edge(name):
            if self._system.exists(self._path(name)):
                self._system.rm_file(self._path(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by name."""
        with self._edge(folder):
            found = self._system.find(self._path(folder), detail=True)
        return {path[len(self._root) + 1 :]: int(info["size"] or 0) for path, info in found.items()}

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to an object, whole: the transfer is checked by the store's checksum and by its size.

        Raises:
            TransientError: the connection failed, or not all bytes arrived.
        """
        fault_point("bucket:before_upload")
        with self._edge(name):
            self._system.put_file(str(path), self._path(name))
            got = self._system.info(self._path(name))["size"]
        if got != path.stat().st_size:
            raise TransientError(f"{self.url}/{name}: {got} bytes arrived of {path.stat().st_size}")

    def download(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Copy an object to a file, which is there only when its bytes are the expected ones.

        Raises:
            CorruptArtifact: the object is gone, or its bytes are others.
            TransientError: the connection failed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            with self._edge(name):
                try:
                    self._system.get_file(self._path(name), temporary)
                    got = sha256_file(Path(temporary))
                    cut = got != sha256 and Path(temporary).stat().st_size < self._system.info(self._path(name))["size"] == size
                except FileNotFoundError:
                    got, cut = "no file", False
            if cut:
                raise TransientError(f"{self.url}/{name}: the connection ended early")
            if got != sha256:
                raise CorruptArtifact(
                    f"{self.url}/{name}: sha256 is {got}, its record says {sha256}; remove the stage's folder and run again"
                )
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _edge(self, name: str) -> Iterator[None]:
        """The network's edge: whatever fails here may pass, except a missing right or a full disk."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:  # of an object that may be missing it is caught before
            raise UserError(f"{self.url}: {error}; make the bucket first, or name another") from error
        except PermissionError as error:
            raise UserError(f"{self.url}/{name}: {error}; are the credentials those of this bucket?") from error
        except Exception as error:
            if any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__):
                raise UserError(f"{self.url}: {error}; give the store's credentials in its usual variables or files") from error
            if isinstance(error, OSError) and error.errno in _LOCAL:
                raise
            raise TransientError(f"{self.url}/{name}: {type(error).__name__}: {error}") from error
