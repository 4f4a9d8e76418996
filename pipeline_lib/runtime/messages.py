"""Messages to people about a run, and their ways out: a webhook or a command, bounded in time, which raise nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from pipeline_lib.config.notify import OF_ENVIRONMENT, Event, NotifyConfig, is_address, public_address
from pipeline_lib.errors import redacted

HEADINGS: dict[Event, str] = {
    "failure": "failed",
    "quarantine": "was stopped by its data contract",
    "cancellation": "was cancelled",
    "recovery": "works again",
    "approval": "waits for a person's answer",
    "promotion": "was promoted",
    "held_back": "was held back",
    "rollback": "was rolled back",
}
MOST_REASON = 2_000  # characters of a reason that a message has
MOST_SAID = 500  # bytes of what a command said that the log has
RETRIED = (408, 425, 429)  # answers after which another try may help, beside those from 500 on
OK = range(200, 300)
# in a text: what follows the question mark or the host of a URL, and what stands after a word for a secret
QUERY = re.compile(r"(?<=[\w/.~-])\?[^\s'\"<>)\]]*=[^\s'\"<>)\]]*")
PATH = re.compile(r"(?i)(https?://[^\s/'\"]+)/[^\s'\"]+")
NAMED = re.compile(
    r"(?i)\b(password|passwd|secret|(?:access|auth|api)[_-]?(?:key|token)|authorization|token)(['\"]?\s*[=:]\s*['\"]?)[^\s,;'\"*]+"
)
BEARER = re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}")


@dataclass(frozen=True)
class Message:
    """What befell a run.

    Attributes:
        name: of the run, as its report is called.
        run: name and id of the flow run; empty where no flow run did it.
        stage: in which it happened; empty where none is known.
        reason: in a sentence or two, without secrets.
        next: the command to type next.
        at: as ISO 8601 in UTC.
    """

    event: Event
    name: str
    reason: str
    next: str
    flow: str = ""
    run: str = ""
    run_id: str = ""
    stage: str = ""
    host: str = field(default_factory=lambda: os.uname().nodename)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def subject(self) -> str:
        """The message in a line."""
        flow = f"{self.flow} " if self.flow else ""
        return f"{flow}{self.name} {HEADINGS[self.event]}{f' in {self.stage}' if self.stage else ''}"

    @property
    def body(self) -> str:
        """The message as people read it."""
        rows = {"run": f"{self.run} ({self.run_id})" if self.run else "", "stage": self.stage, "reason": self.reason}
        rows |= {"next": self.next, "host": self.host, "at": self.at}
        return "\n".join(f"{name}: {value}" for name, value in rows.items() if value)

    def to_json(self) -> dict[str, Any]:
        """All fields; and `text`, which chat programs show."""
        return {**asdict(self), "subject": self.subject, "text": f"{self.subject}\n{self.body}"}


class NotSentError(Exception):
    """A message that did not get through; why, without secrets."""


def without_secrets(text: str) -> str:
    """A text fit to leave the machine: `redacted`, without any query of a URL or named secret, cut to a message's length."""
    text = BEARER.sub(r"\1 ***", QUERY.sub("?***", redacted(text)))
    text = NAMED.sub(r"\1\2***", text)
    return text if len(text) <= MOST_REASON else f"{text[:MOST_REASON]}..."


def send(config: NotifyConfig, message: Message, block: Callable[[str, Message], None] | None = None) -> list[str]:
    """Send a message by the block, else by webhook and command; why each way failed that did. Raises nothing.

    Args:
        block: what sends it through the block of that name.
    """
    failed = []
    if config.block and block:
        failed = _tried(f"block {config.block}", config.wait_seconds, block, config.block, message)
        if not failed:
            return []
    longest = config.attempts * config.wait_seconds + config.backoff_seconds * 2**config.attempts
    if config.webhook:
        failed += _tried(f"webhook {public_address(config.webhook)}", longest, post, config, message)
    if config.command:
        failed += _tried(f"command {config.command[0]}", config.wait_seconds + 5, run_command, config, message)
    return failed


def _tried(way: str, seconds: float, send_by: Callable[..., None], *args: Any) -> list[str]:
    """Why it failed: in a thread of its own, since an answer that comes byte by byte lets no wait of a socket end."""
    failed: list[str] = [f"{way}: no end within {seconds:.0f} s"]

    def work() -> None:
        try:
            send_by(*args)
            failed.clear()
        except NotSentError as error:
            failed[0] = f"{way}: {error}"
        except Exception as error:  # noqa: BLE001 - whatever a block or a library raises
            failed[0] = f"{way}: {type(error).__name__}: {_without_urls(str(error))}"
            raise SystemExit from None  # which ends this thread without a word: its traceback may hold the address

    thread = threading.Thread(target=work, daemon=True, name="notification")
    thread.start()
    thread.join(seconds)
    return list(failed)


def post(config: NotifyConfig, message: Message) -> None:
    """Post a message to the webhook, again after each failure that may pass; redirects are not followed.

    Raises:
        NotSentError: it did not get through; without the URL, which may hold a secret.
    """
    import httpx

    url = address_of(config.webhook or "")
    why = ""
    for attempt in range(config.attempts):
        if attempt:
            time.sleep(config.backoff_seconds * 2 ** (attempt - 1))
        try:
            words: dict[str, Any] = {"json": message.to_json(), "timeout": config.wait_seconds, "follow_redirects": False}
            with httpx.stream("POST", url, **words) as answer:
                status = answer.status_code
        except (httpx.HTTPError, OSError) as error:
            why = type(error).__name__
            continue
        if status in OK:
            return
        why = f"HTTP {status}"
        if status < 500 and status not in RETRIED:
            raise NotSentError(why)
    raise NotSentError(f"{why}, {config.attempts} attempts")


def address_of(webhook: str) -> str:
    """The URL that is given, or that the environment holds.

    Raises:
        NotSentError: the environment does not hold it, or not of http or https.
    """
    found = OF_ENVIRONMENT.fullmatch(webhook)
    if found is None:
        return webhook
    name = found["plain"] or found["braced"]
    url = os.environ.get(name, "").strip()
    if not url:
        raise NotSentError(f"{name} is not set in the environment of this process")
    if OF_ENVIRONMENT.fullmatch(url) or not is_address(url):
        raise NotSentError(f"{name} of the environment is no URL of http or https")
    return url


def run_command(config: NotifyConfig, message: Message) -> None:
    """Give a message to the command; what it starts is ended with it where it takes too long.

    Raises:
        NotSentError: it cannot be started, takes too long, or ends with another code than 0.
    """
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(config.command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
        except OSError as error:
            raise NotSentError(f"cannot be started: {error.strerror}") from error
        try:
            child.communicate(json.dumps(message.to_json()).encode(), timeout=config.wait_seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise NotSentError(f"no end within {config.wait_seconds:g} s") from error
        if child.returncode:
            raise NotSentError(f"exit code {child.returncode} {_end_of(said)}".rstrip())


def _end_of(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - MOST_SAID))
    return _without_urls(" ".join(said.read().decode(errors="replace").split()))


def _without_urls(text: str) -> str:
    """What others say of a failed message, of a URL no more than its host: the secret may be its path."""
    return PATH.sub(r"\1/***", without_secrets(text))[:MOST_SAID]
