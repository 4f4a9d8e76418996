"""Prose of marked-up text: paragraphs with their line, without code blocks, directives, tables and underlines."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline_lib.languages import scripts


class Paragraph(NamedTuple):
    """Consecutive lines of prose, spaces folded, and the line that they start at (from 1)."""

    text: str
    line: int
    words: int
    heading: bool = False  # of Markdown, or underlined


_FENCE = re.compile(r"\s*(```|~~~)")
_DIRECTIVE = re.compile(r"(\s*)\.\.(?:\s|$)")
_ADMONITION = re.compile(r"\s*\.\. (?:note|warning|tip|hint|important|caution|seealso|admonition)::\s*(.*)")
_RULE = re.compile(r"\s*[-=~^\"'`#*+_.:|\\ ]{3,}\s*$")  # underlines, separators, borders of tables
_TABLE = re.compile(r"\s*(?:\||\+[-=]+)")
_TAG = re.compile(r"\s*</?[a-zA-Z!][^>]*>?\s*$|\s*\[!\[|\s*\[[^\]]+\]:\s")  # HTML lines, badges, link targets
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,2}[.)]|\(?[a-z]\))\s+")
_FIELD = re.compile(r"\s*:[a-z][\w ,*|.\[\]]*:(?:\s|$)")
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ROLE = re.compile(r":[a-z][\w:+.-]*:`[~!]?([^`<]*)(?:<[^`>]*>)?`")
_REFERENCE = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")
_INLINE_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_EXAMPLE = (">>>", "$ ", "%timeit")
# What `_line` makes something of, at the start of a line: a block without any is prose from end to end, as most are. The
# pattern begins with one letter, which the regular expression engine looks for ten times as fast as for alternatives.
_MARKUP = re.compile(
    r"\n[ \t]*(?:[-=~^+|>#.:$%•\\]|[*`_\"']{3}|\*\s|<[a-zA-Z/!]|\[!?\[|\[[^\]]+\]:|\d{1,2}[.)]\s|\(?[a-z]\)\s)"
)
_SECTION = re.compile(r"[ \t]*(\w[^\n]*)\n[ \t]*(?:-{3,}|={3,})[ \t]*(?:\n|\Z)")
_EMPTY_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_INDENTS = re.compile(r"\n( *)(?=[^ \n])")


def docstring_paragraphs(value: str, line: int) -> list[Paragraph]:
    """The prose of a docstring, without examples and field lists.

    Args:
        value: the docstring as the language defines it.
        line: where it starts in its file.
    """
    text = value.lstrip()
    return paragraphs(_without_margin(text), line + value.count("\n", 0, len(value) - len(text)))


def paragraphs(text: str, line: int = 1, indented_code: bool = False) -> list[Paragraph]:
    """The paragraphs of Markdown, reStructuredText or plain text.

    Args:
        line: the file's line that the text starts at.
        indented_code: whether lines indented by four spaces after an empty one are code (Markdown), not prose.
    """
    scanner = _Scanner(indented_code)
    start = 0
    for separator in _EMPTY_LINES.finditer(text):
        scanner.block(text[start : separator.start()], line)
        line += text.count("\n", start, separator.end())
        start = separator.end()
    scanner.block(text[start:], line)
    return scanner.found


class _Scanner:
    """Goes over a text block by block (what lies between empty lines), and line by line only where markup shows."""

    def __init__(self, indented_code: bool) -> None:
        self.indented_code = indented_code
        self.found: list[Paragraph] = []
        self.pending: list[str] = []
        self.pending_line = 1
        self.fence = ""  # inside a fenced block: the marker that closes it
        self.margin = -1  # inside an indented block: the indentation that its lines exceed
        self.skipping = False  # to the end of this block

    def block(self, block: str, line: int) -> None:
        self.skipping = self.indented_code and not self.fence and block.startswith(("    ", "\t"))
        if not self.fence and self.margin < 0 and not self.skipping:
            if block.lstrip().startswith(">>>"):
                return
            section = _SECTION.match(block)  # a heading and its underline, as every NumPy docstring has several
            if section is not None:
                self.add(section.group(1), line, heading=True)
                block, line = block[section.end() :], line + 2
            if "::" not in block and _MARKUP.search("\n" + block) is None:
                self.add(block, line)
                return
        for number, content in enumerate(block.split("\n"), line):
            if content.strip():
                self.line(content, number)
        self.close()

    def line(self, line: str, number: int) -> None:
        content = line.strip()
        if self.fence:
            self.fence = "" if content.startswith(self.fence) else self.fence
            return
        indent = len(line) - len(line.lstrip())
        if self.margin >= 0 and indent <= self.margin:
            self.margin = -1
        if self.margin >= 0 or self.skipping:
            return
        prose, starts = _line(line, content)
        if starts:
            self.close()
        if prose is None:
            self.enter(line, content, indent)
            return
        if prose.endswith("::"):  # a literal block follows
            self.margin = indent
            prose = prose[:-1] if len(prose) > 2 else ""
        if prose:
            if not self.pending:
                self.pending_line = number
            self.pending.append(prose)
        if starts and _HEADING.match(line):
            self.close(heading=True)

    def enter(self, line: str, content: str, indent: int) -> None:
        """Skip what a line without prose announces."""
        if match := _FENCE.match(line):
            self.fence = match.group(1)
        elif _DIRECTIVE.match(line):
            self.margin = indent
        elif content.startswith(_EXAMPLE) or _FIELD.match(line):
            self.skipping = True  # an example's output, a field's description

    def close(self, heading: bool = False) -> None:
        """End the paragraph that is being collected."""
        if self.pending:
            self.add("\n".join(self.pending), self.pending_line, heading)
            self.pending = []

    def add(self, text: str, line: int, heading: bool = False) -> None:
        text = _without_inline(text)
        words = (text if text.isascii() else scripts.join_lines(text)).split()
        if words:
            self.found.append(Paragraph(" ".join(words), line, len(words), heading))


def _without_inline(text: str) -> str:
    """Take off emphasis, roles, tags and the targets of links."""
    if "[" in text:
        text = _LINK.sub(r"\1", _IMAGE.sub("", text))
    if "`" in text:
        text = _REFERENCE.sub(r"\1", _ROLE.sub(r"\1", text)) if ":`" in text or "<" in text else text
        text = text.replace("`", "")
    if "<" in text:
        text = _INLINE_TAG.sub("", text)
    return text.replace("**", "")


def _without_margin(text: str) -> str:
    """Take off the indentation that all lines but the first share."""
    if "\t" in text:
        text = text.expandtabs(8)
    margin = min(_INDENTS.findall(text), key=len, default="")
    return text.replace("\n" + margin, "\n") if margin else text


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
        or content.startswith(_EXAMPLE)
    ):
        return None, True
    if match := _HEADING.match(line):
        return content[match.end() - (len(line) - len(line.lstrip())) :].strip(" #"), True
    if match := _ITEM.match(line):
        return line[match.end() :].strip(), True
    return content.removeprefix("> "), False


_BOOK_BEGIN = re.compile(r"^\*\*\* ?START OF (?:THIS|THE) PROJECT GUTENBERG[^\n]*\n(?:[^\n]+\*\*\*[ \t]*\n)?", re.MULTILINE)
_BOOK_END = re.compile(
    r"^(?:\*\*\* ?END OF (?:THIS|THE) PROJECT GUTENBERG|End of (?:the )?Project Gutenberg(?:'s)? )[^\n]*", re.MULTILINE
)


def book_of(text: str) -> tuple[str, int]:
    """The book between Project Gutenberg's marks and the line that it begins at (from 1); any other text as it is."""
    if "PROJECT GUTENBERG" not in text:
        return text, 1
    begin = _BOOK_BEGIN.search(text)
    start = begin.end() if begin else 0
    end = _BOOK_END.search(text, start)
    return text[start : end.start() if end else len(text)], 1 + text.count("\n", 0, start)
