"""A user's file of nights: what it becomes, and each mistake in one line; the documentation's example among them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.deploy import entries_of
from flows.cli.nightly_file import Nightly, Schedule, read_nights
from flows.params import RunParams
from pipeline_lib.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "schedule.md"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))


def written(folder: Path, content: Any, name: str = "nights.yaml") -> Path:
    (folder / "corpus").mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "corpus", "preset": "smoke", "source": "corpus", **changes}


def test_an_entry_becomes_a_deployment_with_checked_parameters(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        entry(
            schedule={"cron": "15 3 * * 1-5", "timezone": "Europe/Berlin", "active": False},
            policy="restart",
            min_new_share=0.1,
            promote="ask",
            settings={"train": {"steps": 60, "mixture": {"docstring": 1.0}}},
        ),
    )
    (found,) = entries_of([path])
    params = RunParams.model_validate(found["parameters"]["params"])
    assert (params.preset, params.name, params.source) == ("smoke", "corpus", str(tmp_path / "corpus"))
    config = params.resolve()
    assert (config.nightly.policy, config.nightly.min_new_share, config.promote.when) == ("restart", 0.1, "ask")
    assert config.train.steps == 60 and config.train.mixture == {"docstring": 1.0}
    (schedule,) = found["schedules"]
    assert (schedule["cron"], schedule["timezone"], schedule["active"]) == ("15 3 * * 1-5", "Europe/Berlin", False)
    assert found["entrypoint"] == "flows/retrain.py:retrain" and found["concurrency_limit"]["limit"] == 1
    assert found["enforce_parameter_schema"] and found["work_pool"]


def test_several_names_in_one_file_and_in_several(tmp_path: Path) -> None:
    one = written(tmp_path, [entry(), entry(name="other", schedule={"interval": 3600})])
    two = written(tmp_path, entry(name="third"), "more.yaml")
    assert [found["name"] for found in entries_of([one, two])] == ["corpus", "other", "third"]
    with pytest.raises(UserError, match=r"more\.yaml: entry corpus: another file has an entry of that name"):
        entries_of([one, written(tmp_path, entry(), "more.yaml")])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (entry(policyy="continue"), "unknown key policyy; did you mean policy?"),
        (entry(zzz=1), "unknown key zzz; there are name, preset, source"),
        (entry(schedule={"cron": "0 2 * * *", "time_zone": "UTC"}), "unknown key schedule.time_zone; did you mean timezone"),
        (entry(schedule={"cron": "99 2 * * *"}), "schedule"),
        (entry(schedule={"cron": "every night"}), "schedule"),
        (entry(schedule={"cron": "0 2 * * *", "timezone": "Europa/Berlin"}), "Europa/Berlin"),
        (entry(schedule={"cron": "0 2 * * *", "interval": 60}), "give `cron` or `interval`"),
        (entry(schedule={}), "give `cron` or `interval`"),
        (entry(schedule={"interval": 0}), "schedule.interval"),
        ("name: a\npreset: smoke\nschedule: {interval: .inf}", "schedule.interval"),
        (entry(schedule={"interval": 1e12}), "schedule.interval"),
        (entry(schedule={"cron": "0 0 2 * * *"}), "expected five fields (minute, hour, day, month, weekday), got 6"),
        (entry(schedule={"cron": "0 2 30 2 *"}), "schedule: failed to find next date"),
        (entry(schedule={"cron": "0 2 * * *", "timezone": ""}), "schedule.timezone"),
        (entry(name="a" * 129), "name: String should match pattern"),
        (entry(source=""), "source: String should have at least 1 character"),
        (entry(settings={"name": "other"}), "settings: name has a key of its own; give `name`"),
        (entry(settings={"source": {"folder": "/tmp"}}), "settings: source.folder has a key of its own; give `source`"),
        ("name: a\npreset: smoke\nsettings: {train: {steps: !!timestamp 2026-01-01}}", "line 3: could not determine"),
        ("name: a\npreset: smoke\nsettings: {train: {steps: !!binary aGVsbG8=}}", "line 3: could not determine"),
        ("name: a\npreset: smoke\nsettings: {train: {steps: !!set {a}}}", "line 3: could not determine"),
        ("name: a\npreset: smoke\nsettings: !!python/object/apply:os.system [id]", "line 3: could not determine"),
        (entry(policy="sometimes"), "policy: Input should be 'continue', 'restart', 'whole' or 'index', got 'sometimes'"),
        (entry(promote="maybe"), "promote"),
        (entry(min_new_share=2), "min_new_share"),
        (entry(preset="smok"), "preset 'smok' is unknown"),
        (entry(source="nowhere"), "nowhere: there is no such folder"),
        (entry(source="nowhere.yaml"), "nowhere.yaml"),
        (entry(config="no.yaml"), "no.yaml"),
        (entry(settings={"train": {"step": 9}}), "did you mean train.steps"),
        (entry(settings={"train": {"steps": -9}}), "train.steps: got -9"),
        (entry(name="Corpus!"), "name"),
        (entry(name="demo"), "prefect.yaml has a deployment of that name"),
        ({"preset": "smoke"}, "give name"),
        ([entry(), entry()], "corpus comes 2 times"),
        ([entry(), entry(name="other", policyy=1)], "entry other: unknown key policyy"),
        ("just words", "expected `name`, `preset`"),
        ("[]", "expected `name`, `preset`"),
        ("{name: a, name: b}", "name comes twice"),
        ("{name: [", "line 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, content: Any, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        entries_of([path])
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_documented_example_is_what_is_read_and_every_key_is_documented(tmp_path: Path) -> None:
    page = PAGE.read_text()
    (example,) = re.findall(r"```yaml\n(- name: handbook.*?)```", page, re.DOTALL)
    (tmp_path / "handbook").mkdir()
    path = written(tmp_path, example)
    handbook, forum = entries_of([path])
    assert handbook["parameters"]["params"]["set"] == ["nightly.policy=continue", "nightly.min_new_share=0.05"]
    assert (
        forum["schedules"][0]["interval"] == 21600 and RunParams(**forum["parameters"]["params"]).resolve().train.steps == 600
    )
    assert {key for key in Nightly.model_fields if f"| `{key}` |" not in page} == set()
    assert all(field.description for model in (Nightly, Schedule) for field in model.model_fields.values())
    assert [night.name for night in read_nights(path)] == ["handbook", "forum"]
