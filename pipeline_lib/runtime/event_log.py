"""Structured log: one JSON object a line and event, a file a run, beside what people see; bounded in size and number.

    logs/20261130T020000-1a2b3c4d.jsonl     begun at, first digits of the flow run's id

Each line has `at`, `level`, `event`, `run` (id of the outermost flow run), `name`, and what the event is about: `flow_run`,
`task_run`, `stage`, `part`, `message`. Events: run, stage, part, progress, notification, line (of the log that people read).
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pipeline_lib.runtime.messages import without_secrets

FOLDER = "logs"
SWITCH = "CPT_LOGS"  # "off": no structured log
FILE_BYTES = 8_000_000  # of a run's file; the one before it is kept beside it
MOST_BYTES, MOST_FILES = 256_000_000, 400  # of all runs' files: the oldest are removed
EVENTS = logging.getLogger("cpt.events")


class JsonLines(logging.Formatter):
    """One JSON object a record.

    Args:
        always: fields of every line.
    """

    def __init__(self, always: dict[str, Any]) -> None:
        super().__init__()
        self.always = always

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": "line", **self.always}
        for name, field in {"flow_run": "flow_run_id", "task_run": "task_run_id", "stage": "task_name"}.items():
            if value := getattr(record, field, None):
                line[name] = str(value)
        line |= getattr(record, "fields", {})
        if message := record.getMessage():
            line["message"] = without_secrets(message)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = without_secrets(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}")
        return json.dumps(line, ensure_ascii=False, default=str)


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing: a full disk must not end a run here, nor print a traceback a line."""


def tell(event: str, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
    """Write an event to the structured log of the run that this process works at; nothing where there is none."""
    if EVENTS.handlers:
        EVENTS.log(level, "%s", message, extra={"fields": {"event": event, **fields}})


def open_log(home: Path, run_id: str, always: dict[str, Any]) -> logging.Handler | None:
    """A handler that writes a run's file; None where the log is switched off or cannot be written.

    Args:
        always: fields of every line beside the run's id.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return None
    folder = home / FOLDER
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{began}-{run_id[:8]}.jsonl"
        handler = _LogFile(path, maxBytes=FILE_BYTES, backupCount=1, encoding="utf-8", delay=True)
        remove_oldest(folder)
    except OSError:  # a full disk, or a folder of others: the run itself says so where that matters
        return None
    handler.setFormatter(JsonLines({"run": run_id, **always}))
    handler.setLevel(logging.INFO)
    return handler


def remove_oldest(folder: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> int:
    """Remove the files of the oldest runs, until the rest is within its bounds; how many."""
    paths = sorted(folder.glob("*.jsonl*"), key=lambda path: path.name, reverse=True)
    total, n_kept = 0, 0
    for number, path in enumerate(paths):
        total += path.stat().st_size
        if number >= most_files or (total > most_bytes and number):
            break
        n_kept += 1
    for path in paths[n_kept:]:
        path.unlink(missing_ok=True)
    return len(paths) - n_kept


class RotatedOutput:
    """File that a child process writes to for months: once it is too large, its content moves to a second file.

    The child holds it open for appending, so that it goes on at the new end; what it writes in between is lost, a line at most.

    Args:
        path: of the file; the second one has `.1` after its name.
    """

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES) -> None:
        self.path, self.most_bytes = path, most_bytes

    def rotate(self) -> bool:
        """Move the content if there is too much of it; whether it was."""
        try:
            if self.path.stat().st_size <= self.most_bytes:
                return False
            with self.path.open("rb+") as stream, self.path.with_name(f"{self.path.name}.1").open("wb") as before:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - self.most_bytes))  # a child may have written gigabytes since the last look
                while block := stream.read(1 << 20):
                    before.write(block)
                stream.truncate(0)
        except OSError:
            return False
        return True
