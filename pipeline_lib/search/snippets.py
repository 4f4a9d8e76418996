"""Passage of a text that answers a query best, by the query's words, and where those words stand in it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.index.lexical import UNSPACED

LINES = 3  # of a snippet at most
LINE_CHARACTERS = 160  # a longer line is cut between words
SNIPPET_CHARACTERS = 400  # of its lines together, but for one that is longer alone
COMMON_WEIGHT = 0.05  # of a word that every text has: it decides between passages that are else equal
FIRST_LINE_SHARE = 0.2  # by which a word there weighs more
MAX_WORDS, QUERY_CHARACTERS = 64, 10_000  # of a query that count; the rest of a pasted text is not looked for

Marks = tuple[tuple[int, int], ...]

# words between signs, numbers, and single letters of scripts that write no spaces
_SIGNS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff"  # that stand in a word, and are no letters to `re`
_WORD = re.compile(rf"[{UNSPACED}]|\d+|(?:(?![{UNSPACED}])(?:[^\W\d_]|[{_SIGNS}]))+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of an identifier
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_ENDINGS = ("ings", "ing", "ers", "ies", "ed", "er", "es", "e", "s", "y")  # of English, the longest first
_MIN_STEM = 3
_COMMON_WORDS = """a all an and any are as at be by can do for from get has have how i if in into is it its no not of on or out
    so that the their then there this to up was we what when where which who why will with you your"""
_COMMON = frozenset(_COMMON_WORDS.split())


class Snippet(NamedTuple):
    """A passage, with the (start, end) of each place where a word of the query stands, in characters."""

    text: str
    marks: Marks


class _Line(NamedTuple):
    text: str
    begins: bool  # false where a longer line goes on
    ends: bool


def snippet(text: str, query: str) -> Snippet:
    """The lines, LINES at most, with most weight of the query's words; the text's beginning where none stands in it.

    A word weighs more the fewer times the text has it; it counts whatever its case, English ending, or place in an identifier.
    """
    wanted = stems(query)
    lines = [line for raw in text.splitlines() for line in _pieces(raw)]
    words = [[stem for stem, _, _ in _words(line.text)] for line in lines] if wanted else []
    often = Counter(stem for line in words for stem in line if stem in wanted)
    if not often:
        return Snippet(_joined(_head(lines)), ())
    weights = {stem: wanted[stem] / (1 + math.log(count)) for stem, count in often.items()}
    start = _best_start(words, weights)
    shown = _joined(_head(lines[start:]))
    return Snippet(shown, marks_of(shown, query))


def marks_of(text: str, query: str) -> Marks:
    """The (start, end) of each place of a text where a word of the query stands."""
    wanted = {stem for stem, weight in stems(query).items() if weight > COMMON_WEIGHT} or set(stems(query))
    found: list[tuple[int, int]] = []
    for stem, start, end in _words(text):
        if stem not in wanted:
            continue
        joins = bool(found) and found[-1][1] >= start  # humps of an identifier, and pairs of letters that overlap
        found.append((found.pop()[0] if joins else start, end))
    return tuple(found)


@lru_cache(8)  # every hit of a query asks
def stems(query: str) -> Mapping[str, float]:
    """The query's words without endings, and what each weighs."""
    found: dict[str, float] = {}
    for stem, start, end in _words(query[:QUERY_CHARACTERS]):
        if len(found) == MAX_WORDS:
            break
        found.setdefault(stem, COMMON_WEIGHT if query[start:end].lower() in _COMMON else 1.0)
    return found


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Stem, start and end of each word; of scripts without spaces, of each two letters that stand together."""
    unspaced: list[re.Match[str]] = []
    for match in _WORD.finditer(text):
        if _IS_UNSPACED.match(match[0]):
            if unspaced and unspaced[-1].end() != match.start():
                yield from _pairs(unspaced)
                unspaced = []
            unspaced.append(match)
            continue
        if not match[0].isascii() or match[0].isdigit():
            folded = unicodedata.normalize("NFKC", match[0]).casefold()
            yield _stem(folded) if folded.isascii() else folded, match.start(), match.end()
            continue
        for hump in _HUMP.finditer(match[0]):
            yield _stem(hump[0].lower()), match.start() + hump.start(), match.start() + hump.end()
    yield from _pairs(unspaced)


def _pairs(letters: list[re.Match[str]]) -> Iterator[tuple[str, int, int]]:
    if len(letters) == 1:
        yield letters[0][0], letters[0].start(), letters[0].end()
    for first, second in pairwise(letters):
        yield first[0] + second[0], first.start(), second.end()


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > _MIN_STEM and word[-1] == word[-2:-1] else word  # stopped: stop


def _pieces(raw: str) -> Iterator[_Line]:
    """A line that is not empty, in pieces of LINE_CHARACTERS where it is longer."""
    line = raw.rstrip()
    start, first = 0, True
    while line[start:].strip():
        end = len(line)
        if end - start > LINE_CHARACTERS:
            end = line.rfind(" ", start + LINE_CHARACTERS // 2, start + LINE_CHARACTERS) + 1 or start + LINE_CHARACTERS
        yield _Line(line[start:end].rstrip(), first, end == len(line))
        start, first = end, False


def _best_start(words: list[list[str]], weights: dict[str, float]) -> int:
    """Where the first run of LINES lines begins whose words weigh most, those of its first line a little more."""
    best, found = 0.0, 0
    for start, line in enumerate(words):
        if not any(stem in weights for stem in line):
            continue
        seen = Counter(stem for line in words[start : start + LINES] for stem in line if stem in weights)
        total = sum(weights[stem] * (1 + 0.1 * (min(count, 3) - 1)) for stem, count in seen.items())
        total += FIRST_LINE_SHARE * sum(weights.get(stem, 0.0) for stem in set(line))
        if total > best + 1e-9:
            best, found = total, start
    return found


def _head(lines: list[_Line]) -> list[_Line]:
    """The first LINES lines, or fewer where they are long."""
    head: list[_Line] = []
    for line in lines[:LINES]:
        if head and sum(len(one.text) for one in head) + len(line.text) > SNIPPET_CHARACTERS:
            break
        head.append(line)
    return head


def _joined(lines: list[_Line]) -> str:
    """The lines without what all are indented by, and with a sign where a longer line is cut."""
    indents = [len(line.text) - len(line.text.lstrip()) for line in lines if line.begins]
    indent = min(indents, default=0)
    joined = ""
    for number, line in enumerate(lines):
        between = "\n" if line.begins else " " if number else "… "
        joined += (between if number or not line.begins else "") + (line.text[indent:] if line.begins else line.text.lstrip())
    return joined + (" …" if lines and not lines[-1].ends else "")
