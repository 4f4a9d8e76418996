"""What launcher and trainer tell each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.config.training import EarlyStoppingConfig
from pipeline_lib.store.files import exclusive
from pipeline_lib.train.job import Events, checkpoint_label, checkpoint_steps, early_stop, parse_event


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 40))
def test_checkpoints_are_spaced_evenly_and_end_with_the_last_step(steps: int, checkpoints: int) -> None:
    due = checkpoint_steps(steps, checkpoints)
    assert due[-1] == steps
    assert due[0] >= 1
    assert len(due) == min(steps, checkpoints)
    gaps = [later - earlier for earlier, later in zip([0, *due], due, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_checkpoints_of_a_lengthened_run_lie_behind_the_other_ones_steps() -> None:
    assert checkpoint_steps(16, 2, before=8) == [12, 16]
    assert checkpoint_steps(9, 4, before=8) == [9]


LOSSES = (3.0, 2.0, 2.5, 1.99, 1.9, 2.4, 2.2)


@pytest.mark.parametrize(
    ("rule", "step", "best"),
    [
        ({"patience": None}, 0, 0),
        ({"patience": 1}, 30, 20),
        ({"patience": 2}, 70, 50),
        ({"patience": 2, "min_delta": 0.05}, 40, 20),
        ({"patience": 3}, 0, 0),
        ({"patience": 1, "metric": "mrr"}, 20, 10),
    ],
)
def test_early_stopping_is_arithmetic_on_the_figures(rule: dict[str, Any], step: int, best: int) -> None:
    figures = [(10 * number, {"loss": loss, "mrr": loss / 10}) for number, loss in enumerate(LOSSES, start=1)]
    found = early_stop(EarlyStoppingConfig(**rule), figures)
    assert (found.step, found.best_step) == (step, best) if step else found is None
    for known in range(1, len(figures)):  # a restart that knows the first figures alone decides as the run did
        early = early_stop(EarlyStoppingConfig(**rule), figures[:known])
        assert early == (found if found and found.step <= 10 * known else None)


def test_labels_sort_as_steps_do() -> None:
    assert checkpoint_label(100) == "step-000100"
    labels = [checkpoint_label(step) for step in (9, 80, 700, 123_456)]
    assert labels == sorted(labels)


def test_an_event_is_read_back_and_torn_lines_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(enabled=True)
    events.send("progress", done=3, total=9, note="x")
    events.log("a line")
    event_line, text_line = capsys.readouterr().out.splitlines()
    assert parse_event(event_line) == {"event": "progress", "done": 3, "total": 9, "note": "x"}
    assert parse_event(text_line) is None
    assert parse_event(event_line[:12]) is None
    assert parse_event("@@3") is None


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Events(enabled=False).send("progress", done=1)
    assert capsys.readouterr().out == ""


def test_a_broken_pipe_does_not_stop_the_trainer() -> None:
    read, write = os.pipe()
    os.close(read)
    script = (
        "from pipeline_lib.train.job import Events\nevents = Events(True)\n"
        "for _ in range(3):\n    events.send('progress', done=1)\n"
        "import os, sys; os.dup2(os.open(os.devnull, os.O_WRONLY), 1); sys.exit(7)"
    )
    child = subprocess.run([sys.executable, "-c", script], stdout=write, check=False, timeout=60)
    os.close(write)
    assert child.returncode == 7


def test_a_second_holder_is_told_that_it_waits(tmp_path: Path) -> None:
    waited = []
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom pipeline_lib.store.files import exclusive\n"
            "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(1)",
            str(tmp_path / "lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with exclusive(tmp_path / "lock", lambda: waited.append(True)):
        assert waited == [True]
    holder.communicate(timeout=10)
    assert holder.returncode == 0
