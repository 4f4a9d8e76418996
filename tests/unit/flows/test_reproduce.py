"""`cpt reproduce`: every step of every table parses to parameters that there are, and what can run here runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import run_commands
from flows.cli.commands import app
from flows.cli.reproduce import lacking
from flows.cli.terminal import read_params
from flows.options import Params
from pipeline_lib.config.evaluation import parted_suites
from pipeline_lib.config.paper import ON_PAGE, read_paper, suites_of
from pipeline_lib.config.presets import preset_names
from pipeline_lib.evaluation.suites.registry import suite_names

STEPS = [
    (item.name, line.format_map(ON_PAGE)) for item in read_paper().items for lines in (item.full, item.small) for line in lines
]


class Parsed(Exception):
    """What a command would start with."""

    def __init__(self, params: Params) -> None:
        self.params = params


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> Params | None:
    """The parameters of a command that starts a flow; of another its options alone are read."""

    def stop(model: type[Params], given: Mapping[str, Any]) -> Params:
        raise Parsed(read_params(model, given))

    monkeypatch.setattr(run_commands, "params_of", stop)
    cpt, name, *words = shlex.split(line)
    assert cpt == "cpt"
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    assert command is not None, name
    context = command.make_context(name, words)
    if not hasattr(run_commands, name.replace("-", "_")):
        return None
    with pytest.raises(Parsed) as found:
        command.invoke(context)
    return found.value.params


@pytest.mark.parametrize(("name", "line"), STEPS)
def test_every_step_parses(name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    params = parsed(line, monkeypatch)
    if getattr(params, "preset", None) or params is None:
        asked = params.preset if params else line.split()[2]  # type: ignore[attr-defined]
        assert asked in preset_names() or line.startswith("cpt suite-texts"), name
    if getattr(params, "preset", None):
        params.resolve()  # type: ignore[union-attr]
    assert suite_names(parted_suites(suites_of(line))[1]) or not suites_of(line)


@pytest.mark.parametrize("line", sorted({line for _, line in STEPS if line.startswith("cpt plan cpt_")}))
def test_plans_of_the_papers_models_fit(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    planned = CliRunner().invoke(app, shlex.split(line)[1:])
    assert planned.exit_code == 0 and "GPU-hours" in planned.output, planned.output


def cpt(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "reproduce", *words]
    environment = {**os.environ, "CPT_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, check=False)


def test_steps_are_printed_and_run(tmp_path: Path) -> None:
    shown = cpt(tmp_path, "table-9", "--preset", "smoke", "--source", "src")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "12,288 | 84.7" in shown.stdout and "cpt ablate --preset smoke --source src --lever batch" in shown.stdout
    assert "\n  batch: 64 | 0.331 (-0.011) | " in shown.stdout.split("measured here:")[1], "figures of the page, without marks"
    assert "See ablations." in shown.stdout and "](" not in shown.stdout
    ran = cpt(tmp_path, "table-1", "--run")
    assert ran.returncode == 0 and ran.stderr.startswith("$ cpt plan demo --gpu here\n"), ran.stderr
    assert "memory of one process at its peak" in ran.stdout


def test_nothing_is_begun_where_data_is_missing(tmp_path: Path) -> None:
    """Table 3 trains before it tunes: what it is tuned on is looked for first."""
    ran = cpt(tmp_path, "table-3", "--run", "--suite-data", "mine")
    assert ran.returncode == 2 and "cpt run" not in ran.stderr
    assert "mine/snli_1.0/snli_1.0_dev.jsonl is not there; get it: SNLI (https://nlp.stanford.edu" in ran.stderr
    assert "sst2: mine/senteval/SST/binary/sentiment-" in ran.stderr


def test_a_step_with_one_of_its_suites_is_not_lacking(tmp_path: Path) -> None:
    folder = tmp_path / "senteval" / "TREC"
    folder.mkdir(parents=True)
    for name in ("train_5500.label", "TREC_10.label"):
        (folder / name).write_text("NUM:count How many ?\n")
    step = f"cpt evaluate --suite senteval --suite-data {tmp_path} --split test"
    assert lacking(step) == []
    assert len(lacking(step.replace("senteval", "similarity"))) == len(suite_names(["similarity"]))


def test_a_step_that_fails_ends_it(tmp_path: Path) -> None:
    ran = cpt(tmp_path, "figure-1", "--run", "--preset", "smoke", "--source", str(tmp_path / "none"))
    assert ran.returncode == 2
    assert "width=128" in ran.stderr and "width=256" not in ran.stderr
    assert "ended with 2; mend what it says and run the same again" in ran.stderr
