"""Known failures in one line: what, where, got against expected, and what to do."""

from __future__ import annotations

import errno
import os

from pipeline_lib.errors import ContractViolation, CorruptArtifact, TrainingFailed, TransientError, UserError

KNOWN = (UserError, ContractViolation, CorruptArtifact, TrainingFailed, TransientError)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def told(error: Exception) -> str | None:
    """What a terminal says of an exception; None: it is a fault of ours, and wants its traceback."""
    if isinstance(error, KNOWN):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "writing"
        return f"{where}: {os.strerror(error.errno)}; free some space or mend the rights, and run again"
    if hasattr(error, "format_message"):  # a wrong option, in typer's words
        return str(error.format_message())
    return None
