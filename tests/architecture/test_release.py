"""A release: its version stands in one place, the changelog ends in it, and continuous integration covers what it promises."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from importlib.metadata import PackageNotFoundError, requires
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from flows.cli.commands import app

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION: str = PROJECT["project"]["version"]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
PYTHONS: list[str] = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))


def headings(changelog: str) -> list[tuple[str, str]]:
    """Version and date of each heading, the newest first."""
    return re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", changelog, re.M)


def faults(changelog: str, version: str) -> list[str]:
    """What is wrong with a changelog of that newest release."""
    found = headings(changelog)
    lines = re.findall(r"^## .*$", changelog, re.M)
    if len(lines) != len(found) or found[:1] != [("Unreleased", "")]:
        return ["the first heading is [Unreleased], the others are a version and a date"]
    releases = [(tuple(map(int, one.split("."))), date.fromisoformat(day)) for one, day in found[1:]]
    wrong = [] if found[1][0] == version else [f"the newest release is {found[1][0]}, pyproject.toml says {version}"]
    wrong += ["a version below a newer one is newer" for newer, older in pairwise(releases) if older[0] >= newer[0]]
    wrong += ["a date below a later one is later" for newer, older in pairwise(releases) if older[1] > newer[1]]
    notes = changelog.split(f"## [{found[1][0]}]", 1)[1].split("\n## ", 1)[0]
    return wrong + ([] if len(notes.split()) > 20 else ["the release has no notes"])


def test_the_changelog_ends_in_the_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert faults((ROOT / "CHANGELOG.md").read_text(), VERSION) == []


@pytest.mark.parametrize(
    ("changelog", "fault"),
    [
        ("## [0.2.0] - 2026-11-30\n" + "word " * 30, "first heading"),
        ("## [Unreleased]\n## [0.2.0]: today\n" + "word " * 30, "first heading"),
        ("## [Unreleased]\n## [0.1.9] - 2026-11-30\n" + "word " * 30, "the newest release is 0.1.9"),
        ("## [Unreleased]\n## [0.2.0] - 2026-11-30\n" + "word " * 30 + "\n## [0.3.0] - 2026-01-01\n", "is newer"),
        ("## [Unreleased]\n## [0.2.0] - 2026-11-30\n" + "word " * 30 + "\n## [0.1.0] - 2026-12-01\n", "is later"),
        ("## [Unreleased]\n## [0.2.0] - 2026-11-30\n## [0.1.0] - 2026-01-01\n" + "word " * 30, "no notes"),
    ],
)
def test_a_wrong_changelog_is_found(changelog: str, fault: str) -> None:
    (found,) = faults(changelog, "0.2.0")
    assert fault in found


def test_the_version_stands_in_one_place_and_names_no_artifact() -> None:
    """Everything else asks the installed package: a second place would be forgotten, and a key would move with each release."""
    code = [path for folder in ("flows", "tasks", "pipeline_lib", "data_contracts") for path in (ROOT / folder).rglob("*.py")]
    asking = {path.relative_to(ROOT).as_posix() for path in code if re.search(r"version\(\W?cpt-factory", path.read_text())}
    assert asking == {"flows/cli/commands.py"}, "what a terminal says, and nothing that makes an artifact"
    assert [path for path in code if re.search(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])", path.read_text())] == []


def test_the_terminal_says_which_release_it_is() -> None:
    answer = CliRunner().invoke(app, ["--version"])
    assert answer.exit_code == 0 and re.fullmatch(r"cpt-factory \d+\.\d+\.\d+\n", answer.output)


def test_each_python_that_is_promised_is_tested() -> None:
    assert sorted(PYTHONS, key=lambda one: int(one[2:])) == PYTHONS and len(PYTHONS) >= 3
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    assert PROJECT["tool"]["mypy"]["python_version"] == PYTHONS[0]
    for job in ("test", "wheel"):
        assert WORKFLOW["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS


def test_continuous_integration_runs_what_a_developer_runs_and_may_only_read() -> None:
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in jobs.values())
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert {"make lint", "make test JOBS=4", "make wheel"} <= {step.get("run") for step in steps}
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", one) for one in used)
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(jobs) and all(step["with"] == {"persist-credentials": False} for step in checkouts)
    assert all(job["timeout-minutes"] and re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]) for job in jobs.values())
    cached = [step["with"] for step in steps if step.get("uses", "").startswith("actions/setup-python@")]
    assert len(cached) == len(jobs) and all(given["cache"] == "pip" for given in cached)


def test_what_a_package_needs_on_one_python_alone_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    missing = set()
    for name in pinned:
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:  # of another Python than this one
            continue
        for version in PYTHONS:
            machine = default_environment() | {"python_version": version, "python_full_version": f"{version}.99", "extra": ""}
            found = {canonicalize_name(one.name) for one in needed if one.marker is not None and one.marker.evaluate(machine)}
            missing |= {(one, version) for one in found - pinned - {"torch"}}
    assert missing == set()
