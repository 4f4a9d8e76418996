"""The console script `cpt`: known failures are one line and an exit code, a signal is one line too, and neither is a traceback.

Imports next to nothing, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from pipeline_lib import interruption

WRONG_USE = 2
# commands whose work is kept as they go, so that the same command goes on from there
GO_ON = ("run", "build-dataset", "pretrain", "train", "finetune", "evaluate", "publish", "ablate")


def main() -> NoReturn:
    """Answer one command line and exit."""
    goes_on = next((word for word in sys.argv[1:] if not word.startswith("-")), "") in GO_ON
    last_words = "interrupted; the same command goes on from here" if goes_on else "stopped"
    interruption.listening(_answer, last_words)


def _answer() -> int:
    """The exit code of the command."""
    from flows.cli import app
    from flows.failures import told

    try:
        code = app(standalone_mode=False)  # a number where typer ended it, after --help; else what the command returned
        return code if isinstance(code, int) else 0
    except Exception as error:
        line = told(error)
        if line is None:
            raise
        sys.stderr.write(f"cpt: {line}\n")
        return WRONG_USE


if __name__ == "__main__":
    main()
