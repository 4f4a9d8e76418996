"""The structured log is one JSON object a line, bounded, and a run goes on without it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline_lib.runtime import event_log
from pipeline_lib.runtime.event_log import RotatedOutput, open_log, remove_oldest


def test_lines_have_run_stage_and_part_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = open_log(tmp_path, "0123456789", {"name": "docs"})
    assert handler is not None
    monkeypatch.setattr(event_log.EVENTS, "handlers", [handler])
    monkeypatch.setattr(event_log.EVENTS, "level", logging.INFO)
    event_log.tell("part", "kept", stage="extract", part="a1", counts={"n_out": 3})
    event_log.tell("stage", "got https://u:s3cr3t@h/x?key=s3cr3t\nsecond line", stage="extract")
    handler.close()
    (path,) = (tmp_path / "logs").iterdir()
    first, second = map(json.loads, path.read_text().splitlines())
    assert {key: first[key] for key in ("run", "name", "event", "stage", "part", "level")} == {
        "run": "0123456789", "name": "docs", "event": "part", "stage": "extract", "part": "a1", "level": "info",
    }  # fmt: skip
    assert first["counts"] == {"n_out": 3}
    assert "s3cr3t" not in str(second) and "second line" in second["message"]


def test_a_run_s_file_and_all_of_them_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FILE_BYTES", 10_000)
    handler = open_log(tmp_path, "0123456789", {})
    assert handler is not None
    for number in range(1000):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}", "levelno": logging.INFO}))
    handler.close()
    files = sorted((tmp_path / "logs").iterdir())
    assert len(files) == 2 and all(file.stat().st_size <= 10_000 for file in files)
    assert "line 999" in files[0].read_text().splitlines()[-1]
    for day in range(10, 20):
        (tmp_path / "logs" / f"202001{day}T000000-x.jsonl").write_text("x" * 1000)
    remove_oldest(tmp_path / "logs", most_bytes=23_500, most_files=100)
    kept = sorted(file.name for file in (tmp_path / "logs").iterdir())
    assert "20200110T000000-x.jsonl" not in kept and "20200119T000000-x.jsonl" in kept
    assert sum(file.stat().st_size for file in (tmp_path / "logs").iterdir()) <= 23_500
    assert remove_oldest(tmp_path / "logs", most_files=2) > 0
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_it_can_be_switched_off_and_a_folder_of_others_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").write_text("a file")
    assert open_log(tmp_path, "x", {}) is None
    monkeypatch.setenv(event_log.SWITCH, "off")
    assert open_log(tmp_path / "other", "x", {}) is None
    event_log.tell("part", "nobody listens")


def test_a_child_s_output_is_moved_once_it_is_large_and_the_child_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    with path.open("ab") as child:
        child.write(b"a" * 100)
        child.flush()
        assert not RotatedOutput(path, 100).rotate()
        child.write(b"b" * 50)
        child.flush()
        assert RotatedOutput(path, 100).rotate()
        child.write(b"c")
        child.flush()
    assert path.read_bytes() == b"c"
    assert path.with_name("worker.log.1").read_bytes() == b"a" * 50 + b"b" * 50
