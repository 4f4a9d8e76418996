"""Display of a run at work: a progress line in the terminal, progress bars and tables in Prefect's UI."""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled
from prefect.tasks import exponential_backoff
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from pipeline_lib.errors import TransientError, redact_chain, redacted
from pipeline_lib.runtime import event_log, interruption
from pipeline_lib.runtime.machine import PAGES_FILE, artifact_home
from pipeline_lib.runtime.messages import without_secrets
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact

P = ParamSpec("P")
R = TypeVar("R")

UI_SECONDS = 5.0  # each update is a call to the server
LINE_SECONDS = 10.0  # between plain lines where there is no terminal to redraw
REDRAW_SECONDS = 0.2
SHOW_AFTER_SECONDS = 1.0
BAR_WIDTH = 24
MOST_PARTS = 2_000  # of an artifact that the structured log has a line for
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


def check_suspended() -> None:
    """Leave the stage where its run was suspended in Prefect's UI, which waits for the end of a task, be that in hours.

    The exception unwinds as that of a signal does: a trainer saves its state, and processes end. Parts are found again.
    """
    context = FlowRunContext.get()
    if context is not None:
        context.flow_run_suspension_request.raise_if_requested()


def _end_suspended() -> None:
    """Close the task's run: the flow's run goes on with new ones."""
    context = TaskRunContext.get()
    if context is not None:
        with get_client(sync_client=True) as client:
            told: State[Any] = Cancelled(
                name="Suspended", message="Its flow run was suspended; when that is resumed, it goes on from here."
            )
            client.set_task_run_state(context.task_run.id, told, force=True)
        context.task_run.state = told  # what Prefect's log says of it


@contextmanager
def paused_with_caller() -> Iterator[None]:
    """A flow within another one, in the block, is Paused while that is suspended; Prefect would leave it Running."""
    try:
        yield
    except Pause:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            with get_client(sync_client=True) as client:
                told = State(type=StateType.PAUSED, name="Paused", message="The run that called it was suspended.")
                client.set_flow_run_state(context.flow_run.id, told, force=True)
        raise


def stage_task(name: str, retries: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A Prefect task without caching or stored results: the artifact store is the only cache.

    Transient errors are retried with growing, jittered delays; nothing else is.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def body(*args: P.args, **kwargs: P.kwargs) -> R:
            interruption.check()
            began = time.time()
            event_log.tell("stage", "begun", stage=name)
            try:
                made = function(*args, **kwargs)
                with contextlib.suppress(Exception):  # a log that cannot be written is no failure of the stage
                    _tell_done(name, began, made)
                return made
            except BaseException as error:
                release_frames(error)
                redact_chain(error)
                if isinstance(error, Pause):
                    _end_suspended()
                else:
                    _note_stage(error, name)
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


def stage_of(error: BaseException) -> str:
    """The stage that an exception came out of; empty: of none."""
    return str(getattr(error, "stage_name", ""))


def _note_stage(error: BaseException, name: str) -> None:
    with contextlib.suppress(AttributeError):  # of a class that takes no attributes
        error.stage_name = stage_of(error) or name  # type: ignore[attr-defined]
    why = f"{type(error).__name__}: {error}"
    event_log.tell("stage", without_secrets(why), logging.ERROR, stage=name, state="failed")


def _tell_done(name: str, began: float, made: object) -> None:
    """The end of a stage, its artifacts and their new parts, in the structured log."""
    if not event_log.EVENTS.handlers:
        return
    artifacts = [one for one in (made if isinstance(made, list | tuple) else (made,)) if isinstance(one, Artifact)]
    event_log.tell("stage", "done", stage=name, state="done", seconds=round(time.time() - began, 2), artifacts=len(artifacts))
    for artifact in artifacts:
        manifest = artifact.manifest
        is_new = artifact.started_at >= began
        told: dict[str, Any] = {
            "artifact": f"{manifest.stage}/{manifest.key}",
            "reused": not is_new,
            "counts": manifest.counts.model_dump(),
        }
        event_log.tell("artifact", stage=name, parts=len(manifest.parts), **told)
        for part in manifest.parts[:MOST_PARTS] if is_new else ():
            rows = part.counts.model_dump()
            event_log.tell(
                "part", part.label, stage=name, part=part.key, bytes=sum(file.bytes for file in part.files), counts=rows
            )


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
        check_suspended()
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
            event_log.tell("progress", note, stage=self.name, percent=round(self._line.tasks[0].percentage, 1))
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


def show_link(key: str, page: Path, text: str, description: str) -> None:
    """A link to a report or a model card in Prefect's UI; nothing where no `cpt up` of this artifact root shows its pages."""
    home = artifact_home()
    try:
        address = (home / PAGES_FILE).read_text()
        place = page.absolute().relative_to(home.absolute())
    except (OSError, ValueError):
        return
    if place.parts[:3] == ("store", "card", "parts"):
        place = Path("cards", place.parts[3].rpartition("-")[0])
    create_link_artifact(f"{address}/{quote(place.as_posix())}", link_text=text, key=slug(key), description=description)
