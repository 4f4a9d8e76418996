"""Cost of a run: seconds, CPU seconds and memory over the whole process tree, kept across interruptions.

Memory is the sum of PSS (each shared page counted once, in shares) over the tree, sampled every two
seconds; the largest sample counts.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil

from pipeline_lib.runtime.machine import cpu_seconds
from pipeline_lib.store.files import replace_file

SAMPLE_SECONDS = 2.0  # reading the maps of a large process takes tens of milliseconds
FLUSH_SAMPLES = 2


class Meter:
    """Samples the process tree in a thread and adds this attempt to the file of all attempts.

    Args:
        path: JSON file {"of", "began_at", "attempts": [{"seconds", "cpu_seconds", "peak_memory_bytes"}, ...], "finished"};
            an attempt that was killed keeps what was last written, at most five seconds old. A finished file starts afresh.
        of: names the work; attempts at another under the same path are no part of this one.

    Attributes:
        began_at: start of the first attempt (seconds since 1970).
    """

    def __init__(self, path: Path, of: str = "") -> None:
        self.path = path
        self.of = of
        self._started = time.time()
        self.began_at, self._earlier = _read_attempts(path, of, self._started)
        self._root = psutil.Process()
        self._cpu_at_start = self._tree_cpu_seconds()
        self._peak_bytes = 0
        self._finished = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.flush()

    def total(self) -> dict[str, float]:
        """Attempts, when the first began, seconds and CPU seconds summed over all, memory of the largest."""
        attempts = [*self._earlier, self._attempt()]
        return {
            "attempts": len(attempts),
            "began_at": self.began_at,
            "seconds": sum(a["seconds"] for a in attempts),
            "cpu_seconds": sum(a["cpu_seconds"] for a in attempts),
            "peak_memory_bytes": max(a["peak_memory_bytes"] for a in attempts),
        }

    def close(self) -> dict[str, float]:
        """The total of a run that is done; the next run under this path counts from zero."""
        self._finished = True
        return self.total()

    def flush(self) -> None:
        """Write the attempts, this one included."""
        attempts = [*self._earlier, self._attempt()]
        record = {"of": self.of, "began_at": self.began_at, "attempts": attempts, "finished": self._finished}
        with contextlib.suppress(OSError):  # of a full disk, which is told by what has to be written
            replace_file(self.path, json.dumps(record, indent=1).encode())

    def _attempt(self) -> dict[str, float]:
        return {
            "seconds": round(time.time() - self._started, 2),
            "cpu_seconds": round(self._tree_cpu_seconds() - self._cpu_at_start, 2),
            "peak_memory_bytes": self._peak_bytes,
        }

    def _watch(self) -> None:
        samples = 0
        while True:
            self._peak_bytes = max(self._peak_bytes, tree_pss_bytes(self._root))
            if self._stop.wait(SAMPLE_SECONDS):
                return
            samples += 1
            if samples % FLUSH_SAMPLES == 0:
                self.flush()

    def _tree_cpu_seconds(self) -> float:
        return sum(cpu_seconds(process) for process in [self._root, *self._root.children(recursive=True)])


def tree_pss_bytes(root: psutil.Process) -> int:
    """Sum of PSS over a process and all its descendants; one that ends meanwhile counts as nothing."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += _pss_bytes(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, ProcessLookupError, PermissionError):
            continue
    return total


def _pss_bytes(process: psutil.Process) -> int:
    """PSS of one process; Linux adds it up itself, a tenth of the time of listing every mapping."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return int(process.memory_full_info().pss)
    return sum(1024 * int(line.split()[1]) for line in rollup.read_text().splitlines() if line.startswith("Pss:"))


def _read_attempts(path: Path, of: str, now: float) -> tuple[float, list[dict[str, Any]]]:
    """When the first of the unfinished attempts at this work began, and what each took."""
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"finished": True}
    if record.get("finished") or record.get("of", "") != of:
        return now, []
    return record.get("began_at", now - sum(a["seconds"] for a in record["attempts"])), list(record["attempts"])
