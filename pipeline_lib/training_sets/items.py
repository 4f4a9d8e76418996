"""What the files of a training set hold, whoever published it: the few kinds of item that all layouts come down to."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pyarrow as pa

Label = Literal["entailment", "neutral", "contradiction"]


class Example(NamedTuple):
    """A pair that names its own hard negatives."""

    x: str
    y: str
    negatives: list[str]


class Statement(NamedTuple):
    """One labelled hypothesis of a premise (natural language inference)."""

    premise: str
    hypothesis: str
    label: Label


class Text(NamedTuple):
    """A query or a passage by its id; `side` is "query" or "passage"."""

    side: str
    id: str
    text: str


class Judgement(NamedTuple):
    """Whether a passage answers a query, by their ids."""

    query: str
    passage: str
    relevant: bool


class Dropped(NamedTuple):
    """A well-formed item that training has no use for, by the word that it is counted under."""

    reason: str


class Bad(NamedTuple):
    """What could not be read: a word to count by, and what was got."""

    reason: str
    detail: str


Item = Example | Statement | Text | Judgement | Dropped | Bad

_PLACE = [("file", pa.int32()), ("line", pa.int64())]  # which file of the set, and which line of it, from 1
SCHEMAS: dict[type, pa.Schema] = {
    Example: pa.schema(
        [("x", pa.large_string()), ("y", pa.large_string()), ("negatives", pa.list_(pa.large_string())), *_PLACE]
    ),
    Statement: pa.schema([("premise", pa.large_string()), ("hypothesis", pa.large_string()), ("label", pa.string()), *_PLACE]),
    Text: pa.schema([("side", pa.string()), ("id", pa.string()), ("text", pa.large_string()), *_PLACE]),
    Judgement: pa.schema([("query", pa.string()), ("passage", pa.string()), ("relevant", pa.bool_()), *_PLACE]),
}


def check_text(value: object, max_bytes: int) -> Bad | None:
    """Why a value is no text to train on, or None where it is one."""
    if not isinstance(value, str) or not value.strip():
        return Bad("no_text", f"expected a text with letters, got {ascii(value)[:80]}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return Bad("not_unicode", ascii(value)[:80])
    if size > max_bytes:
        return Bad("text_too_large", f"{size} bytes, at most {max_bytes}")
    return Bad("nul_byte", ascii(value)[:80]) if "\0" in value else None
