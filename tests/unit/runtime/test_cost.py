"""What a run costs, summed over its interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.runtime.cost import Meter, tree_pss_bytes


def test_attempts_add_up_and_a_finished_run_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"attempts": [{"seconds": 100.0, "cpu_seconds": 50.0, "peak_memory_bytes": 2**40}]}))
    with Meter(path) as meter:
        total = meter.close()
    assert total["attempts"] == 2
    assert 100.0 <= total["seconds"] < 110.0
    assert total["cpu_seconds"] >= 50.0
    assert total["peak_memory_bytes"] == 2**40
    with Meter(path) as meter:
        assert meter.total()["attempts"] == 1


def test_attempts_at_other_work_under_the_same_name_cost_this_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for of, attempts in (("steps 20", 1), ("steps 20", 2), ("steps 40", 1), ("steps 20", 1)):
        with Meter(path, of=of) as meter:
            began_at = meter.began_at
        record = json.loads(path.read_text())
        assert len(record["attempts"]) == attempts and record["of"] == of
        assert record["began_at"] == began_at
        if attempts == 2:
            assert began_at < meter._started, "the run began with its first attempt"


def test_a_run_of_a_moment_has_a_peak_too(tmp_path: Path) -> None:
    with Meter(tmp_path / "run.json") as meter:
        pass
    assert meter.total()["peak_memory_bytes"] > 10e6


def test_the_memory_of_children_counts() -> None:
    alone = tree_pss_bytes(psutil.Process())
    program = "x = bytearray(100_000_000); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        grown = tree_pss_bytes(psutil.Process()) - alone
        child.kill()
    assert 90e6 < grown < 200e6


def test_what_a_run_fails_of_is_not_its_cost_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way, as a full disk is")
    with pytest.raises(UserError, match="the disk is full"), Meter(tmp_path / "runs" / "docs.json"):
        raise UserError("the disk is full")
    with Meter(tmp_path / "runs" / "docs.json") as meter:
        assert meter.close()["attempts"] == 1
