"""Records of outcomes: the last failure stays known, a success ends it, and a killed process is seen."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline_lib.runtime.outcomes import ENDS_KEPT, outcome_of, read_outcomes

FAILURE = {"at": "2026-11-30T02:00:00+00:00", "reason": "full", "next": "cpt run"}


def test_a_success_ends_a_failure_which_stays_known(tmp_path: Path) -> None:
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].begun("night-1", "1")
    assert read_outcomes(tmp_path)[0].state == "running" and not read_outcomes(tmp_path)[0].is_dead
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].ended("night-1", "1", "failed", FAILURE)
    (found,) = read_outcomes(tmp_path)
    assert (found.failing, found.state, found.success_at) == (True, "failed", 0.0)
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].begun("night-2", "2").ended("night-2", "2", "completed")
    (found,) = read_outcomes(tmp_path)
    assert (found.failing, found.failure, found.has_ended("1"), found.has_ended("2")) == (False, FAILURE, True, True)


def test_a_killed_process_is_seen_and_one_that_has_its_number_now_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline_lib.runtime.outcomes import outcome_of\n"
        "with outcome_of(Path(sys.argv[1]), 'retrain', 'docs') as held: held[0] = held[0].begun('night', '1')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
    (found,) = read_outcomes(tmp_path)
    assert found.is_dead
    with outcome_of(tmp_path, "retrain", "other") as held:
        held[0] = held[0].begun("night", "2")
    alive = next(one for one in read_outcomes(tmp_path) if one.name == "other")
    assert not alive.is_dead
    assert replace(alive, process={**alive.process, "created": 1.0}).is_dead
    assert not alive.is_dead
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + 3600)  # as after a step of the clock
    monkeypatch.setattr("psutil.boot_time", lambda: before + 3600)
    assert not alive.is_dead, "the clock was set, and nothing ended"
    assert not replace(alive, process={**alive.process, "host": "elsewhere", "pid": 2**22}).is_dead, "nobody here knows"


def test_a_suspended_run_needs_no_process_and_goes_on(tmp_path: Path) -> None:
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = replace(held[0].begun("night", "1"), process={"pid": 1, "created": 0.0, "host": "elsewhere"}).suspended()
    (found,) = read_outcomes(tmp_path)
    assert (found.state, found.process, found.is_dead, found.failing) == ("suspended", {}, False, False)
    assert found.begun("night", "1").ended("night", "1", "completed").success_at > 0


def test_writers_at_once_lose_nothing_and_names_stay_within_the_folder(tmp_path: Path) -> None:
    def end(number: int) -> None:
        with outcome_of(tmp_path, "retrain", "../../docs") as held:
            held[0] = held[0].ended("run", str(number), "failed", FAILURE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(ENDS_KEPT)))
    (found,) = read_outcomes(tmp_path)
    assert {end.split()[0] for end in found.ends} == {str(number) for number in range(ENDS_KEPT)}
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes"]
    (tmp_path / "outcomes" / "cut--short.json").write_text("{")
    assert len(read_outcomes(tmp_path)) == 1
