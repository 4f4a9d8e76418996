"""Entry point of a trainer process: `python -m torch.distributed.run ... -m pipeline_lib.train JOB.json` starts them."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from pipeline_lib.train.failure import report

POLL_SECONDS = 0.5
SAVE_GRACE_SECONDS = 20.0


def end_with_torchrun() -> None:
    """SIGTERM when torchrun dies, and the end where that does not help.

    torchrun starts its workers in sessions of their own, where no signal to its group arrives. And Python's handler of
    SIGTERM waits for a collective that may never return; a thread does not.
    """
    from pipeline_lib.runtime.processes import end_with_parent

    torchrun = os.getppid()
    end_with_parent()
    threading.Thread(target=_end_after, args=(torchrun,), daemon=True).start()


def _end_after(torchrun: int) -> None:
    while os.getppid() == torchrun:
        time.sleep(POLL_SECONDS)
    time.sleep(SAVE_GRACE_SECONDS)
    os._exit(1)


def end_with_report(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """Tell the launcher what ended this process, then end at once: other ranks and threads of this one may wait for it."""
    report(error)
    os._exit(1)


def main(path: Path) -> None:
    """Train as the job says, to its end or until it is stopped and its state saved. Raises what ended it else."""
    from pipeline_lib.train.job import Events, Job
    from pipeline_lib.train.trainer import work

    job = Job.model_validate_json(path.read_bytes())
    work(job, Events(enabled=os.environ.get("RANK", "0") == "0"))


if __name__ == "__main__":
    sys.excepthook = end_with_report
    end_with_torchrun()
    main(Path(sys.argv[1]))
