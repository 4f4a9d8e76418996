"""Prose from marked-up text: paragraphs with their line, without code blocks, directives, tables and underlines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Consecutive lines of prose, spaces folded, and the line that they start at (from 1)."""

    text: str
    line: int


_FENCE = re.compile(r"\s*(```|~~~)")
_DIRECTIVE = re.compile(r"(\s*)\.\.(?:\s|$)")
_ADMONITION = re.compile(r"\s*\.\. (?:note|warning|tip|hint|important|caution|seealso|admonition)::\s*(.*)")
_RULE = re.compile(r"\s*[-=~^\"'`#*+_.:|\\ ]{3,}\s*$")  # underlines, separators, borders of tables
_TABLE = re.compile(r"\s*(?:\||\+[-=]+)")
_TAG = re.compile(r"\s*</?[a-zA-Z!][^>]*>?\s*$|\s*\[!\[|\s*\[[^\]]+\]:\s")  # HTML lines, badges, link targets
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,2}[.)]|\(?[a-z]\))\s+")
_FIELD = re.compile(r"\s*:[a-z][\w ,*|.\[\]]*:(?:\s|$)")
_INLINE = (
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r":[a-z][\w:+.-]*:`[~!]?([^`<]*)(?:<[^`>]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), ""),
    (re.compile(r"``?|\*\*"), ""),
)
_MARKED = re.compile(r"[`<\[]|\*\*")


def docstring_paragraphs(value: str, line: int) -> list[Paragraph]:
    """The prose of a docstring, without examples and field lists.

    Args:
        value: the docstring as the language defines it.
        line: where it starts in its file.
    """
    lead = len(value) - len(value.lstrip("\n \t"))
    return paragraphs(inspect.cleandoc(value), line + value[:lead].count("\n"))


def paragraphs(text: str, line: int = 1, indented_code: bool = False) -> list[Paragraph]:
    """The paragraphs of Markdown, reStructuredText or plain text.

    Args:
        line: the file's line that the text starts at.
        indented_code: whether lines indented by four spaces after an empty one are code (Markdown), not prose.
    """
    found: list[Paragraph] = []
    pending: list[str] = []
    start = line
    for number, content, ends_before in _prose_lines(text, indented_code):
        if ends_before and pending:
            found.append(Paragraph(_plain(" ".join(pending)), start))
            pending = []
        if content:
            if not pending:
                start = line + number
            pending.append(content)
    if pending:
        found.append(Paragraph(_plain(" ".join(pending)), start))
    return [paragraph for paragraph in found if paragraph.text]


def _prose_lines(text: str, indented_code: bool) -> Iterator[tuple[int, str, bool]]:
    """(line from 0, its prose or nothing, whether a paragraph ends before it)."""
    fence = ""  # inside a fenced block: the marker that closes it
    block = -1  # inside an indented block: the indentation that it must exceed
    skipping = after_empty = False
    for number, line in enumerate(text.split("\n")):
        content = line.strip()
        if fence:
            fence = "" if content.startswith(fence) else fence
            continue
        if not content:
            skipping, after_empty = False, True
            yield number, "", True
            continue
        if block >= 0 and len(line) - len(line.lstrip()) <= block:
            block = -1
        if block >= 0 or skipping or (indented_code and after_empty and line.startswith(("    ", "\t"))):
            continue
        after_empty = False
        prose, ends_before = _line(line, content)
        if prose is not None:
            if prose.endswith("::"):  # a literal block follows
                block = len(line) - len(line.lstrip())
                prose = prose[:-1] if len(prose) > 2 else ""
            yield number, prose, ends_before
            if ends_before and _HEADING.match(line):
                yield number, "", True
            continue
        yield number, "", True
        if match := _FENCE.match(line):
            fence = match.group(1)
        elif match := _DIRECTIVE.match(line):
            block = len(match.group(1))
        elif content.startswith((">>>", "$ ", "%timeit")) or _FIELD.match(line):
            skipping = True  # to the next empty line: an example's output, a field's description


def _line(line: str, content: str) -> tuple[str | None, bool]:
    """The prose of one line, or None where it has none; and whether it starts a paragraph."""
    first = content[0]
    if first.isalpha() and not content.startswith("|"):
        return content, False
    if first == "." and (match := _ADMONITION.match(line)):
        return match.group(1), True
    if (
        _FENCE.match(line)
        or _DIRECTIVE.match(line)
        or _RULE.match(line)
        or _TABLE.match(line)
        or _TAG.match(line)
        or _FIELD.match(line)
        or content.startswith((">>>", "$ ", "%timeit"))
    ):
        return None, True
    if match := _HEADING.match(line):
        return content[match.end() - (len(line) - len(line.lstrip())) :].strip(" #"), True
    if match := _ITEM.match(line):
        return line[match.end() :].strip(), True
    return content.removeprefix("> "), False


def _plain(text: str) -> str:
    if _MARKED.search(text):
        for pattern, replacement in _INLINE:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())
