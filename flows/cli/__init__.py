"""The console script `cpt`: known failures are one line and an exit code, a signal is one line too, and neither is a traceback.

Imports next to nothing, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

from pipeline_lib.errors import ContractViolation, CorruptArtifact, TrainingFailed, TransientError, UserError
from pipeline_lib.runtime import interruption

WRONG_USE = 2
KNOWN = (UserError, ContractViolation, CorruptArtifact, TrainingFailed, TransientError)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
# commands whose work is kept as they go, so that the same command goes on from there
GO_ON = {"run", "get-start", "fetch", "build-dataset", "pretrain", "train", "finetune", "evaluate", "publish", "ablate"}
GO_ON |= {"reproduce", "queries", "push"}


def main() -> NoReturn:
    """Answer one command line and exit."""
    goes_on = next((word for word in sys.argv[1:] if not word.startswith("-")), "") in GO_ON
    interruption.listening(_answer, "interrupted; the same command goes on from here" if goes_on else "stopped")


def _answer() -> int:
    """The exit code of the command."""
    from flows.cli.commands import app

    try:
        code = app(standalone_mode=False)  # a number where typer ended it, after --help; else what the command returned
        return code if isinstance(code, int) else 0
    except Exception as error:
        line = _told(error)
        if line is None:
            raise
        sys.stderr.write(f"cpt: {line}\n")
        return WRONG_USE


def _told(error: Exception) -> str | None:
    """A known failure as one line; None: a fault of ours, which wants its traceback."""
    if isinstance(error, KNOWN):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "writing"
        return f"{where}: {os.strerror(error.errno)}; free some space or mend the rights, and run again"
    if hasattr(error, "format_message"):  # a wrong option, in typer's words
        return str(error.format_message())
    return None
