"""Notifications: who is told what became of a run, by which way, and of what kinds of event."""

from __future__ import annotations

import re
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import field_serializer, model_validator

from pipeline_lib.config.base import StageConfig, operational

Event = Literal["failure", "quarantine", "cancellation", "recovery", "approval", "promotion", "held_back", "rollback"]
EVENTS: tuple[Event, ...] = get_args(Event)
OF_ENVIRONMENT = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
SCHEMES = ("http", "https")


class NotifyConfig(StageConfig):
    """Notification of failures, recoveries, and the promotion of models."""

    block: str | None = operational(
        None,
        description="Prefect notification block that the message goes through, as TYPE/NAME (slack-webhook/ops), or its name"
        " where only one block has it. Where it cannot be sent so, webhook and command are tried.",
    )
    webhook: str | None = operational(
        None,
        description="URL (http or https) that gets the message as JSON by POST, or $NAME of the environment that holds it: a"
        " URL with a secret in it should not stand in a file.",
        repr=False,
    )
    command: tuple[str, ...] = operational(
        (),
        description="Program and its arguments, started without a shell, which gets the message as JSON on its input.",
        repr=False,
    )
    on: tuple[Event, ...] = operational(EVENTS, description="Events for which a message is sent.")
    attempts: int = operational(3, description="Most attempts to reach a webhook (attempts).", ge=1, le=10)
    wait_seconds: float = operational(
        10.0,
        description="Longest wait for a webhook's answer, or for the block or the command to be done (seconds).",
        gt=0,
        le=300,
    )
    backoff_seconds: float = operational(
        1.0, description="Pause after a webhook's first failure; each further one is twice as long (seconds).", ge=0, le=60
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.webhook is not None and not is_address(self.webhook):  # which is not told: it may hold a secret
            raise ValueError("webhook: expected a URL of http or https with a host, or $NAME of the environment")
        return self

    @field_serializer("webhook", when_used="json")
    def _without_secrets(self, webhook: str | None) -> str | None:
        """What reports and records say of it."""
        return webhook and public_address(webhook)

    @field_serializer("command", when_used="json")
    def _program(self, command: tuple[str, ...]) -> list[str]:
        return [*command[:1], *(["***"] if command[1:] else [])]

    @property
    def reaches_somebody(self) -> bool:
        """True if a way is given."""
        return bool(self.block or self.webhook or self.command)


class NotifySettings(StageConfig):
    """Notification settings of an artifact root, which hold for every run that has none of its own."""

    notify: NotifyConfig = NotifyConfig()


def is_address(webhook: str) -> bool:
    """True of a reference to the environment, and of a URL that a message can be posted to."""
    if OF_ENVIRONMENT.fullmatch(webhook):
        return True
    try:
        parts = urlsplit(webhook)
        return parts.scheme.lower() in SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def public_address(webhook: str) -> str:
    """What may be told of it: a reference to the environment as it stands, of a URL its scheme and host."""
    if OF_ENVIRONMENT.fullmatch(webhook):
        return webhook
    try:
        parts = urlsplit(webhook)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    return f"{parts.scheme}://{parts.hostname}{port}/***" if parts.hostname else "***"
