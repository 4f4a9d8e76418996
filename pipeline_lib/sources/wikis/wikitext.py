"""Wikitext to prose: what a reader of the page sees of its text, in time that grows with its length alone.

What is left open costs no words: a section ends all that it opens; an unclosed template loses its parameters, an unclosed table
its rows, an unclosed link or tag its marks. What is left out on purpose is counted by kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.sources.wikis.back_matter import is_back_matter
from pipeline_lib.sources.wikis.lines import cleaned_lines, without_emphasis
from pipeline_lib.sources.wikis.names import FILE, TEMPLATE, WikiNames, folded
from pipeline_lib.sources.wikis.templates import shown_by

# elements whose content is no prose, by the kind that it is counted as
_OMITTED = {
    "references": "ref references",
    "formulas": "math chem ce",
    "code": "pre syntaxhighlight source score timeline graph hiero templatedata templatestyles style script",
    "media": "gallery imagemap mapframe maplink slideshow inputbox categorytree indicator",
    "tables": "table",
    "templates": "includeonly",
}
_KINDS = {name: kind for kind, names in _OMITTED.items() for name in names.split()}
_ELEMENT = re.compile(rf"(?i)<!--|<\s?({'|'.join(_KINDS)}|nowiki|code)(?=[\s/>])([^<>]*)>")
_OF_WORDS = frozenset({"ref", "includeonly", "nowiki", "code"})  # left open, they lose the tag alone
_WITH_HEADINGS = frozenset({"code", "nowiki", *_OMITTED["code"].split()})
_MOST_NESTED = 10  # tables inside each other
_CODE_WORD = 100  # characters of a `code` that is a word of its sentence
_LITERAL_MARKS = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|\{\||\|\}|'{2,}|~{3,}|__|={2,}")
_SPECIAL = re.compile(r"[\[\]{}|'*#:;=<>~_-]")

_HEADING = re.compile(r"^=[^\n]+", re.MULTILINE)
_BRACES = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|\|")
_BRACKETS = re.compile(r"\[\[|\]\]|\|")
_OPEN_BLOCK = re.compile(r"^[ \t:*#]*\{\{[^\n|{}]{0,80}(?:\|[^\n]*)?(?:\n\s*[|}][^\n]*)+", re.MULTILINE)
_OPEN_TEMPLATE = re.compile(r"\{\{([^\n{}]*)(\}?)")
_OPEN_LINK = re.compile(r"\[\[([^\[\]\n]*)\]?")
_FILE_LINE = re.compile(r"^[ \t]*([^\s:|\[\]]{2,40}):[^\n|:]{1,200}\.\w{3,4}[ \t]*(?:\|[^\n]*)?$", re.MULTILINE)
_PARAMETER = re.compile(r"\s*[\w-]{1,30}(?: [\w-]{1,30})?\s*=")
_BEFORE_TABLE = " \t:*#;\u200e\u200f"
_EMPTY_LINES = re.compile(r"\n{3,}")


class Prose(NamedTuple):
    """Prose of a page, and what was left out of it, by kind."""

    text: str
    omitted: Counter[str]


def prose_of(wikitext: str, names: WikiNames | None = None, title: str = "") -> Prose:
    """The prose of a page as Markdown headings, lists and paragraphs.

    Kinds left out: templates (at the beginning of a line), inline_templates (of a sentence that may miss words), tables,
    references, formulas, code, media, categories, languages (links to the same page elsewhere), sections (of links).

    Args:
        names: namespaces of its wiki; None: the canonical ones alone.
        title: of the page, which its text may ask for.
    """
    page = _Page(names or _CANONICAL, title, 20 * len(wikitext) + 10_000)
    return Prose(page.prose(wikitext), page.omitted)


_CANONICAL = WikiNames()


class _Page:
    """One page on its way to prose: its elements, then by section its templates, tables, links and lines."""

    def __init__(self, names: WikiNames, title: str, joinable: int) -> None:
        self.names = names
        self.title = title
        self.joinable = joinable  # characters that may still be copied: nested text is copied at each level
        self.omitted: Counter[str] = Counter()

    def prose(self, wikitext: str) -> str:
        parts: list[str] = []
        skipping = 0  # the level of the heading whose section is left out
        for level, title, body in _sections(self.without_elements(wikitext)):
            if level and not (skipping and level > skipping):
                heading = " ".join(self.section(title).split())
                skipping = level if is_back_matter(heading, level) else 0
                if heading and not skipping:
                    parts.append(f"\n\n{'#' * level} {heading}\n\n")
            if not skipping:
                parts.append(self.section(body))
            elif body.strip():
                self.omitted["sections"] += 1
        return _EMPTY_LINES.sub("\n\n", "".join(parts)).strip()

    def without_elements(self, text: str) -> str:
        """The text without comments and elements that hold no prose."""
        parts: list[str] = []
        ends = _Ends(text)
        at = 0
        while (begin := _ELEMENT.search(text, at)) is not None:
            parts.append(text[at : begin.start()])
            shown, at = self.element(text, begin, ends)
            parts.append(shown)
        parts.append(text[at:])
        return "".join(parts)

    def element(self, text: str, begin: re.Match[str], ends: _Ends) -> tuple[str, int]:
        """What is shown of an element, and where the text goes on."""
        name = (begin.group(1) or "").lower()
        if not name:
            after = ends.of_comment(begin.end())
            alone = text[max(0, begin.start() - 1) : begin.start()] in ("", "\n") and text.startswith("\n", after)
            return "", after + alone
        if begin.group(2).rstrip().endswith("/"):
            end = after = begin.end()
        else:
            end, after = ends.of_element(name, begin.end())
        if end < 0:
            return "", begin.end() if name in _OF_WORDS else ends.of_block(begin.end())
        inner = text[begin.end() : end]
        if name == "nowiki":
            return _SPECIAL.sub(lambda mark: f"&#{ord(mark.group())};", _LITERAL_MARKS.sub("", inner)), after
        if name == "code" and len(inner) <= _CODE_WORD and "\n" not in inner:
            return "", begin.end()
        self.omitted[_KINDS.get(name, "code")] += 1
        return "", after

    def section(self, text: str) -> str:
        """The prose of a section's body or heading."""
        if "{{" in text or "}}" in text:
            text = self.without_templates(text)
        if "|" in text:
            text = self.without_tables(text)
        if "''" in text:  # before links, whose marks keep those of two words apart
            text = without_emphasis(text)
        if "[[" in text or "]]" in text:
            text = self.without_links(text)
        if "." in text and ":" in text:
            text = _FILE_LINE.sub(self.file_line, text)
        return cleaned_lines(text)

    def without_templates(self, text: str) -> str:
        """The text with what is shown of its templates; MediaWiki's own rule says which braces belong together."""
        out: list[str] = []
        open_: list[_Braces] = []
        at = 0
        for mark in _BRACES.finditer(text):
            out.append(text[at : mark.start()])
            at, sign = mark.end(), mark.group()
            if sign[0] == "}":
                self.close_braces(out, open_, len(sign))
                continue
            if sign[0] == "{":
                open_.append(_Braces(len(out), len(sign)))
            elif open_:
                open_[-1].note(sign, len(out))
            out.append(sign)
        out.append(text[at:])
        whole = "".join(out)
        if open_:
            whole = _OPEN_TEMPLATE.sub(self.open_template, _OPEN_BLOCK.sub(self.open_block, whole))
        return whole

    def close_braces(self, out: list[str], open_: list[_Braces], count: int) -> None:
        """Put in place of a template or parameter what is shown of it."""
        while count >= 2 and open_:
            braces = open_[-1]
            taken = 3 if count >= 3 and braces.count >= 3 else 2
            bounds = [braces.start, *braces.pipes, len(out)]
            shown = self.template(out, bounds) if taken == 2 else self.joined(out, bounds[1:])
            if taken == 2 and shown is None and len(open_) == 1:
                before = out[braces.start - 1].rstrip(" \t*:#;") if braces.start else ""
                self.omitted["templates" if not before or before.endswith("\n") else "inline_templates"] += 1
            count -= taken
            braces.count -= taken
            braces.pipes.clear()
            del out[braces.start + 1 :]
            out[braces.start] = "{" * braces.count if braces.count >= 2 else ""
            out.append(shown or "")
            if braces.count < 2:
                open_.pop()

    def joined(self, out: list[str], bounds: Sequence[int]) -> str:
        """The text between two marks; empty where too much is nested in itself."""
        text = "".join(out[bounds[0] + 1 : bounds[1]]) if len(bounds) > 1 else ""
        self.joinable -= len(text)
        return text if self.joinable >= 0 else ""

    def template(self, out: list[str], bounds: list[int]) -> str | None:
        """What is shown of a template, None where it is left out."""
        name = self.joined(out, bounds).strip()
        key, rest = self.names.split(name)
        show = shown_by(rest if key == TEMPLATE else name)
        return show([self.joined(out, pair) for pair in pairwise(bounds[1:])], self.title) if show else None

    def open_block(self, found: re.Match[str]) -> str:
        """Nothing is shown of a template that is left open and of the lines of its parameters."""
        self.omitted["templates"] += 1
        return ""

    def open_template(self, found: re.Match[str]) -> str:
        """The words behind what is left open: {{circa|1950 in a town."""
        *before, last = found.group(1).split("|")
        if found.group(2) or (before and _PARAMETER.match(last)):  # closed by a single brace
            last = ""
        if before or found.group(2):
            self.omitted["inline_templates"] += 1
        return last

    def without_tables(self, text: str) -> str:
        """The text without its tables, and without rows that belong to none or to one that is left open."""
        out: list[str] = []
        open_: list[int] = []
        closed = 0
        for whole in text.split("\n"):
            line = whole
            bare = line.lstrip(_BEFORE_TABLE)
            if bare.startswith("{|"):
                open_.append(len(out))
            elif bare.startswith("|}") and open_:
                del out[open_.pop() :]
                closed += not open_
                line = bare.lstrip("|}")
            out.append(line)
        first = open_[0] if open_ else len(out)
        kept = [
            line
            for at, line in enumerate(out)
            if not line.startswith("|") and not (at >= first and line.lstrip(_BEFORE_TABLE).startswith(("!", "{|", "|")))
        ]
        if closed or len(kept) < len(out):
            self.omitted["tables"] += closed + (len(kept) < len(out))
        return "\n".join(kept)

    def without_links(self, text: str) -> str:
        """The text with what is shown of its links; files, categories and the languages of the page show nothing."""
        out: list[str] = []
        open_: list[list[int]] = []
        at = 0
        for mark in _BRACKETS.finditer(text):
            out.append(text[at : mark.start()])
            at, sign = mark.end(), mark.group()
            if sign == "]]":
                if open_:
                    bounds = [*open_.pop(), len(out)]
                    parts = [self.joined(out, pair) for pair in pairwise(bounds)]
                    del out[bounds[0] :]
                    out.append(self.link(parts))
                continue
            if sign == "[[":
                open_.append([len(out)])
            elif open_:
                open_[-1].append(len(out))
            out.append(sign)
        out.append(text[at:])
        whole = "".join(out)
        return _OPEN_LINK.sub(self.open_link, whole) if open_ else whole

    def link(self, parts: list[str]) -> str:
        """What is shown of a link; one that runs on into the next paragraph was left open."""
        link = self.names.link(parts)
        if not link.omitted:
            return link.text
        self.omitted[link.omitted] += 1
        _, bound, rest = parts[-1].partition("\n\n")
        return bound + rest

    def open_link(self, found: re.Match[str]) -> str:
        """The words of a link that is left open, or of one closed by a single bracket."""
        text = found.group(1)
        return self.link(text.split("|")) + (" " if text.endswith(" ") else "") if "|" in text or ":" in text else text

    def file_line(self, found: re.Match[str]) -> str:
        """Nothing of a line that a gallery without an end leaves behind."""
        if self.names.keys.get(folded(found.group(1))) != FILE:
            return found.group()
        self.omitted["media"] += 1
        return ""


