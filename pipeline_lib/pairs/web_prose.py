# ruff: noqa: RUF001 - sentence ends and quotes of all scripts
"""Prose of web pages: their sentences, without menus, lists of links and names, tables, bylines and notices of the site.

Each line is looked at by itself, then in its place: sentences stay, short ones where they stand among longer ones, a heading
where prose follows it. The measures are of any script: sentence ends of all scripts, capitals only where there are any.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import compress, groupby, pairwise
from typing import Literal

from pipeline_lib.config.filters import WebProseConfig
from pipeline_lib.languages.scripts import elements, is_spaced, sentences
from pipeline_lib.pairs.filters import letter_share
from pipeline_lib.pairs.web_notices import is_notice

Verdict = Literal["blank", "fence", "heading", "prose", "sentence", "part", "list", "notice"]

_KEPT: frozenset[Verdict] = frozenset({"blank", "fence", "heading", "prose"})
_ENDS = ".!?…。！？｡؟۔।॥։።။។༎᠃"
_INNER_END = re.compile(rf"[^\W\d_]{{3,}}[{_ENDS}][\"'”’»›)\]」』】）＂*]*\s|[。！？｡]")
_END = re.compile(rf"[{_ENDS}][\"'”’»›)\]」』】）＂*]*(?:\s?[\[(]\d{{1,3}}[\])])*$")
_TEASER = re.compile(r"(?:\.{3}|…|\[[.…]+\])$")
_NO_ENDS = re.compile(r"[\u0e00-\u0eff]")  # Thai and Lao: sentences end in a space, as phrases do
# scripts without spaces between words: two characters count as one
_NO_SPACES = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_MARKER = re.compile(r"\s*(?:[-*+•‣◦●▪►»>·]|\d{1,3}[.)])\s+")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+\S")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_CELLS = re.compile(r"\t{2,}")
_OPENERS = "(\"'“‘«„*["
_SEPARATOR = re.compile(r"\s[|•·»›→]\s")
_WIDTH = 50  # characters: text that is cut at a width has lines of 60 to 80
_RAGGED = 6  # as much shorter may a line be than where it was cut
_LONG_WORDS = 20  # a line no shorter that has a sentence's end inside is prose that was cut
_TAILED_CHARACTERS = 400  # a paragraph that may have a list joined to it
_LEAD_CHARACTERS = 2_000  # as much of a line as is looked at
_NOTICE_WORDS = 45  # a longer line is a text about such things
_STAMP = re.compile(
    r"(?i)\b\d{1,2}:\d{2}\b|\b(?:19|20)\d{2}[-/.年]\d{1,2}|\b\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)?\d{2}\b"
    r"|\b[^\W\d_]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?, (?:19|20)\d{2}\b|\b\d{1,2}\.? [^\W\d_]{3,10}\.? (?:19|20)\d{2}\b"
)
_LOG_WORDS = 8  # a line with more dates and times is a log or a programme
_LOG_LINE = re.compile(r"\W{0,2}(?:\d{4}-\d\d-\d\d[T ])?\d{1,2}:\d\d:\d\d")
_TEMPLATE_LINES, _TEMPLATE_OVERLAP = 3, 0.5
_SHORT_OVERLAP, _UNSPACED_OVERLAP = 0.65, 0.33  # of a few words two in common are nothing; a slot spoils neighbouring letters
_TEMPLATE_WINDOW = 12  # sentences: as many templates may take turns
_TWINS_IN_A_ROW = 6
_TEMPLATES_AROUND = 4  # of six
_SHORT_CHARACTERS = 200
_ADDRESS = re.compile(
    r"(?i)https?://|\bwww\.|[\w-]{2}\.(?:com|net|org|info|biz|shop|online|ru|cn|de|uk|fr|jp|br|in|it|es|pl|nl)\b(?!\.\w)"
)
_STAMPED_WORDS = 14  # a line no longer than this that holds a date or a time of day is a byline


def web_prose(text: str, config: WebProseConfig, dropped: Counter[str]) -> str:
    """The text with empty lines in place of those that are no prose, so that line numbers stay; what is fenced stays too.

    Each run of lines that are left out is counted in `dropped`: as `web_notice`, or as `web_list` where it is no sentence.
    """
    lines = [_prose_cells(line, config) if "\t\t" in line else line for line in text.split("\n")]
    lines = [_without_tail(line, config, dropped) if len(line) >= _TAILED_CHARACTERS else line for line in lines]
    verdicts = _alone(lines, config)
    _in_place(verdicts, lines, config)
    for verdict, _ in groupby(verdict for verdict in verdicts if verdict != "blank"):
        if verdict not in _KEPT:
            dropped["web_notice" if verdict == "notice" else "web_list"] += 1
    return "\n".join(line if verdict in _KEPT else "" for line, verdict in zip(lines, verdicts, strict=True))


def _prose_cells(line: str, config: WebProseConfig) -> str:
    """The cells of a table's row that are prose, as pages laid out in tables have them; the row where none is."""
    return " ".join(cell.strip() for cell in _CELLS.split(line) if _verdict(cell, config) == "prose") or line


