"""The artifact root, in a file that imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path


def artifact_home() -> Path:
    """The artifact root: CPT_HOME, or ./artifacts."""
    return Path(os.environ.get("CPT_HOME") or "artifacts").absolute()
