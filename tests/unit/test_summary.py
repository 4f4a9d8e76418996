"""What a terminal shows of an evaluation."""

from __future__ import annotations

import io

from rich.console import Console

from flows.summary import evaluations_table

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