def _without_tail(line: str, config: WebProseConfig, dropped: Counter[str]) -> str:
    """A paragraph without the list behind its last sentence, as where a page's menu was joined to its text."""
    whole = kept = line.rstrip()
    while kept and (kept != whole or not _END.search(kept[-12:])):
        tail = kept[kept.rfind(". ", 0, -1) + 1 :]
        words = tail.split()
        if len(words) < _LONG_WORDS or not _is_list(tail, words, len(words), config):
            break
        kept = kept[: -len(tail)].rstrip()
    if kept == whole:
        return line
    dropped["web_list"] += 1
    return kept


def _alone(lines: list[str], config: WebProseConfig) -> list[Verdict]:
    """A verdict for each line from what it holds, with the lines that it runs on into; `sentence` and `part` are open."""
    verdicts: list[Verdict] = []
    widths = _widths(lines)
    fenced = False
    while (start := len(verdicts)) < len(lines):
        if _FENCE.match(lines[start]):
            fenced = not fenced
            verdicts.append("fence")
        elif fenced:
            verdicts.append("fence")
        else:
            end = start + 1
            while end < len(lines) and _runs_on(lines[end - 1], lines[end], widths[end - 1]):
                end += 1
            verdicts += [_verdict(" ".join(lines[start:end]), config)] * (end - start)
    return verdicts


def _widths(lines: list[str]) -> list[int]:
    """The length of the longest line of the block that each line is in, between empty ones."""
    widths: list[int] = []
    for _, block in groupby(lines, key=lambda line: not line.strip()):
        lengths = [len(line.rstrip()) for line in block]
        widths += [max(lengths)] * len(lengths)
    return widths


def _runs_on(line: str, following: str, width: int) -> bool:
    """True where a sentence goes on in the next line, as in text that was cut at a width: its first word did not fit."""
    first = following.strip()[:1]
    if not first or not line.strip() or _HEADING.match(line) or _END.search(line.rstrip()[-12:]):
        return False
    if first.islower():
        return True
    if not first.isalnum() or len(line) < _WIDTH or _MARKER.match(following) or _LOG_LINE.match(following):
        return False
    return len(line.rstrip()) + 1 + len(following.split(None, 1)[0]) >= width - _RAGGED


