"""Where this machine keeps what runs leave; imports nothing heavy."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.hardware import free_disk_bytes

NEEDED_DISK_BYTES = 2 * 1024**3  # the demo leaves 0.6 GB; Dask and the shards want room to work


def artifact_home() -> Path:
    """The artifact root: CPT_HOME, or ./artifacts.

    Raises:
        UserError: a file lies there, or on the way there.
    """
    home = Path(os.environ.get("CPT_HOME") or "artifacts").absolute()
    for place in (home, *home.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{home}: {place} is a file, expected the folder of the artifacts; point CPT_HOME at another place")
    return home


def writable_home() -> Path:
    """The artifact root, made where it is not there.

    Raises:
        UserError: it cannot be written to, or its disk is nearly full.
    """
    home = artifact_home()
    elsewhere = "or point CPT_HOME at another place"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{home}: cannot be written to ({error.strerror}); mend its rights, {elsewhere}") from error
    if (free := free_disk_bytes(home)) < NEEDED_DISK_BYTES:
        needed = f"a run needs {NEEDED_DISK_BYTES / 1e9:.1f} GB"
        raise UserError(f"{home}: {free / 1e9:.1f} GB free, {needed}; free some, {elsewhere}")
    return home


def cache_folder(url: str) -> Path:
    """Where this machine keeps its copies of a bucket's artifacts: below CPT_CACHE, or below the artifact root."""
    caches = Path(os.environ.get("CPT_CACHE") or artifact_home() / "cache").absolute()
    return caches / hashlib.sha256(url.encode()).hexdigest()[:16]
