"""Options of `cpt serve`: every field is one, and a variable of the environment; the terminal wins over both others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.cli.run_commands import settings
from pipeline_lib.errors import UserError
from pipeline_lib.serve.config import ServeConfig


def test_every_field_is_an_option_and_a_variable() -> None:
    command = typer.main.get_command(app).get_command(None, "serve")  # type: ignore[attr-defined, arg-type]
    found = {option.name: (option.opts, option.envvar, option.help) for option in command.params}
    for name, field in ServeConfig.model_fields.items():
        flags, variable, text = found[name]
        assert (
            flags == [f"--{name.replace('_', '-')}"] and variable == f"CPT_SERVE_{name.upper()}" and field.description in text
        )


def test_the_terminal_wins_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("max_k: 7\nport: 1234\nhosts: [a.example, b.example]\nrate_per_second: 2.5\n")
    config = settings({"port": 4321, "threads": 2}, str(file))
    assert (config.port, config.max_k, config.threads, config.hosts) == (4321, 7, 2, ("a.example", "b.example"))
    assert (config.rate, config.timeout_seconds) == (2.5, 10)


@pytest.mark.parametrize(
    "line", ["max_k: 0", "max_kk: 5", "port: 70000", "host: 5", "timeout_seconds: .nan", "rate_per_second: -1"]
)
def test_a_wrong_setting_is_told_by_its_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "serve.yaml").write_text(line)
    with pytest.raises(UserError, match=line.split(":", maxsplit=1)[0]):
        settings({}, str(tmp_path / "serve.yaml"))


def test_the_environment_gives_options_and_the_terminal_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    monkeypatch.setenv("CPT_SERVE_MAX_K", "0")
    assert "max_k" in str(CliRunner().invoke(app, ["serve", "--port", "0"]).exception)
    assert "no index yet" in str(CliRunner().invoke(app, ["serve", "--port", "0", "--max-k", "5"]).exception)


def test_what_is_described_can_be_written_down_and_read() -> None:
    assert ServeConfig.model_validate(json.loads(ServeConfig(hosts=("a",), threads=3).model_dump_json())) == ServeConfig(
        hosts=("a",), threads=3
    )