def _verdict(line: str, config: WebProseConfig) -> Verdict:
    if not line.strip():
        return "blank"
    if _HEADING.match(line):
        return "heading"
    marker = _MARKER.match(line)
    content = line[marker.end() if marker else 0 : _LEAD_CHARACTERS].strip()
    words = content.split()
    size = len(words) if content.isascii() else len(words) + len(_NO_SPACES.findall(content)) // 2
    ends = _END.search(content) is not None
    has_end = ends or (size >= _LONG_WORDS and _INNER_END.search(content) is not None)
    if size <= _NOTICE_WORDS and is_notice(content):
        return "notice"
    if _is_list(content, words, size, config):
        return "list"
    if (stamps := _STAMP.findall(content)) and (size <= _STAMPED_WORDS or len(stamps) > max(2, size // _LOG_WORDS)):
        return "list"
    teases = size <= _NOTICE_WORDS and _TEASER.search(content)
    if size >= config.min_words and not teases and (has_end or _NO_ENDS.search(content)):
        return "prose"
    return "sentence" if has_end and size > 1 and content[:1] not in "↑^" else "part"


def _is_list(content: str, words: list[str], size: int, config: WebProseConfig) -> bool:
    """True where names, numbers or separators prevail."""
    if "\t\t" in content or len(_SEPARATOR.findall(content)) > max(1, size // 20):
        return True
    if letter_share(content) < config.min_letter_share:
        return True
    firsts = "".join([word[0] if word[0].isalpha() else word.lstrip(_OPENERS)[:1] for word in words])
    cased = sum(map(str.islower, firsts)) + (capitals := sum(map(str.isupper, firsts)))
    return cased >= config.min_words and capitals > config.max_capital_words * cased


def _templates(prose: list[int], lines: list[str], config: WebProseConfig) -> set[int]:
    """Lines of sentences that say the same of one thing after the other, as link farms and catalogues do.

    Three sentences of one template near each other are one, and six in a row of which each has its twin; a line is where most
    of its characters are, and a short line with four such among its six neighbours. So are three lines in a row that name a
    site each.

    Args:
        prose: numbers of the lines of prose, in order.
    """
    parts = [(index, part) for index in prose for part in sentences(lines[index]) if not part.isspace()]
    groups = _groups([part for _, part in parts], config.min_words)
    sizes = Counter(groups)
    filled: Counter[int] = Counter()
    for in_row, run in groupby(zip(parts, groups, strict=True), key=lambda part: sizes[part[1]] > 1):
        found = list(run) if in_row else []
        least = 2 if len(found) >= _TWINS_IN_A_ROW else _TEMPLATE_LINES
        for (index, part), group in found:
            filled[index] += len(part) if sizes[group] >= least else 0
    chosen = {index for index, characters in filled.items() if 2 * characters > len(lines[index])}
    around = [len(chosen.intersection(prose[max(0, at - 3) : at] + prose[at + 1 : at + 4])) for at in range(len(prose))]
    short = [len(lines[index]) < _SHORT_CHARACTERS for index in prose]
    chosen.update(compress(prose, (at and count >= _TEMPLATES_AROUND for at, count in zip(short, around, strict=True))))
    return chosen.union(*_rows_of_addresses(prose, lines))


def _rows_of_addresses(prose: list[int], lines: list[str]) -> Iterator[list[int]]:
    for names_site, run in groupby(prose, key=lambda index: _is_address(lines[index])):
        if names_site and len(links := list(run)) >= _TEMPLATE_LINES:
            yield links


def _is_address(line: str) -> bool:
    return len(line) < _SHORT_CHARACTERS and _ADDRESS.search(line) is not None


def _groups(texts: list[str], min_words: int) -> list[int]:
    """The number of the group of each text: that of the nearest one before, of few, that has most words in common with it."""
    words = [(elements(text.lower()), is_spaced(text)) for text in texts]
    groups = list(range(len(texts)))
    for at, (own, spaced) in enumerate(words):
        least = _SHORT_OVERLAP if len(own) < min_words else _TEMPLATE_OVERLAP if spaced else _UNSPACED_OVERLAP
        for before in range(at - 1, max(-1, at - 1 - _TEMPLATE_WINDOW), -1):
            other = words[before][0]
            if (shared := len(own & other)) > least * (len(own) + len(other) - shared):
                groups[at] = groups[before]
                break
    return groups


def _in_place(verdicts: list[Verdict], lines: list[str], config: WebProseConfig) -> None:
    """Settle the open verdicts by what stands around them."""
    filled = [index for index, verdict in enumerate(verdicts) if verdict != "blank"]
    for previous, index in pairwise(filled):
        if verdicts[index] == "sentence" and verdicts[previous] == "prose":
            verdicts[index] = "prose"
    prose = [index for index in filled if verdicts[index] == "prose"]
    for index in _templates(prose, lines, config):
        verdicts[index] = "list"
    following: Verdict = "list"
    for index in reversed(filled):
        verdict = verdicts[index]
        if verdict == "sentence":
            verdicts[index] = "prose" if following == "prose" else "list"
        elif verdict == "part":
            leads = following == "prose" and lines[index].rstrip().endswith((":", "："))
            verdicts[index] = "prose" if leads else "list"
        elif verdict == "heading":
            verdicts[index] = "heading" if following in ("prose", "fence") else "list"
        following = verdicts[index] if verdicts[index] != "heading" else "list"
