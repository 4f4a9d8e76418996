"""What a reader of records hands on: one record's text as a file of its own inside its container."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.safe_open import Refusal, SourceText, decode
from pipeline_lib.sources.source_file import DIGEST_MARK, SourceFile

_NAME_CHARACTERS = 500  # a URL may be of any length, and stands in every row
_DIGEST_DIGITS = 16


def found_text(
    container: SourceFile, name: str, content: str | Refusal, limits: ReadLimits, mark: str = "", **own: Any
) -> Found:
    """A record as it was found.

    Args:
        name: of the record: its URL, title or id.
        content: its text, or why there is none. NUL bytes and unpaired surrogates, which escapes can make, are refused.
        mark: stands behind the name, such as the record's line.
        own: what is the record's own among group, licence and form.
    """
    text = as_text(content, limits) if isinstance(content, str) else content
    data = text.data if isinstance(text, SourceText) else b""
    changes: dict[str, Any] = {key: shown(value) for key, value in own.items() if value}
    changes |= {
        "path": f"{container.path}!{address(name)}{mark}",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Found(container.model_copy(update=changes), text)


def as_text(text: str, limits: ReadLimits) -> SourceText | Refusal:
    """A string of unknown origin as text: valid Unicode without NUL, its newlines folded, no longer than the limit."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > limits.max_text_bytes:
        return too_large(len(data), limits)
    return decode(data)


def too_large(size: int, limits: ReadLimits) -> Refusal:
    """The refusal of a text that is longer than the limit (bytes)."""
    return Refusal("file_too_large", f"{size} bytes, at most {limits.max_text_bytes} are read")


def address(name: str) -> str:
    """A record's name as a path that no other name has: one that cannot be shown whole ends in a digest of all of it."""
    short = shown(name)
    if short == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{short}{DIGEST_MARK}{digest}"


def shown(name: str) -> str:
    """A name that any table can hold: on one line, valid Unicode, not endless."""
    return " ".join(name[:_NAME_CHARACTERS].replace("\0", " ").encode("utf-8", "replace").decode().split())
