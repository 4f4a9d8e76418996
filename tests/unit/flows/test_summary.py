"""What a terminal shows of an evaluation."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from flows.cli.summary import closing_lines, costs_sentence, evaluations_table

ROW = {"model": "step-000240", "value": 0.29, "low": -1.2, "high": 0.4, "n": 16}


def printed(width: int) -> list[str]:
    rows = [
        ROW | {"task": f"bias-association:{name}", "metric": metric}
        for name in ("gender-career", "gender-science")
        for metric in ("effect_size", "p_value")
    ]
    stream = io.StringIO()
    Console(file=stream, width=width).print(evaluations_table(rows, "on test"))
    return stream.getvalue().splitlines()


def test_a_narrow_terminal_tells_every_task_apart() -> None:
    cells = ["".join(column) for column in zip(*(line.split("│")[1:-1] for line in printed(80) if "│" in line), strict=True)]
    assert "…" not in "".join(cells)
    task = "".join(cells[1].split())
    assert task.count("gender-career") == task.count("gender-science") == 2


def test_a_p_value_has_no_interval() -> None:
    lines = printed(160)
    assert sum("[-1.200, 0.400]" in line for line in lines) == 2
    assert not any("[" in line for line in lines if "p_value" in line)


def test_costs_are_those_of_the_run_that_is_told_of() -> None:
    report = {"seconds": {"total": 540.0}, "cpu_seconds": 620.0, "peak_memory_bytes": 2 * 1024**3, "attempts": 1}
    report["lineage"] = {"extract": {"reused": False}, "train": {"reused": False}}
    plain = "9.0 minutes, 620 CPU-seconds, 2.0 GB at most over the process tree"
    assert costs_sentence(report) == plain
    assert costs_sentence(report | {"attempts": 3}) == f"{plain}, over 3 attempts"
    reused = report | {"lineage": {"extract": {"reused": True}, "train": {"reused": False}}}
    assert costs_sentence(reused) == f"{plain}; 1 of 2 stages were found done and are not in this"
    again = costs_sentence(report | {"now": {"seconds": 20.4}})
    assert again == f"All was found done, in 20 seconds. The run that made it took {plain}"


def test_a_run_ends_with_the_key_it_made() -> None:
    key = "0123456789abcdef01234567"
    report = {"lineage": {"train": {"key": key}}, "selection": {"chosen": "step-000240"}}
    lines = closing_lines(report, Path("home") / "report.html")
    assert lines[0].endswith("home/report.html") and lines[-1].split() == ["Checkpoint:", f"{key}/step-000240"]
    assert any(f"--checkpoint {key[:8]}/step-000240" in line for line in lines)
