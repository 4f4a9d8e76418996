"""Answers of an endpoint that speaks OpenAI's chat completions: the queries in one, or why there are none."""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.pairs.filters import has_control_bytes

if TYPE_CHECKING:
    import httpx

ANSWER_BYTES = 1 << 20  # of one answer; a longer one is none
# a bullet or a number before a query, bold or not: "- ", "2) ", "**Query 3:** "
_MARK = re.compile(r"(?i)^\s*[*_]{0,2}(?:[-*\u2022]|(?:query |question )?\(?#?\d{1,2}[.):])[*_]{0,2}\s+")
# up to where a model has thought; templates that open the thought themselves leave its end alone in the answer
_THOUGHT = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)
_FENCES = ("```", "~~~")


class Bad(NamedTuple):
    """Why an answer is none."""

    reason: str
    detail: str


async def bounded(answer: httpx.Response) -> bytes | None:
    """The body; None where it is longer than any answer may be."""
    data = b""
    async for piece in answer.aiter_bytes():
        data += piece
        if len(data) > ANSWER_BYTES:
            return None
    return data


def is_cut(data: bytes) -> bool:
    """True for a body that ends early: nothing, or an object without its end, as from a server that states no length."""
    said = data.strip()
    return not said or (said.startswith(b"{") and not said.endswith(b"}"))


def asked_wait(value: str) -> float:
    """The wait that a Retry-After asks for, as a number or as a date (seconds); 0 where it is neither."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def queries_of(data: bytes, config: QueryWriterConfig) -> list[str] | Bad:
    """The queries of a chat completion, one a line, or why it holds none."""
    try:
        choice = json.loads(data)["choices"][0]
        content, end = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return Bad("not_a_completion", ascii(f"{type(error).__name__}: {data[:120].decode('utf-8', 'replace')}"))
    if not isinstance(content, str):
        return Bad("no_text", f"got {type(content).__name__} as content, expected a text")
    if end == "length":
        return Bad("cut_short", ascii(content[-80:]))
    lines = (line for line in _THOUGHT.sub("", content).splitlines() if not line.strip().startswith(_FENCES))
    words = (_MARK.sub("", line).strip().strip("\"'`*").strip() for line in lines)
    found = list(dict.fromkeys(line for line in words if re.search(r"\w", line) and not line.endswith(":")))
    if not found:
        return Bad("no_query", f"got {content[:80]!a}, expected {config.queries_per_text} lines")
    if any(map(has_control_bytes, found)):
        return Bad("not_unicode", ascii(content[:80]))
    found = found[: config.queries_per_text]
    longest = max(found, key=lambda line: len(line.split()))
    if len(longest.split()) > config.max_query_words:
        return Bad("query_too_long", f"got {len(longest.split())} words, expected at most {config.max_query_words}")
    return found
