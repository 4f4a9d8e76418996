"""The kinds of failure, and what each asks of whoever meets it.

A message says what, where, what was got against what was expected, and what to do next; in one line where a person
reads it. It never carries a secret: what a URL holds besides its place, and the values of variables named as secrets, are
left out of every message, log line and table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

HIDDEN = "***"
LEAST_SECRET = 8  # characters of a variable's value that is looked for: shorter ones are words
# of Azure the part before the @ is a container, and of git it is nobody
_LOGIN = re.compile(r"(?i)\b(?!(?:abfss?|wasbs?)://)([a-z][a-z0-9+.-]*://)(?!git@)[^\s/?#'\"<>]+@")
# a parameter by its name, or by a value that is no name of anything: letters and digits, long, without a dot
_NAMED_SO = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|pwd|signature|credential|api-?_?key|access-?_?key(?:-?_?id)?|auth|accessid)[\w.-]*"
    r"|pass|key|sig|jwt|sas"
)
_OPAQUE = r"(?=[\w%+/~=-]*\d)(?=[\w%+/~=-]*[A-Za-z])[\w%+/~=-]{20,}(?![\w.%+/~=-])"
_PARAMETER = re.compile(rf"(?i)([?&;](?:(?:{_NAMED_SO})=(?=[^\s&'\"<>])|[\w.-]+=(?={_OPAQUE})))[^\s&;#'\"<>]+")
_WEBHOOK = re.compile(r"(?i)(https?://(?:[^\s/'\"<>]*hook[^\s/'\"<>]*/|[^\s'\"<>]*/(?:web)?hooks?/))[^\s'\"<>]+")
_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)\s+)[^\s'\"]+")
_VARIABLE = re.compile(
    r"(?i)(token|secret|passw(or)?d|passphrase|credentials?|api_?key|access_?key(_id)?|private_?key|webhook(_url)?|auth_string"
    r"|_pat)$"
)


def redacted(text: str) -> str:
    """A text without the secrets in it: logins and tokens of URLs, webhooks, and what the environment holds as a secret."""
    if "://" in text:
        text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
        text = _WEBHOOK.sub(rf"\1{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text) if "=" in text else text
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    for secret in _of_environment():
        text = text.replace(secret, HIDDEN)
    return text


def has_secret(text: str) -> bool:
    """True if a text holds what must not be written down."""
    return redacted(text) != text


def public_name(url: str) -> str:
    """A URL, or a part of one, as it names something for good: without its login, and without parameters that are secrets."""
    hidden = _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(r"\1", url))
    if hidden == url or f"={HIDDEN}" not in hidden:
        return hidden
    address, sharp, fragment = hidden.partition("#")
    place, _, query = address.partition("?")
    kept = "&".join(one for one in query.split("&") if not one.endswith(f"={HIDDEN}"))
    return f"{place}{'?' if kept else ''}{kept}{sharp}{fragment}"


def redact_chain(error: BaseException) -> None:
    """Take the secrets out of an exception and of all that led to it; Prefect and terminals tell the whole chain."""
    seen: set[int] = set()
    links = [error]
    for link in links:
        if id(link) in seen:
            continue
        seen.add(id(link))
        if has_secret(str(link)):
            link.args = tuple(redacted(one) if isinstance(one, str) else one for one in link.args)
        for name in ("__cause__", "__context__"):
            before: BaseException | None = getattr(link, name)
            if before is None:
                continue
            if has_secret(str(before)) and not _can_be_told(before):
                is_hidden = link.__suppress_context__
                setattr(link, name, RuntimeError(f"{type(before).__name__}: {redacted(str(before))}"))
                link.__suppress_context__ = is_hidden
            else:
                links.append(before)


def _can_be_told(error: BaseException) -> bool:
    """True if a message without secrets takes the place of the one that is there: some make theirs from other fields."""
    error.args = tuple(redacted(one) if isinstance(one, str) else one for one in error.args)
    return not has_secret(str(error))


def _of_environment() -> Iterator[str]:
    """Values of the variables that are named as secrets, as they are and as a URL has them."""
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= LEAST_SECRET and not value.startswith(("/", "~")):
            yield value
            if (escaped := quote(value, safe="")) != value:
                yield escaped


class _Told(Exception):
    """An error of ours, whose message carries no secret."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(one) if isinstance(one, str) else one for one in args))


class UserError(_Told, ValueError):
    """A wrong use or a wrong input that the user can mend; the terminal prints it as one line, without a traceback."""


class ContractViolation(_Told, ValueError):
    """A stage's rows break their contract beyond the threshold; the quarantine file and report say why."""


class CorruptArtifact(_Told, ValueError):
    """Bytes on disk are not the bytes that the manifest recorded; nothing may be computed from them."""


class TransientError(_Told, RuntimeError):
    """A fault that may pass by itself (a network edge, a busy port). The only kind that is retried."""


class TrainingFailed(_Told, RuntimeError):
    """The trainer process ended without its last checkpoint; the message carries the tail of its log."""
