"""Pairs of neighbouring text: adjacent, non-overlapping segments of one document (paper, section 2.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.config.data import TextPairsConfig, TextView
from pipeline_lib.languages import scripts
from pipeline_lib.pairs.filters import note_drop, text_drop
from pipeline_lib.pairs.prose import Paragraph

# Why text gives no pair of neighbours, beside the rules for two pieces (`TEXT_RULES`): each counts what the key says.
TEXT_REASONS = {
    "no_prose": "a document without a paragraph: code, tables, directives and markup alone, or nothing",
    "only_headings": "a document, or a part of it below a heading, of headings alone",
    "short_text": "a document, or a part of it below a heading, of fewer than `min_words`",
    "one_piece": "a document, or a part of it below a heading, too short for two pieces",
    "short_rest": "the end of a document, after its last piece: fewer than `min_words`",
    "no_heading": "a document without a heading, where pairs of title and text are asked for",
    "short_title": "a heading of fewer than `min_title_words`",
    "over_document_limit": "a pair beyond `max_pairs_per_document`",
}


class Segment(NamedTuple):
    """Between min_words and max_words of one document, cut at the bound of a paragraph or a sentence."""

    text: str
    size: int  # in the config's unit
    line: int  # of its first word's paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """A run of prose whose segments are neighbours: a file, or one docstring."""

    name: str
    paragraphs: Sequence[Paragraph]


@dataclass(frozen=True, slots=True)
class TextPair:
    """A segment and the next one, or what else the view takes for x."""

    x: str
    y: str
    line: int  # of y
    name: str
    view: TextView = "neighbour"


class _Unit(NamedTuple):
    text: str
    size: int
    line: int
    end: str  # a line break at a paragraph's end, a space, or nothing inside a script without spaces


class _Cut(NamedTuple):
    segments: list[Segment]
    rest: Segment | None  # too short to be one


def segment(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> list[Segment]:
    """Cut a document into segments, in order and without overlap; together they are its words but for a short remainder.

    A segment ends at a paragraph's end once it has `target_words`, at a sentence's end once it has twice as many, and before a
    sentence that would bring it above `max_words`. A sentence of more than max_words - min_words is cut between words; where
    it is of a script without spaces, after the last comma or the like, else at the last space, in the latter half of what
    fits, else between two units. What is left at the end, fewer than min_words, joins the last segment where that stays
    within max_words, and is left out otherwise.
    """
    return _cut(paragraphs, config).segments


def _cut(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> _Cut:
    segments: list[list[_Unit]] = []
    current: list[_Unit] = []
    size = 0
    least, most = config.min_words, config.max_words
    enough, enough_inside = max(config.target_words, least), max(2 * config.target_words, least)
    for unit in _units(paragraphs, config):
        if size >= least and size + unit.size > most:
            segments.append(current)
            current, size = [], 0
        current.append(unit)
        size += unit.size
        if size >= (enough if unit.end == "\n" else enough_inside):
            segments.append(current)
            current, size = [], 0
    if size >= least:
        segments.append(current)
        current = []
    elif current and segments and size + sum(unit.size for unit in segments[-1]) <= most:
        segments[-1].extend(current)
        current = []
    return _Cut([_joined(units) for units in segments], _joined(current) if current else None)


def least_size_of_a_pair(config: TextPairsConfig) -> int:
    """Words, or characters, below which `segment` gives at most one segment, whatever the text."""
    return min(max(config.target_words, config.min_words) + config.min_words, config.max_words + 1)


def _units(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> Iterator[_Unit]:
    """Whole paragraphs where they are short, else sentences; at most max_words - min_words each, so that one always fits."""
    longest = max(1, config.max_words - config.min_words)
    whole = min(longest, config.target_words)
    by_characters, any_script = config.unit == "characters", config.unit == "auto"
    for text, line, words, _ in paragraphs:
        if by_characters:
            size = len(text) + 1  # a space or line break ends each unit
        elif any_script and not text.isascii() and not scripts.is_spaced(text):
            size = scripts.count_units(text)
        elif words > whole:
            yield from _ended(
                [chunk for sentence in scripts.sentences(text, True) for chunk in _words(sentence, longest)], line
            )
            continue
        else:
            size = words
        if size <= whole:
            yield _Unit(text, size, line, "\n")
        else:
            parts = [part for one in scripts.sentences(text) for part in _chunks(one, longest, by_characters)]
            yield from _ended(parts, line, by_characters)


def _ended(chunks: list[tuple[str, int]], line: int, break_size: int = 0) -> Iterator[_Unit]:
    """The chunks of one paragraph, each with what ends it. The line break takes `break_size`."""
    text, size = chunks.pop()
    for chunk, chunk_size in chunks:
        kept = chunk.rstrip()
        yield _Unit(kept, chunk_size, line, chunk[len(kept) :])
    yield _Unit(text.rstrip(), size + break_size, line, "\n")


def _words(sentence: str, longest: int) -> Iterator[tuple[str, int]]:
    words = sentence.split()
    if len(words) <= longest:
        yield sentence, len(words)
        return
    for start in range(0, len(words), longest):
        chunk = words[start : start + longest]
        yield " ".join(chunk) + " ", len(chunk)


def _chunks(sentence: str, longest: int, by_characters: bool) -> Iterator[tuple[str, int]]:
    """A sentence in pieces of at most `longest`, each with the space after it, cut where `segment` says."""
    parts = scripts.units(sentence)
    sizes = [1] * len(parts)
    if by_characters:
        longest = max(1, longest - 1)  # a space or line break ends each piece
        parts = [part for unit in parts for part in _short_enough(unit, longest)]
        sizes = [*map(len, parts)]
    start = size = 0
    for at in range(len(parts)):
        if size and size + sizes[at] > longest:
            end = _best_end(parts, start, at)
            yield "".join(parts[start:end]), sum(sizes[start:end])
            start, size = end, sum(sizes[end:at])
        size += sizes[at]
    yield "".join(parts[start:]), size


def _short_enough(unit: str, most: int) -> list[str]:
    """A unit, or what a reader takes for its characters where it alone is longer than a piece may be."""
    word = unit.rstrip()
    if len(word) <= most:
        return [unit]
    parts = [part[at : at + most] for part in scripts.graphemes(word) for at in range(0, len(part), most)]
    return [*parts[:-1], parts[-1] + unit[len(word) :]]


def _best_end(parts: Sequence[str], start: int, end: int) -> int:
    latter_half = range(end, (start + end) // 2, -1)
    ends = (at for at in latter_half if scripts.ends_clause(parts[at - 1]))
    spaces = (at for at in latter_half if parts[at - 1].endswith(" "))
    return next(ends, None) or next(spaces, end)


def _joined(units: list[_Unit]) -> Segment:
    text = "".join(unit.text + unit.end for unit in units).rstrip()
    return Segment(text, sum(unit.size for unit in units), units[0].line)


def text_pairs(
    sections: Iterable[Section], config: TextPairsConfig, dropped: Counter[str], whole: bool = True
) -> list[TextPair]:
    """The pairs of a document, of all views: at most `max_pairs_per_document`, evenly spread over it.

    Every candidate that gives no pair is counted in `dropped`, and every section that gives no candidate.

    Args:
        whole: each section is a document, or a part of one; False: sections that are short are no candidates at all, as
            docstrings are, most of which are no prose of several pieces.
    """
    pairs: list[TextPair] = []
    for section in sections:
        for view, x, y in _candidates(section.paragraphs, config, dropped, whole):
            short = view == "title" and _size(x, config) < config.min_title_words
            reason = "short_title" if short else text_drop(x, y.text, config)
            if reason is None:
                pairs.append(TextPair(x, y.text, y.line, section.name, view))
            else:
                note_drop(dropped, reason, lambda: (x, y.text))  # noqa: B023 - called at once
    most = config.max_pairs_per_document
    if len(pairs) <= most:
        return pairs
    dropped["over_document_limit"] += len(pairs) - most
    return [pairs[index * len(pairs) // most] for index in range(most)]


def _candidates(
    paragraphs: Sequence[Paragraph], config: TextPairsConfig, dropped: Counter[str], whole: bool
) -> Iterator[tuple[TextView, str, Segment]]:
    """View, x and y, each view's in the order of the document; what gives none is counted."""
    if "neighbour" in config.views:
        for run in [paragraphs] if config.across_headings else _by_heading(paragraphs):
            cut = _cut(run, config)
            if cut.rest or len(cut.segments) < 2:
                _note_rest(run, cut, dropped, whole)
            yield from (("neighbour", x.text, y) for x, y in pairwise(cut.segments))
    if config.views == ("neighbour",):
        return
    firsts = []
    for run in _by_heading(paragraphs):
        cut = _cut(_body(run), config)
        if cut.segments:
            firsts.append((run[0], cut.segments[0]))
        elif whole:
            _note_rest(run, cut, dropped, whole)
    if "title" in config.views:
        titles = [(head.text, first) for head, first in firsts if head.heading]
        if whole and firsts and not titles:
            note_drop(dropped, "no_heading", lambda: ("", firsts[0][1].text))
        yield from (("title", title, first) for title, first in titles)
    if "section" in config.views:
        if whole and len(firsts) == 1:
            note_drop(dropped, "one_piece", lambda: (firsts[0][1].text, ""))
        yield from (("section", x.text, y) for (_, x), (_, y) in pairwise(firsts))


