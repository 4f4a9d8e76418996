"""The parts that a GPU is measured by, taken on a CPU in the smallest sizes: no path of theirs is new when there is a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import page
from benchmarks.gpu.__main__ import ALIASES, DONE, PARTS, main
from benchmarks.gpu.bench import Bench

QUICK = ["layout", "steps", "language-model", "precision", "training-peer"]
BY_THE_LAUNCHER = ["preset", "resume", "scaling"]


def run(part: str, out: Path, *words: str) -> tuple[int, dict]:
    code = main(["--part", part, "--tiny", "--device", "cpu", "--out", str(out), *words])
    path = out / f"{ALIASES.get(part, part)}.json"
    return code, json.loads(path.read_text()) if path.is_file() else {}


@pytest.mark.slow
@pytest.mark.parametrize("part", [*QUICK, *BY_THE_LAUNCHER, "encoding-peer", "tests"])
def test_each_part_runs_on_a_cpu(part: str, tmp_path: Path) -> None:
    code, found = run(part, tmp_path)
    assert (code, found["state"]) == (0, DONE), found.get("error")
    assert found["rows"] and not any("error" in row for row in found["rows"])
    if part == "resume":
        (row,) = found["rows"]
        assert row["killed_after_step"] and row["weights_equal"] and row["steps_equal_to_the_bit"] == row["steps"]
    if part == "tests":
        assert found["rows"][0]["skipped"], "without a GPU they say why they are skipped"


@pytest.mark.slow
def test_a_part_goes_on_with_the_rows_that_are_missing(tmp_path: Path) -> None:
    code, found = run("steps", tmp_path)
    assert code == 0 and found["rows"][0]["what"] == "8 pairs of 8/16 tokens"
    found["rows"] = [{"what": "8 pairs of 8/16 tokens", "seconds": 17.0}]
    (tmp_path / "steps.json").write_text(json.dumps({**found, "state": "out of time"}))
    code, again = run("steps", tmp_path)
    assert code == 0 and again["state"] == DONE
    assert again["rows"][0]["seconds"] == 17.0, "not measured again"
    assert len(again["rows"]) == 3
    before = (tmp_path / "steps.json").stat().st_mtime_ns
    assert run("steps", tmp_path)[0] == 0 and (tmp_path / "steps.json").stat().st_mtime_ns == before, "done is done"


def test_a_part_that_takes_too_long_or_finds_no_gpu_says_so_and_the_next_one_runs(tmp_path: Path) -> None:
    code, found = run("precision", tmp_path, "--seconds", "0.5")
    assert code == 1 and found["state"] == "out of time"
    code = main(["--part", "varlen", "--device", "cuda", "--tiny", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "layout.json").read_text())
    assert code == 1 and found["error"] == "torch finds no GPU here"


def test_what_does_not_fit_the_memory_is_a_row_that_says_so(tmp_path: Path) -> None:
    import torch

    def too_large() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GB\nmore lines")

    bench = Bench("steps", "cpu", True, tmp_path)
    bench.row("large", too_large)
    bench.row("small", lambda: {"seconds": 1.23456})
    rows = bench.read()["rows"]
    assert rows == [
        {"what": "large", "error": "out of memory: CUDA out of memory. Tried to allocate 9 GB"},
        {"what": "small", "seconds": 1.235},
    ]
    bench.row("small", too_large)
    assert bench.read()["rows"] == rows, "what is there is not measured again"
    assert Bench("steps", "cuda", True, tmp_path).read() == {}, "another device's figures are none of this one's"


def test_the_page_shows_what_there_is_and_what_would_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = {name: (part.answers, {}) for name, part in PARTS.items()}
    page.write(empty, tmp_path / "gpu.md")
    assert (tmp_path / "gpu.md").read_text() == page.PAGE.read_text() or "**Nothing of this" not in page.PAGE.read_text()
    rows = [{"what": "8 pairs", "seconds": 0.5, "mfu": None}, {"what": "9 pairs", "error": "out of memory: 9 GB"}]
    told = {
        "state": "failed",
        "rows": rows,
        "error": "Traceback\nValueError: a | b",
        "machine": {"name": "NVIDIA H100", "gpus": 1},
    }
    page.write({**empty, "steps": (PARTS["steps"].answers, told)}, tmp_path / "gpu.md")
    text = (tmp_path / "gpu.md").read_text()
    assert (
        "gpus 1, name NVIDIA H100." in text
        and "| 8 pairs | 0.5 | - |" in text
        and "| 9 pairs | - | out of memory: 9 GB |" in text
    )
    assert "mfu" not in text.split("## steps")[1].split("## ")[0], "a column that no row fills"
    assert "*failed: ValueError: a | b.*" in text
    assert main(["--list", "--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PARTS)


def test_an_unknown_part_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--part", "warp"])
    assert "choose all, or one of tests, layout" in capsys.readouterr().err
