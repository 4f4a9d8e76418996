"""`cpt status` tells from files alone, in stable JSON and on a page, and says what it could not read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import s3fs

from flows.cli.status_page import duration, print_status, size
from flows.orchestrator import status as page
from flows.orchestrator.api import seconds_left
from flows.orchestrator.status import disk, read_status
from pipeline_lib.runtime.outcomes import outcome_of
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[3]
KEYS = ["schema", "at", "home", "server", "running", "champions", "next", "last_failure", "names", "disk", "prune", "problems"]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def fail(home: Path, name: str, at: str) -> None:
    failure = {"run": "a-night", "run_id": name, "at": at, "stage": "extract", "reason": "the disk is full", "next": "cpt run"}
    with outcome_of(home, "retrain", name) as held:
        held[0] = held[0].ended("a-night", name, "failed", failure)


def test_without_a_server_it_tells_what_files_say_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fail(tmp_path, "docs", "2026-11-30T02:00:00+00:00")
    fail(tmp_path, "code", "2026-11-29T02:00:00+00:00")
    (tmp_path / "store" / "extract").mkdir(parents=True)
    (tmp_path / "store" / "extract" / "x").write_bytes(b"x" * 1234)
    found = read_status(tmp_path)
    assert list(found) == KEYS
    assert (found["server"], found["running"], found["next"], found["problems"]) == (None, [], [], [])
    assert found["last_failure"] == {
        "flow": "retrain", "name": "docs", "run": "a-night", "run_id": "docs", "at": "2026-11-30T02:00:00+00:00",
        "stage": "extract", "reason": "the disk is full", "next": "cpt run", "failing": True,
    }  # fmt: skip
    assert found["disk"]["rooms"]["store/extract"] == 1234 and found["disk"]["counted_all"]
    print_status(found)
    said = capsys.readouterr().out
    for word in (
        "no server is running",
        "retrain docs in extract",
        "the disk is full",
        "next: cpt run",
        "store/extract 1.2 kB",
    ):
        assert word in said


def test_a_failure_that_is_mended_and_a_run_that_died_are_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(tmp_path, "docs", "2026-11-30T02:00:00+00:00")
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].ended("next", "2", "completed")
    print_status(read_status(tmp_path))
    assert "works again since then" in capsys.readouterr().out
    code = (
        "import sys; from pathlib import Path; from pipeline_lib.runtime.outcomes import outcome_of\n"
        "with outcome_of(Path(sys.argv[1]), 'train', 'big') as held: held[0] = held[0].begun('killed', '3')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=PROJECT)
    found = read_status(tmp_path)
    assert found["last_failure"]["name"] == "big" and "is gone" in found["last_failure"]["reason"]
    assert {row["name"]: row["state"] for row in found["names"]} == {"docs": "completed", "big": "died"}


def test_a_home_that_is_not_there_is_empty_and_nothing_is_made(tmp_path: Path) -> None:
    found = read_status(tmp_path / "none")
    assert (found["champions"], found["last_failure"], found["prune"], found["disk"]["rooms"]) == ([], None, None, {})
    assert found["disk"]["free"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_broken_name_hides_no_other_and_a_bucket_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "registry" / "docs").mkdir(parents=True)
    (tmp_path / "registry" / "docs" / "champion.json").write_text("{")
    found = read_status(tmp_path, "s3://bucket/prefix")
    assert found["champions"] == [] and "docs" in found["problems"][0]
    assert (found["disk"]["bucket"], found["prune"]) == ("s3://bucket/prefix", None)
    (tmp_path / "current.json").write_text("[]")
    found = read_status(tmp_path)
    assert found["champions"] == [] and "current.json" in found["problems"][0]


def test_a_bucket_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry" / "docs").mkdir(parents=True)
    (tmp_path / "registry" / "docs" / "at.json").write_text('{"artifacts": "s3://bucket/run"}')
    monkeypatch.setattr(page, "BUCKET_SECONDS", 2.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody-s")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # who connects is never answered
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()  # of other endpoints; nor shall the next test know this one
        found = read_status(tmp_path)
        s3fs.S3FileSystem.clear_instance_cache()
    assert found["champions"] == [] and "does not answer" in found["problems"][0]


def test_leftovers_are_what_prune_removes(tmp_path: Path) -> None:
    scratch = Store(tmp_path / "store").scratch("extract")
    (scratch / "half").write_bytes(b"x" * 100)
    gone = scratch.with_name(scratch.name.replace(f".{os.getpid()}.", ".999999."))
    scratch.rename(gone)
    for place in (gone / "half", gone):
        os.utime(place, (0, 0))
    assert read_status(tmp_path)["prune"] == {"bytes": 100, "files": 1, "command": "cpt prune --yes"}


def test_a_store_of_many_files_is_counted_for_so_long_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / "store" / "extract" / f"{number}").mkdir(parents=True)
    clock = iter(range(10_000))
    monkeypatch.setattr(page.time, "monotonic", lambda: next(clock))
    assert disk(tmp_path, seconds=20.0)["counted_all"] is False
    assert disk(tmp_path, seconds=1000.0)["counted_all"] is True


def test_two_names_of_one_file_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "store" / "card").mkdir(parents=True)
    (tmp_path / "store" / "card" / "a").write_bytes(b"x" * 500)
    os.link(tmp_path / "store" / "card" / "a", tmp_path / "store" / "card" / "b")
    assert disk(tmp_path)["rooms"] == {"store/card": 500}


def test_the_command_answers_in_json_alone_and_soon(tmp_path: Path) -> None:
    env: dict[str, Any] = {**os.environ, "CPT_HOME": str(tmp_path)}
    began = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--json"],
        env=env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - began < 10, "0.7 s on a machine that has nothing else to do"
    assert list(json.loads(answer.stdout)) == KEYS and answer.stderr == ""


def test_what_is_left_follows_from_the_pace() -> None:
    now = datetime(2026, 11, 30, 3, tzinfo=UTC)
    assert seconds_left({"percent": 75.0, "stage_since": "2026-11-30T02:00:00+00:00"}, now) == 1200
    assert seconds_left({"percent": 0.0, "stage_since": "2026-11-30T02:00:00+00:00"}, now) is None
    assert seconds_left({}, now) is None


def test_times_and_sizes_are_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (5, 65, 3700, 7200, 200_000)] == ["5 s", "1 min", "1 h 1 min", "2 h", "2 d 7 h"]
    assert [size(n) for n in (5, 1234, 12_345_678, 123_456_789_012)] == ["5 B", "1.2 kB", "12.3 MB", "123 GB"]