def _note_rest(run: Sequence[Paragraph], cut: _Cut, dropped: Counter[str], whole: bool) -> None:
    """Count text that is in no candidate, under one of `TEXT_REASONS`."""
    reason = "short_rest" if cut.rest else None
    if len(cut.segments) < 2:
        reason = _reason_for_no_pair(run, cut) if whole else None
    if reason:
        pieces = [piece.text for piece in (*cut.segments[-1:], cut.rest) if piece] or [part.text for part in run[:1]]
        note_drop(dropped, reason, lambda: ("".join(pieces[:1]), "".join(pieces[1:])))


def _reason_for_no_pair(run: Sequence[Paragraph], cut: _Cut) -> str:
    if not run:
        return "no_prose"
    if all(paragraph.heading for paragraph in run):
        return "only_headings"
    return "one_piece" if cut.segments else "short_text"


def _size(text: str, config: TextPairsConfig) -> int:
    return len(text.split()) if config.unit == "words" else scripts.count_units(text)


def _by_heading(paragraphs: Sequence[Paragraph]) -> list[Sequence[Paragraph]]:
    """The paragraphs cut before each heading."""
    starts = [index for index, paragraph in enumerate(paragraphs) if paragraph.heading or index == 0]
    return [paragraphs[start:end] for start, end in pairwise([*starts, len(paragraphs)])]


def _body(run: Sequence[Paragraph]) -> Sequence[Paragraph]:
    return run[1:] if run[0].heading else run
