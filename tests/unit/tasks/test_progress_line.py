"""A stage's progress: one line on a terminal, a line now and then in a file, and one clock of what is left."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import PROJECT, Terminal

STAGE = """
import time
from prefect.logging import disable_run_logger
from tasks import ui

ui.SHOW_AFTER_SECONDS = ui.REDRAW_SECONDS = ui.LINE_SECONDS = 0.0

@ui.stage_task("extract")
def stage(fails):
    progress = ui.StageProgress("extract")
    for done in (60, 61, 62):  # goes on where an earlier attempt stopped
        time.sleep(0.1)
        progress(done, 100, f"{done} [pairs] a second")
    progress.tell("warning: look here")
    progress(75, 100, "75 of them")
    if fails:
        raise ValueError("ended")
    progress.finish("100 pairs")

with disable_run_logger():
    try:
        stage.fn(FAILS)
    except ValueError as error:
        ui.say(str(error))
"""


@pytest.mark.parametrize(("fails", "last"), [("", r"  extract +100 pairs  \[0:00\]"), ("yes", "ended")])
def test_a_terminal_keeps_one_line_a_stage(tmp_path: Path, fails: str, last: str) -> None:
    terminal = Terminal(["-c", STAGE.replace("FAILS", repr(fails))], tmp_path)
    assert terminal.end(60) == 0, terminal.text
    assert len(terminal.screen) == 2, terminal.screen
    assert re.fullmatch(r"  extract +warning: look here", terminal.screen[0])
    assert re.fullmatch(last, terminal.screen[1])
    drawn = [line.rstrip() for line in terminal.lines if " left" in line]
    assert any(re.search(r"^  extract .* 62 %.*62 \[pairs\] a second.*0:0[3-9] left$", line) for line in drawn), drawn
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h") > 0, "the cursor is back"


def test_a_file_gets_plain_lines() -> None:
    script = STAGE.replace("FAILS", "''")
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, stderr=subprocess.PIPE, text=True, check=True)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"  extract             62 %  62 \[pairs\] a second  0:0[3-9] left", lines[2]), lines
    assert len(lines) == 6