class _Braces:
    """Braces that are open: where they stand, how many they are, their pipes, and links that hide pipes."""

    __slots__ = ("count", "links", "pipes", "start")

    def __init__(self, start: int, count: int) -> None:
        self.start = start
        self.count = count
        self.pipes: list[int] = []
        self.links = 0

    def note(self, sign: str, place: int) -> None:
        """Come to a pipe, or to a mark of a link."""
        if sign != "|":
            self.links = max(0, self.links + (1 if sign == "[[" else -1))
        elif not self.links:
            self.pipes.append(place)


class _Ends:
    """Ends of a text's elements. A part of the text that is known to hold none is not searched again."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.none_before: dict[str, int] = {}  # by name: the place before which there is no end
        self.heading = -1

    def of_block(self, at: int) -> int:
        """The next empty line or heading."""
        heading = self.next_heading(at)
        end = self.text.find("\n\n", at, heading)
        return heading if end < 0 else end

    def of_comment(self, at: int) -> int:
        """Behind a comment; one that is left open ends with its paragraph."""
        if "" in self.none_before:
            return self.of_block(at)
        end = self.text.find("-->", at)
        if end >= 0:
            return end + 3
        self.none_before[""] = len(self.text)
        return self.of_block(at)

    def of_element(self, name: str, at: int) -> tuple[int, int]:
        """Where an element's content ends, and behind its end; -1 where it is left open: before the next heading, for most."""
        limit = len(self.text) if name in _WITH_HEADINGS else self.next_heading(at)
        depth = 0
        if at >= self.none_before.get(name, 0):
            for tag in _tags(name).finditer(self.text, at, limit):
                opens = not tag.group(1) and not tag.group(2)
                if tag.group(1):
                    if depth == 0:
                        return tag.start(), tag.end()
                    depth -= 1
                elif opens and name == "table":
                    depth += 1
                if depth > _MOST_NESTED or (opens and name == "ref"):  # no reference holds another
                    return -1, -1
            self.none_before[name] = limit
        return -1, -1

    def next_heading(self, at: int) -> int:
        """The next line that begins with two equals signs."""
        if self.heading < at:
            found = self.text.find("\n==", at)
            self.heading = len(self.text) if found < 0 else found
        return self.heading


@cache
def _tags(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)<\s?(/)\s?{name}\s*>|<{name}\b[^<>]*?(/?)>")


def _sections(text: str) -> Iterator[tuple[int, str, str]]:
    """Level and title of each heading and what stands below it; level 0 is the page's beginning."""
    level, title, start = 0, "", 0
    for found in _HEADING.finditer(text):
        line = found.group().rstrip()
        line = line[: line.find("{{")].rstrip() if line.endswith("}}") and "{{" in line else line  # an anchor
        inner = line.strip("=")
        opening, closing = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
        if inner.strip() and closing:
            yield level, title, text[start : found.start()]
            level, title, start = min(opening, closing, 6), inner, found.end()
    yield level, title, text[start:]
