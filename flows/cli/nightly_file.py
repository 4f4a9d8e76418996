"""A user's file of nights for `cpt deploy --config`: what is trained again, when and under which name; checked as a whole."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.options import PromoteWhen
from flows.params import RunParams
from flows.settings import absolute_place, flat, words_of
from pipeline_lib.config.overrides import read_yaml
from pipeline_lib.config.run import NAME_PATTERN, RunConfig
from pipeline_lib.errors import UserError

MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 1.0, 366 * 86_400.0
CRON_FIELDS = 5  # a sixth would be seconds, which come last: who means them to come first gets a run each second
OWN_SETTINGS = {"name": "name", "source.folder": "source", "source.dump": "source"}  # which have keys of their own
PLACES = ("source", "config")  # relative ones count from the file


class Schedule(BaseModel):
    """When a night begins: a cron line or an interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str | None = Field(None, description="Cron line of five fields, as `0 2 * * *`, or @daily and the like.")
    interval: float | None = Field(
        None,
        description="Time from one night's start to the next one's (seconds).",
        ge=MIN_INTERVAL_SECONDS,
        le=MAX_INTERVAL_SECONDS,
    )
    timezone: str = Field("UTC", description="Time zone of the cron line, as Europe/Berlin.", min_length=1)
    active: bool = Field(True, description="Switched on; else it is deployed paused.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("give `cron` or `interval`")
        from prefect._vendor.croniter import croniter
        from prefect.client.schemas.schedules import construct_schedule

        construct_schedule(**self.words())  # which raises ValueError where it is none
        if self.cron is not None:
            if not self.cron.startswith("@") and (n := len(self.cron.split())) != CRON_FIELDS:
                raise ValueError(f"cron: expected five fields (minute, hour, day, month, weekday), got {n} in {self.cron!r}")
            croniter(self.cron).get_next()  # ValueError: no such day ever comes
        return self

    def words(self) -> dict[str, Any]:
        """It in the words of prefect.yaml."""
        when = {"cron": self.cron} if self.cron else {"interval": self.interval}
        return when | {"timezone": self.timezone}


class Nightly(BaseModel):
    """One deployment `retrain/NAME`, and the model that searches find under that name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the deployment, the report and the published model.", pattern=NAME_PATTERN)
    preset: str = Field(description="Preset that each night begins with.", min_length=1)
    source: str | None = Field(
        None,
        description="Folder of code and prose, or dump spec (.yaml); unset: the machine's own Python. Relative: to the file.",
        min_length=1,
    )
    schedule: Schedule | None = Field(None, description="When; unset: by hand alone.")
    policy: Literal["continue", "restart", "whole", "index"] = Field(
        "continue",
        description="`nightly.policy`: train on from the champion, from the start, do the whole each time, or train nothing and"
        " let the champion's index take in what is new.",
    )
    min_new_share: float | None = Field(
        None, description="`nightly.min_new_share`: share of new pairs up to which nothing is trained; unset: 0.02.", ge=0, le=1
    )
    max_shrink_share: float | None = Field(
        None,
        description="`nightly.max_shrink_share`: share of its bytes that the dump may have lost since the last night, or it"
        " fails; unset: 0.5.",
        ge=0,
        le=1,
    )
    promote: PromoteWhen | None = Field(
        None, description="`promote.when`: always, gate, ask or never; unset: gate for a night that the schedule started."
    )
    config: str | None = Field(None, description="YAML file of further settings, read by each night. Relative: to the file.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Further settings, section by section, as `train: {steps: 600}`; they win."
    )
    notify: dict[str, Any] = Field(default_factory=dict, description="Settings of the section `notify`: who is told of what.")
    description: str | None = Field(None, description="What the UI says of the deployment; unset: source and preset.")

    def params(self, folder: Path) -> RunParams:
        """The parameters of each night, checked as those of `cpt run` are.

        Args:
            folder: that relative places count from.

        Raises:
            UserError: a setting is unknown or out of its range, or what is named is not there.
        """
        from flows.cli.terminal import check_params, read_params

        given = {**self.settings, **({"notify": self.notify} if self.notify else {})}
        values = flat(RunConfig, given)
        for setting, key in OWN_SETTINGS.items():
            if setting in values:
                raise UserError(f"settings: {setting} has a key of its own; give `{key}`")
        words = words_of(RunConfig, values)
        own = [f"nightly.policy={self.policy}"]
        shares = {name: getattr(self, name) for name in ("min_new_share", "max_shrink_share")}
        own += [f"nightly.{name}={share}" for name, share in shares.items() if share is not None]
        places = {name: _absolute(folder, value) for name in PLACES if (value := getattr(self, name))}
        fields = {"preset": self.preset, "name": self.name, "promote": self.promote, **places}
        params = read_params(RunParams, {**fields, "set": [*own, *words]})
        check_params(params)
        return params

    def entry(self, template: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The deployment in the words of prefect.yaml.

        Args:
            template: the entry there whose work pool, limits and entrypoint it has.
            folder: that relative places count from.
        """
        params = self.params(folder).model_dump(mode="json", exclude_defaults=True)
        schedules = [{**self.schedule.words(), "slug": "nightly", "active": self.schedule.active}] if self.schedule else []
        source = self.source or "The machine's own Python"
        told = f"{source}, preset {self.preset}, policy {self.policy}."
        return {
            **template,
            "name": self.name,
            "description": self.description or told,
            "parameters": {"params": params},
            "schedules": schedules,
        }


def read_nights(path: Path) -> list[Nightly]:
    """The nights of a file: one, or a list of them.

    Raises:
        UserError: it cannot be read, or an entry is wrong; the message names the entry, the key, and what was expected.
    """
    content = read_yaml(path)
    entries = content if isinstance(content, list) else [content]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: expected `name`, `preset`, `source`, `schedule` and the like, or a list of such entries")
    nights = [_night(path, entry, number if len(entries) > 1 else 0) for number, entry in enumerate(entries, start=1)]
    names = [night.name for night in nights]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} comes {names.count(name)} times; give each entry a name of its own")
    return nights


def _night(path: Path, entry: dict[str, Any], number: int) -> Nightly:
    try:
        return Nightly.model_validate(entry)
    except ValidationError as error:
        where = f"{path}: " + (f"entry {entry.get('name') or number}: " if number else "")
        raise UserError(where + "; ".join(_told(dict(fault)) for fault in error.errors(include_url=False))) from error


def _told(fault: dict[str, Any]) -> str:
    """A fault in one line."""
    place, message = ".".join(map(str, fault["loc"])), str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = list((Schedule if len(fault["loc"]) > 1 else Nightly).model_fields)
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, 1)
        return f"unknown key {place}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
    if fault["type"] == "missing":
        return f"give {place}: {Nightly.model_fields[place].description}"
    return f"{place}: {message}, got {fault['input']!r}"


def _absolute(folder: Path, place: str) -> str:
    if "://" in place or place.startswith(("/", "~")):
        return absolute_place(place, "place")
    return absolute_place(str(folder / place), "place")
