"""Display of a run at work: a progress line in the terminal, progress bars and tables in Prefect's UI."""

from __future__ import annotations

import base64
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from pipeline_lib.errors import TransientError, redact_chain, redacted
from pipeline_lib.runtime import interruption
from pipeline_lib.runtime.progress import WARNING

P = ParamSpec("P")
R = TypeVar("R")

UI_SECONDS = 5.0  # each update is a call to the server
LINE_SECONDS = 10.0  # between plain lines where there is no terminal to redraw
REDRAW_SECONDS = 0.2
SHOW_AFTER_SECONDS = 1.0
BAR_WIDTH = 24
PACE_SECONDS = 180.0  # of which the pace is taken: some tasks report but once a minute


def log_without_secrets() -> None:
    """Make every log record of this process one without secrets, whichever library wrote it, its traceback included."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            text = made.getMessage()
        except (TypeError, ValueError):  # the words do not fit its arguments: logging tells, where it is written
            return made
        if (told := redacted(text)) != text:
            made.msg, made.args = told, ()
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = redacted("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


log_without_secrets()


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Retry nothing but a TransientError: a bad input stays bad."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def release_frames(error: BaseException) -> None:
    """Let go of what the functions held that an error went through: Prefect keeps the error until the process ends.

    Native libraries report objects as leaked that are alive then, such as DuckDB its connections, closed ones too.
    """
    chain: list[BaseException] = [error]
    for link in chain:
        traceback.clear_frames(link.__traceback__)
        chain += [cause for cause in (link.__cause__, link.__context__) if cause is not None and cause not in chain]


def stage_task(name: str, retries: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A Prefect task without caching or stored results: the artifact store is the only cache.

    Transient errors are retried with growing, jittered delays; nothing else is.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def body(*args: P.args, **kwargs: P.kwargs) -> R:
            interruption.check()
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                release_frames(error)
                redact_chain(error)
                raise
            finally:
                for progress in list(_DRAWN):  # of a stage that failed or was interrupted
                    progress.clear()
                interruption.check()  # what a library made of a signal is no failure of this task

        return task(
            name=name,
            retries=retries,
            retry_delay_seconds=exponential_backoff(1),
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(body)

    return decorate


class StageProgress:
    """Progress of one stage: a line that is drawn over in a terminal, lines now and then elsewhere, a bar in Prefect's UI.

    Args:
        name: of the stage, as the line begins.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self._artifact: UUID | None = None
        self._told_at = -math.inf
        self._ui_at = self._line_at = self.started
        console = Console(stderr=True)
        self._redraws = console.is_terminal and not console.is_dumb_terminal
        # refreshed by hand: no thread draws while the process ends
        self._line = Progress(
            *LINE,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=PACE_SECONDS,
        )
        self._stage = self._line.add_task(name, total=None, note="")

    def __call__(self, done: float, total: float, note: str = "") -> None:
        interruption.check()
        now = time.monotonic()
        if now - self._told_at < REDRAW_SECONDS:  # the pace is of so many samples: they should not all be of one second
            return
        self._told_at = now
        self._line.update(self._stage, completed=min(done, total), total=total or None, note=note)
        if now - self.started < SHOW_AFTER_SECONDS:
            return
        if now - self._ui_at > UI_SECONDS:
            self._ui_at = now
            self._update_ui(self._line.tasks[0].percentage, note)
        if self._redraws or now - self._line_at > LINE_SECONDS:
            self._line_at = now
            self._draw()

    def tell(self, line: str) -> None:
        """A line of the stage's own log, to the run's log; a warning to the terminal too."""
        if not line.startswith(WARNING):
            get_run_logger().info("%s", line)
            return
        get_run_logger().warning("%s", line.removeprefix(WARNING))
        self.clear()
        say(f"  {self.name:<18} {line}")

    def note(self, line: str) -> None:
        """A line below the stage's own: to the run's log and to the terminal."""
        get_run_logger().info("%s: %s", self.name, line)
        self.clear()
        say(f"  {'':<18} {line}")

    def finish(self, note: str) -> None:
        """The last line of the stage: what came of it."""
        if self._artifact is not None:
            self._update_ui(100.0, note)
        self.clear()
        seconds = time.monotonic() - self.started
        get_run_logger().info("%s: %s [%s]", self.name, note, clock(seconds))
        say(f"  {self.name:<18} {note}  [{clock(seconds)}]")

    def clear(self) -> None:
        """Take the line off the terminal; the next call draws it again."""
        if self in _DRAWN:
            _DRAWN.discard(self)
            self._line.stop()

    def _update_ui(self, percent: float, note: str) -> None:
        if self._artifact is None:
            key = f"{slug(self.name)}-progress"
            self._artifact = _now(create_progress_artifact(percent, key=key, description=redacted(note)))
        else:
            update_progress_artifact(self._artifact, percent, description=redacted(note))

    def _draw(self) -> None:
        if not self._redraws:
            stage = self._line.tasks[0]
            say(f"  {self.name:<18} {stage.percentage:3.0f} %  {stage.fields['note']}{time_left(stage)}")
            return
        _DRAWN.add(self)
        self._line.start()
        self._line.refresh()


_DRAWN: set[StageProgress] = set()  # on the terminal, where the cursor is hidden meanwhile


def time_left(stage: Task) -> str:
    """The one clock of what is left: by the pace of the last minutes, so that a stage that goes on half done is not hurried."""
    return "" if stage.time_remaining is None else f"  {clock(stage.time_remaining)} left"


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(time_left(task))


def _plain(text: str) -> TextColumn:
    return TextColumn(text, markup=False)


LINE = (
    _plain("  {task.description:<18}"),
    BarColumn(BAR_WIDTH),
    _plain("{task.percentage:3.0f} %"),
    _plain("{task.fields[note]}"),
    _TimeLeft(),
)


def say(line: str) -> None:
    """One line to whoever watches the terminal."""
    sys.stderr.write(redacted(line) + "\n")
    sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _now(answer: Any) -> UUID:
    """Prefect's functions are typed for both worlds; called from synchronous code they answer at once."""
    assert isinstance(answer, UUID), answer
    return answer


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes: what Prefect takes as an artifact's key."""
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")


def show_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """A table in Prefect's UI; numbers rounded for reading."""
    shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
    create_table_artifact(table=shown, key=slug(key), description=redacted(description))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    return round(value, 4) if isinstance(value, float) else value


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A page of markdown in Prefect's UI."""
    create_markdown_artifact(markdown=redacted(markdown), key=slug(key), description=description)


def show_picture(key: str, path: Path, description: str) -> None:
    """A PNG in Prefect's UI, inside the artifact itself; nothing where there is no such file."""
    if path.is_file():
        data = base64.b64encode(path.read_bytes()).decode()
        create_image_artifact(image_url=f"data:image/png;base64,{data}", key=slug(key), description=description)
