"""Where this machine keeps what runs leave; imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def artifact_home() -> Path:
    """The artifact root: CPT_HOME, or ./artifacts."""
    return Path(os.environ.get("CPT_HOME") or "artifacts").absolute()


def cache_folder(url: str) -> Path:
    """Where this machine keeps its copies of a bucket's artifacts: below CPT_CACHE, or below the artifact root."""
    caches = Path(os.environ.get("CPT_CACHE") or artifact_home() / "cache").absolute()
    return caches / hashlib.sha256(url.encode()).hexdigest()[:16]
